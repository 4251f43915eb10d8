"""What is special about SQLite: a file that is made on first use, one writer, a write-ahead log."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from dovetail.errors import StorageError

_KIND = 0xFF  # which error it is; the bits above say more of it

_BUSY_TIMEOUT_S = 60
_WRITE, _ALONE = "dovetail_write", "dovetail_alone"


class Sqlite:
    """SQLite's side of a `dovetail.registry.database.Database`.

    A writing transaction takes the write lock when it begins, so two writers never meet in the
    middle: the second waits. So nothing more is ever locked.

    Args:
        url: ``sqlite:///FILE``.
        json_deserializer: Reads JSON columns.
    """

    hint = "check that it is there, that you may write to it, and that the disk is not full"
    creates_itself = True

    def __init__(self, url: URL, *, json_deserializer: Any) -> None:
        self._url = url
        self._json_deserializer = json_deserializer
        name = url.database
        self._file = None if name in (None, "", ":memory:") else Path(str(name)).absolute()

    def make_engine(self) -> Engine:
        """Make the pool of connections; for a file that may not be written, read-only ones."""
        url = self._url
        if self.read_only and self._file is not None:
            url = read_only_url(self._file)
        engine = create_engine(
            url,
            connect_args={"timeout": _BUSY_TIMEOUT_S},
            json_deserializer=self._json_deserializer,
        )
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        return engine

    @property
    def missing(self) -> bool:
        """Whether the database is still to be made."""
        return self._file is not None and not self._file.exists()

    @property
    def read_only(self) -> bool:
        """Whether this process may not write the file, or not beside it."""
        file = self._file
        if file is None or not file.exists():
            return False
        return not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))

    def make_place(self, engine: Engine) -> None:
        """Make a new file and its folder, with the write-ahead log that it then keeps.

        Raises:
            StorageError: The folder cannot be made.
        """
        if self._file is not None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"cannot make the folder {str(self._file.parent)!r} for the registry: "
                    f"{error.strerror}; set DOVETAIL_DATABASE_URL to a place that you may write to",
                    url=self._url.render_as_string(),
                ) from error
        with engine.connect() as connection:
            use_write_ahead_log(connection)

    def for_reading(self, connection: Connection) -> Connection:
        """Give the connection what a reading transaction needs: SQLite reads one state anyway."""
        return connection

    def for_asking(self, connection: Connection) -> Connection:
        """Let a statement be a transaction of its own."""
        return connection.execution_options(**{_ALONE: True})

    def for_writing(self, connection: Connection, *, durable: bool) -> Connection:
        """Give the connection what a writing transaction needs."""
        return connection.execution_options(**{_WRITE: "FULL" if durable else "NORMAL"})

    def explain(self, error: BaseException) -> str | None:  # noqa: ARG002 (other databases use it)
        """Say what to do about an error of the driver, where that is known."""
        return None

    def denied(self, error: BaseException) -> bool:
        """Tell whether the file may not be written."""
        return getattr(error, "sqlite_errorcode", 0) & _KIND == sqlite3.SQLITE_READONLY

    def collided(self, error: BaseException) -> bool:  # noqa: ARG002 (other databases use it)
        """Tell whether a transaction failed only because of another one: here they wait."""
        return False


def _on_connect(connection: Any, _record: object) -> None:
    # The driver's own way of opening transactions is late and never immediate.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get(_ALONE):
        return
    synchronous = options.get(_WRITE)
    if synchronous is None:
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA synchronous = {synchronous}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def read_only_url(file: Path) -> URL:
    """Return the URL of a database file that may not be written."""
    # Without a write-ahead log beside it, the file is the whole database and cannot change under
    # us: `immutable` spares SQLite the lock files that it may not write.
    logged = file.with_name(f"{file.name}-wal").exists()
    mode = {"mode": "ro"} if logged else {"mode": "ro", "immutable": "1"}
    return URL.create("sqlite", database=file.as_uri(), query={**mode, "uri": "true"})


def use_write_ahead_log(connection: Connection) -> None:
    """Switch a database file to a write-ahead log, which it then keeps.

    Readers and the one writer do not wait for each other then, and a commit waits for the disk once
    instead of several times.

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
