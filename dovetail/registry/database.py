"""The connection to the SQL database: engine, transactions, schema check.

SQLite takes the write lock when a writing transaction begins, so two writers never meet in the
middle: the second waits. Every error of the driver becomes a `StorageError`.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from dovetail.errors import InvalidInput, StorageError
from dovetail.registry.schema import SCHEMA_REVISION

_BUSY_TIMEOUT_S = 60
_WRITE = "dovetail_write"
_DECODER: Any = json.JSONDecoder()
_PASSWORD = re.compile(r"//[^/]*@")


class Database:
    """One database, opened once per process.

    Args:
        url: SQLAlchemy URL: ``sqlite:///FILE``.

    Raises:
        InvalidInput: The URL is malformed or names a database that is not supported.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked_url(url)
        self.read_only = False
        self.engine = self._make_engine()

    def prepare(self) -> None:
        """Make the schema in a new SQLite file; check it in any other database.

        Raises:
            StorageError: The schema is of another version, or the database cannot be opened.
        """
        if self._file and not self._file.exists():
            self._create()
        self.read_only = self._file is not None and _is_read_only(self._file)
        if self.read_only:
            self.engine.dispose()
            self.engine = self._make_engine()
        found = self.revision()
        if found is None and not self.read_only:
            self._create()
            found = self.revision()
        if found != SCHEMA_REVISION:
            raise StorageError(
                f"the registry at {self.shown_url} has schema {found or 'none'}, this version of "
                f"dovetail works with {SCHEMA_REVISION}; run: dovetail db upgrade",
                found=found,
                expected=SCHEMA_REVISION,
            )

    def upgrade(self) -> tuple[str | None, str | None]:
        """Bring the schema to the newest version; return the revisions before and after.

        Raises:
            StorageError: The database cannot be changed, or its schema is none that we know.
        """
        is_new = self._file is not None and not self._file.exists()
        before = None if is_new else self.revision()
        if before is None:
            self._create()
        else:
            self._step_up(before)
        return before, self.revision()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the database and changes nothing."""
        with self._errors("read"), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that holds the write lock; it commits when the block ends well."""
        if self.read_only:
            raise StorageError(
                f"the registry at {self.shown_url} is read-only; use one that you may write to, "
                "or change the permissions of its folder",
                url=self.shown_url,
            )
        with self._errors("write"), self.engine.connect() as plain:
            connection = plain.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection

    def revision(self) -> str | None:
        """Return the schema's Alembic revision, or None where there is no schema."""
        with self.reading() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    @property
    def _file(self) -> Path | None:
        name = self.url.database
        if self.url.get_backend_name() != "sqlite" or name in (None, "", ":memory:"):
            return None
        return Path(str(name)).absolute()

    def _make_engine(self) -> Engine:
        url = self.url
        arguments: dict[str, Any] = {"timeout": _BUSY_TIMEOUT_S}
        if self.read_only and self._file is not None:
            # Without a write-ahead log beside it, the file is the whole database and cannot
            # change under us: `immutable` spares SQLite the lock files that it may not write.
            logged = self._file.with_name(f"{self._file.name}-wal").exists()
            mode = {"mode": "ro"} if logged else {"mode": "ro", "immutable": "1"}
            url = URL.create("sqlite", database=self._file.as_uri(), query={**mode, "uri": "true"})
        engine = create_engine(url, connect_args=arguments, json_deserializer=_read_json)
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        return engine

    def _create(self) -> None:
        if self._file:
            self._make_folder(self._file)
        with self._errors("create"), self.engine.connect() as connection:
            _use_write_ahead_log(connection)
        with self.writing() as connection:
            if not inspect(connection).has_table("alembic_version"):
                _upgrade(connection)

    def _step_up(self, before: str) -> None:
        from alembic.util import CommandError

        try:
            with self.writing() as connection:
                _upgrade(connection)
        except CommandError as error:
            raise StorageError(
                f"cannot upgrade the registry at {self.shown_url} from schema {before} to "
                f"{SCHEMA_REVISION}: {error}; use the version of dovetail that made it, or newer",
                found=before,
                expected=SCHEMA_REVISION,
            ) from error

    def _make_folder(self, file: Path) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder {str(file.parent)!r} for the registry: {error.strerror}; "
                "set DOVETAIL_DATABASE_URL to a place that you may write to",
                url=self.shown_url,
            ) from error

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise StorageError(
                f"cannot {verb} the registry at {self.shown_url}: {cause}; check that it is "
                "there, that you may write to it, and that the disk is not full",
                url=self.shown_url,
            ) from error


def _upgrade(connection: Connection) -> None:
    # Alembic takes 0.2 s to import, and is needed once in a registry's life.
    from dovetail.migrations import upgrade

    upgrade(connection)


def _checked_url(url: str) -> URL:
    try:
        parsed = make_url(url)
        dialect = parsed.get_dialect().name
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        shown = _PASSWORD.sub("//***@", url)
        raise InvalidInput(
            f"database URL {shown!r} cannot be used: {error}; write sqlite:////path/to/registry.db",
            value=url,
        ) from error
    if dialect != "sqlite":
        raise InvalidInput(
            f"database URL {parsed.render_as_string()!r}: {dialect} is not supported; "
            "write sqlite:////path/to/registry.db",
            value=url,
        )
    return parsed


def _is_read_only(file: Path) -> bool:
    """Tell whether this process may not write the file, or not beside it."""
    return file.exists() and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))


def _read_json(text: str) -> Any:
    """Read JSON as `json.loads` does, without its looking for space around the document."""
    try:
        value, end = _DECODER.scan_once(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else json.loads(text)


def _on_connect(connection: Any, _record: object) -> None:
    # The driver's own way of opening transactions is late and never immediate.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_write_ahead_log(connection: Connection) -> None:
    """Switch the file to a write-ahead log, which it then keeps.

    Two processes that make the same new registry meet here; SQLite answers one of them with
    "locked" at once, whatever the time-out.
    """
    import tenacity

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_locked),
        stop=tenacity.stop_after_delay(_BUSY_TIMEOUT_S),
        wait=tenacity.wait_random(0.01, 0.1),
        reraise=True,
    )
    # The driver's own connection, because SQLAlchemy's would open a transaction first; so its
    # errors are the driver's own, too.
    driver: Any = connection.connection.driver_connection
    retrying(driver.execute, "PRAGMA journal_mode = WAL")


def _is_locked(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what extended codes add
    return isinstance(error, sqlite3.OperationalError) and code in {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    }
