"""What is special about PostgreSQL: a pool of connections, time-outs, locks that must be taken."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError

from dovetail.errors import MissingDependency

_CONNECT_TIMEOUT_S = 10
_RECYCLE_S = 1800
_DEADLOCK, _SERIALIZATION = "40P01", "40001"
_TIMED_OUT, _NOT_ALLOWED, _READ_ONLY = "57014", "42501", "25006"


class Postgresql:
    """PostgreSQL's side of a `dovetail.registry.database.Database`.

    Reading transactions see one state (``REPEATABLE READ``, read-only). Writing ones are ``READ
    COMMITTED`` and take the locks of `dovetail.registry.locking`.

    Args:
        url: ``postgresql+psycopg://USER@HOST/DATABASE``; TLS as libpq says it: ``?sslmode=…``.
        json_deserializer: Reads JSON columns.
        pool_size: Connections that are kept open.
        timeout_s: Longest time for a statement, its waiting for locks included, in seconds.
    """

    hint = "check that the server runs, that the URL is right and that it lets you in"
    creates_itself = False
    missing = False
    read_only = False

    def __init__(
        self, url: URL, *, json_deserializer: Any, pool_size: int, timeout_s: float
    ) -> None:
        self._url = url
        self._json_deserializer = json_deserializer
        self._pool_size = pool_size
        self._timeout_s = timeout_s

    def make_engine(self) -> Engine:
        """Make the pool of connections; none is opened yet.

        Raises:
            MissingDependency: psycopg is not installed.
        """
        try:
            import psycopg  # noqa: F401 (SQLAlchemy imports it by name)
        except ImportError as error:
            raise MissingDependency(
                "PostgreSQL needs psycopg; install it with: pip install 'dovetail[postgres]'",
                package="psycopg",
            ) from error
        engine = create_engine(
            self._url,
            connect_args={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "application_name": "dovetail",
                **self._url.query,
            },
            json_deserializer=self._json_deserializer,
            # A part of a document is then written as SQLite hands it out: `["a","b"]`.
            json_serializer=partial(json.dumps, separators=(",", ":")),
            pool_size=self._pool_size,
            pool_timeout=self._timeout_s,
            pool_pre_ping=True,
            pool_recycle=_RECYCLE_S,
        )
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "checkout", _on_checkout)
        return engine

    def make_place(self, engine: Engine) -> None:
        """Do nothing: databases are made by who looks after the server."""

    def for_reading(self, connection: Connection) -> Connection:
        """Let the transaction see one state, and change nothing."""
        return connection.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    def for_asking(self, connection: Connection) -> Connection:
        """Spare the server the beginning and the end of a transaction."""
        return connection.execution_options(isolation_level="AUTOCOMMIT")

    def for_writing(self, connection: Connection, *, durable: bool) -> Connection:
        """Let the transaction lock; one that need not last does not wait for the disk."""
        if not durable:
            event.listen(connection, "begin", _do_not_wait, once=True)
        return connection

    def explain(self, error: BaseException) -> str | None:
        """Say what to do about an error of the driver, where that is known."""
        state = getattr(error, "sqlstate", None)
        if state == _TIMED_OUT:
            return (
                f"it took longer than {self._timeout_s:g} s; try again, or set "
                "DOVETAIL_DATABASE_TIMEOUT to more seconds"
            )
        if state == _NOT_ALLOWED:
            return (
                "your database user may not do this; ask an administrator for another of the "
                "roles that `dovetail db roles` shows"
            )
        return None

    def denied(self, error: BaseException) -> bool:
        """Tell whether the database's user may not do what was asked."""
        return getattr(error, "sqlstate", None) in (_NOT_ALLOWED, _READ_ONLY)

    def collided(self, error: BaseException) -> bool:
        """Tell whether a transaction failed only because of another one."""
        return getattr(error, "sqlstate", None) in (_DEADLOCK, _SERIALIZATION)

    def _on_connect(self, connection: Any, record: Any) -> None:
        record.info["pid"] = os.getpid()
        # Not among the connection's options, which connection poolers refuse.
        connection.autocommit = True
        connection.execute(f"SET statement_timeout = {int(self._timeout_s * 1000)}")
        # Compiling takes longer than what is read here: pages, by way of an index.
        connection.execute("SET jit = off")
        # Moments then come as UTC, and are not converted one by one.
        connection.execute("SET timezone = 'UTC'")
        connection.autocommit = False


def _on_checkout(_connection: Any, record: Any, fairy: Any) -> None:
    """Leave a connection that was opened before a fork to the process that opened it."""
    if record.info["pid"] != os.getpid():
        record.dbapi_connection = fairy.dbapi_connection = None
        raise DisconnectionError("the connection belongs to another process")


def _do_not_wait(connection: Connection) -> None:
    connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
