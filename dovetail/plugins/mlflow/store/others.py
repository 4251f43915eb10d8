"""What is no adapter: models, prompts and webhooks, kept by MLflow's own store beside Dovetail's.

It has tables of its own: on SQLite in a second file, ``registry.mlflow.db`` beside ``registry.db``,
on PostgreSQL in the schema ``mlflow`` of the same database. They are made when they are first
needed; who has only adapters never has them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    bindparam,
    delete,
    func,
    inspect,
    literal,
    select,
    text,
)
from sqlalchemy.engine import URL

from dovetail.errors import InvalidInput
from dovetail.plugins.mlflow.problems import missing
from dovetail.registry import catalogue
from dovetail.registry.database import Database
from dovetail.registry.locking import lock_schema
from dovetail.registry.sqlite import read_only_url, use_write_ahead_log

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

SCHEMA = "mlflow"
"""Where the tables are on PostgreSQL."""

_TABLES = MetaData(schema=SCHEMA)  # as little of MLflow's as is asked for here
_IN_FILE: Any = {"schema_translate_map": {SCHEMA: None}}
_MODELS = Table("registered_models", _TABLES)
_VERSIONS = Table("model_versions", _TABLES, Column("name", String))
# Those that are compared with each other: all or none.
_NAMED = (
    "registered_models",
    "registered_model_tags",
    "registered_model_aliases",
    "model_versions",
    "model_version_tags",
)
_COLUMNS = Table(
    "columns",
    MetaData(),
    Column("table_schema", String),
    Column("table_name", String),
    Column("column_name", String),
    Column("collation_name", String),
    Column("character_maximum_length", Integer),
    schema="information_schema",
)
_ANY_MODEL = select(select(literal(1)).select_from(_MODELS).exists())
_HAS_VERSION = select(literal(1)).where(_VERSIONS.c.name == bindparam("of_name")).exists()
_ANY_VERSION = select(_HAS_VERSION)
_BOTH = select(catalogue.IS_ADAPTER, _HAS_VERSION)
_LAST_TABLE = select(func.to_regclass(f"{SCHEMA}.webhooks"))


class Others:
    """MLflow's own store, opened on first need.

    Args:
        database: Dovetail's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._opening = threading.Lock()
        self._store: SqlAlchemyStore | None = None

    @property
    def store(self) -> SqlAlchemyStore:
        """The store; its tables are made if they are not there."""
        if self._store is None:
            with self._opening:
                if self._store is None:
                    self._store = self._open()
        return self._store

    @property
    def exist(self) -> bool:
        """Whether the store was ever needed."""
        if self._store is not None:
            return True
        if self._file is not None:
            return self._file.exists()
        if not self._in_schema:
            return False
        with self._database.asking() as connection:
            return _are_there(connection)

    def hold_any(self, connection: Connection) -> bool:
        """Tell whether there is any model or prompt.

        Args:
            connection: To Dovetail's database, for reading. On PostgreSQL it is asked for MLflow's
                tables, too, and spares another transaction on another connection.
        """
        return self._finds(connection, _ANY_MODEL)

    def look_up(self, connection: Connection, name: str) -> tuple[bool, bool]:
        """Tell whether a name is an adapter's, and whether another model's ever had a version.

        Args:
            connection: As for `hold_any`.
            name: The name; a deleted version counts, too.
        """
        wanted = {"of_name": name}
        if self._in_schema and self._store is not None:
            found = connection.execute(_BOTH, wanted).one()
            return bool(found[0]), bool(found[1])
        is_adapter = catalogue.is_adapter(connection, name)
        return is_adapter, not is_adapter and self._finds(connection, _ANY_VERSION, **wanted)

    def find_model(self, name: str) -> RegisteredModel | None:
        """Return a model, or None if it is a prompt.

        Raises:
            MlflowException: There is no such model; status 404.
        """
        if not self.exist:
            raise missing(f"Registered Model with name={name} not found")
        model: RegisteredModel = self.store.get_registered_model(name)
        return None if model._is_prompt() else model  # noqa: SLF001 (MLflow has no other way to ask)

    def remove_empty_model(self, name: str) -> None:
        """Remove a model, unless it has a version by now, or is gone: an adapter took its place."""
        from mlflow.store.model_registry.dbmodels.models import (
            SqlModelVersion,
            SqlRegisteredModel,
            SqlRegisteredModelAlias,
            SqlRegisteredModelTag,
        )

        held = select(SqlModelVersion.version).where(SqlModelVersion.name == name).exists()
        with self.store.engine.begin() as connection:
            for kept in (SqlRegisteredModelTag, SqlRegisteredModelAlias, SqlRegisteredModel):
                connection.execute(delete(kept).where(kept.name == name, ~held))

    def close(self) -> None:
        """Close the database's connections."""
        if self._store is not None:
            self._store.engine.dispose()

    @cached_property
    def url(self) -> URL:
        """The database, or part of one, with MLflow's tables."""
        url = self._database.url
        if url.get_backend_name() != "sqlite":
            options = " ".join([*_several(url.query.get("options")), f"-csearch_path={SCHEMA}"])
            return url.update_query_dict({"options": options})
        if self._file is None:
            raise InvalidInput(
                "a registry in memory has no place for models that are no adapters; give MLflow a "
                "registry in a file: dovetail+sqlite:////path/to/registry.db"
            )
        return url.set(database=str(self._file))

    @cached_property
    def _file(self) -> Path | None:
        url = self._database.url
        if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
            return None
        file = Path(str(url.database)).absolute()
        return file.with_name(f"{file.name.removesuffix('.db')}.mlflow.db")

    @cached_property
    def _in_schema(self) -> bool:
        """Whether the tables are, or would be, in the same database as Dovetail's."""
        return self._database.url.get_backend_name() != "sqlite"

    def _finds(self, connection: Connection, query: Select[Any], **wanted: str) -> bool:
        if self._in_schema:
            if self._store is None and not _are_there(connection):
                return False
            return bool(connection.execute(query, wanted).scalar())
        if not self.exist:
            return False
        with self.store.engine.connect() as own:
            return bool(own.execute(query, wanted, execution_options=_IN_FILE).scalar())

    def _open(self) -> SqlAlchemyStore:
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

        if self._database.read_only and self._file is not None:
            # MLflow makes folders for files, of this URL, too, unless it names a driver.
            url = read_only_url(self._file).set(drivername="sqlite+pysqlite")
            return SqlAlchemyStore(url.render_as_string())
        address = self.url.render_as_string(hide_password=False)
        # Servers that start at once would all make the tables: one at a time.
        if self._file is None:
            with self._database.writing() as connection:
                lock_schema(connection)
                if not inspect(connection).has_schema(SCHEMA):
                    connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        with self._database.writing() as connection:
            lock_schema(connection)
            opened = SqlAlchemyStore(address)
            if self._in_schema:
                _sort_names_by_bytes(connection)
            else:
                with opened.engine.connect() as own:
                    use_write_ahead_log(own)
            return opened


def _are_there(connection: Connection) -> bool:
    """Tell whether MLflow's tables are in a PostgreSQL database."""
    return connection.execute(_LAST_TABLE).scalar() is not None


def _sort_names_by_bytes(connection: Connection) -> None:
    """Let names be in the same order as adapters', whatever language the database sorts by."""
    others = select(_COLUMNS.c.table_name, _COLUMNS.c.character_maximum_length).where(
        _COLUMNS.c.table_schema == SCHEMA,
        _COLUMNS.c.table_name.in_(_NAMED),
        _COLUMNS.c.column_name == "name",
        _COLUMNS.c.collation_name.is_distinct_from("C"),
    )
    for table, length in connection.execute(others).all():
        connection.execute(
            text(
                f'ALTER TABLE {SCHEMA}.{table} ALTER COLUMN name TYPE varchar({length}) COLLATE "C"'
            )
        )


def _several(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
