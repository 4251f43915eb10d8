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
from typing import TYPE_CHECKING

from sqlalchemy import delete, inspect, select, text
from sqlalchemy.engine import URL

from dovetail.errors import InvalidInput
from dovetail.plugins.mlflow.store.problems import missing
from dovetail.registry.database import Database
from dovetail.registry.locking import lock_schema

if TYPE_CHECKING:
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

SCHEMA = "mlflow"
"""Where the tables are on PostgreSQL."""


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
        with self._database.reading() as connection:
            return inspect(connection).has_table("webhooks", schema=SCHEMA)

    def hold_any(self) -> bool:
        """Tell whether there is any model or prompt."""
        if not self.exist:
            return False
        from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel

        with self.store.engine.connect() as connection:
            return connection.execute(select(SqlRegisteredModel.name).limit(1)).first() is not None

    def is_empty_model(self, name: str) -> bool:
        """Tell whether a model never had a version, and is no prompt.

        Raises:
            MlflowException: There is no such model; status 404.
        """
        from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

        if not self.exist:
            raise missing(f"Registered Model with name={name} not found")
        query = select(SqlModelVersion.version).where(SqlModelVersion.name == name).limit(1)
        with self.store.engine.connect() as connection:
            if connection.execute(query).first() is not None:
                return False
        return not self.store.get_registered_model(name)._is_prompt()  # noqa: SLF001 (MLflow has no other way to ask)

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
            for table in (SqlRegisteredModelTag, SqlRegisteredModelAlias, SqlRegisteredModel):
                connection.execute(delete(table).where(table.name == name, ~held))

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

    def _open(self) -> SqlAlchemyStore:
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

        address = self.url.render_as_string(hide_password=False)
        if self._database.read_only:
            return SqlAlchemyStore(address)
        # Servers that start at once would all make the tables: one at a time.
        if self._file is None:
            with self._database.writing() as connection:
                lock_schema(connection)
                if not inspect(connection).has_schema(SCHEMA):
                    connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        with self._database.writing() as connection:
            lock_schema(connection)
            return SqlAlchemyStore(address)


def _several(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
