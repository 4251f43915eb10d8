"""The connection to the SQL database: transactions, schema, and errors in our own words.

What differs between databases is in `dovetail.registry.sqlite` and `dovetail.registry.postgresql`;
every error of a driver becomes a `StorageError`.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dovetail.errors import AccessDenied, InvalidInput, StorageError
from dovetail.registry.locking import lock_schema
from dovetail.registry.schema import SCHEMA_REVISION

if TYPE_CHECKING:
    from dovetail.registry.postgresql import Postgresql
    from dovetail.registry.sqlite import Sqlite

_ATTEMPTS = 10
_DECODER: Any = json.JSONDecoder()
SECRETS = ("password", "sslpassword", "passfile")
"""What a URL may have behind the question mark that is nobody else's business."""
_PASSWORD = re.compile(r"(?<=//)[^/]*(?=@)|(?<=password=)[^&]*")
_EXAMPLES = (
    "write sqlite:////path/to/registry.db or postgresql+psycopg://USER@HOST/DATABASE?sslmode=…"
)

T = TypeVar("T")


class Database:
    """One database, opened once per process.

    Args:
        url: SQLAlchemy URL: ``sqlite:///FILE`` or ``postgresql+psycopg://USER@HOST/DATABASE``.
        pool_size: Connections that are kept open to a server.
        timeout_s: Longest time that a server may take for one statement, in seconds.

    Raises:
        InvalidInput: The URL is malformed or names a database that is not supported.
        MissingDependency: The database's driver is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 5,
        timeout_s: float = 60.0,
    ) -> None:
        self.url = _checked_url(url)
        self.read_only = False
        self._backend = _make_backend(self.url, pool_size=pool_size, timeout_s=timeout_s)
        self.engine = self._backend.make_engine()

    def prepare(self) -> None:
        """Make the schema in a new SQLite file; check it in any other database.

        Raises:
            StorageError: The schema is of another version, or the database cannot be opened.
        """
        if self._backend.missing:
            self._create()
        self.read_only = self._backend.read_only
        if self.read_only:
            self.engine.dispose()
            self.engine = self._backend.make_engine()
        found = self.revision()
        if found is None and self._backend.creates_itself and not self.read_only:
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
        before = None if self._backend.missing else self.revision()
        if before is None:
            self._create()
        elif before != SCHEMA_REVISION:
            self._step(before, "upgrade", "head")
        return before, self.revision()

    def downgrade(self) -> tuple[str, str | None]:
        """Take the last step of the schema back; return the revisions before and after.

        Raises:
            StorageError: There is no step to take back, or it would lose something.
        """
        from dovetail.migrations import first_revision

        before = None if self._backend.missing else self.revision()
        if before in (None, first_revision()):
            raise StorageError(
                f"the registry at {self.shown_url} has schema {before or 'none'}; there is none "
                "before it to go back to",
                found=before,
            )
        self._step(str(before), "downgrade", "-1")
        return str(before), self.revision()

    def differences(self) -> list[str]:
        """Compare tables and columns with what the code expects; return what differs."""
        from dovetail.migrations import differences
        from dovetail.registry.schema import Table

        with self.reading() as connection:
            return differences(connection, Table.metadata)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the database and changes nothing."""
        with self._errors("read"), self.engine.connect() as plain:
            connection = self._backend.for_reading(plain)
            with connection.begin():
                yield connection

    @contextmanager
    def asking(self) -> Iterator[Connection]:
        """Open a connection for a statement that changes nothing and needs no transaction.

        Several statements see the database as it is for each.
        """
        with self._errors("read"), self.engine.connect() as plain:
            yield self._backend.for_asking(plain)

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """Open a writing transaction; it commits when the block ends well.

        Args:
            durable: Whether what it writes must outlive a loss of power. What only running
                processes need to see is not worth waiting for the disk.
        """
        if self.read_only:
            raise AccessDenied(
                f"the registry at {self.shown_url} is read-only; use one that you may write to, "
                "or change the permissions of its folder",
                url=self.shown_url,
            )
        with self._errors("write"), self.engine.connect() as plain:
            connection = self._backend.for_writing(plain, durable=durable)
            with connection.begin():
                yield connection

    def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Do something in a writing transaction; again, if only another one was in its way.

        Args:
            work: What to do. It may run several times, each after the one before was rolled back.
            durable: As for `writing`.
        """
        try:
            return self._write_once(work, durable=durable)
        except StorageError as error:
            if not self._collided(error):
                raise
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._collided),
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.01, max=1),
            reraise=True,
        )
        result: T = retrying(self._write_once, work, durable=durable)
        return result

    def revision(self) -> str | None:
        """Return the schema's Alembic revision, or None where there is no schema."""
        with self.reading() as connection:
            return _revision(connection)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @property
    def shown_url(self) -> str:
        """The URL without its passwords."""
        return _shown(self.url)

    def _write_once(self, work: Callable[[Connection], T], *, durable: bool) -> T:
        with self.writing(durable=durable) as connection:
            return work(connection)

    def _collided(self, error: BaseException) -> bool:
        cause = error.__cause__
        return isinstance(cause, DBAPIError) and self._backend.collided(cause.orig or cause)

    def _create(self) -> None:
        with self._errors("create"):
            self._backend.make_place(self.engine)
        with self.writing() as connection:
            lock_schema(connection)
            if _revision(connection) is None:
                _migrate(connection, "upgrade", "head")

    def _step(self, before: str, verb: str, to: str) -> None:
        from alembic.util import CommandError

        try:
            with self.writing() as connection:
                lock_schema(connection)
                if _revision(connection) == before:  # nobody else was quicker
                    _migrate(connection, verb, to)
        except (CommandError, ValueError) as error:
            raise StorageError(
                f"cannot {verb} the registry at {self.shown_url} from schema {before}: {error}; "
                "use the version of dovetail that made it, or newer",
                found=before,
                expected=SCHEMA_REVISION,
            ) from error

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error, PoolTimeoutError) as error:
            cause = (error.orig or error) if isinstance(error, DBAPIError) else error
            told = " ".join(str(cause).split())
            kind = AccessDenied if self._backend.denied(cause) else StorageError
            raise kind(
                f"cannot {verb} the registry at {self.shown_url}: {told}; "
                f"{self._backend.explain(cause) or self._backend.hint}",
                url=self.shown_url,
            ) from error


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(connection: Connection, verb: str, to: str) -> None:
    # Alembic takes 0.2 s to import, and is needed once in a registry's life.
    from dovetail import migrations

    {"upgrade": migrations.upgrade, "downgrade": migrations.downgrade}[verb](connection, to)


def _make_backend(url: URL, *, pool_size: int, timeout_s: float) -> Sqlite | Postgresql:
    if url.get_backend_name() == "sqlite":
        from dovetail.registry.sqlite import Sqlite

        return Sqlite(url, json_deserializer=_read_json)
    from dovetail.registry.postgresql import Postgresql

    return Postgresql(url, json_deserializer=_read_json, pool_size=pool_size, timeout_s=timeout_s)


def _checked_url(url: str) -> URL:
    try:
        parsed = make_url(url)
        dialect = parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        shown = _PASSWORD.sub("***", url)
        raise InvalidInput(
            f"database URL {shown!r} cannot be used: {error}; {_EXAMPLES}", value=url
        ) from error
    if (dialect.name, dialect.driver) not in {("sqlite", "pysqlite"), ("postgresql", "psycopg")}:
        raise InvalidInput(
            f"database URL {_shown(parsed)!r}: {dialect.name} through "
            f"{dialect.driver} is not supported; {_EXAMPLES}",
            value=url,
        )
    return parsed


def _shown(url: URL) -> str:
    return url.difference_update_query(SECRETS).render_as_string(hide_password=True)


def _read_json(written: str | bytes) -> Any:
    """Read JSON as `json.loads` does, without its looking for space around the document."""
    text = written if isinstance(written, str) else written.decode()  # psycopg hands out bytes
    try:
        value, end = _DECODER.scan_once(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else json.loads(text)
