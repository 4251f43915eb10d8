"""Places for registries, on files and on servers; `tests/conftest.py` gives them as fixtures."""

import functools
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, inspect, select, text
from sqlalchemy.pool import NullPool

from dovetail.registry.database import Database
from dovetail.registry.schema import Table
from dovetail.registry.store import Registry


@dataclass(frozen=True)
class Place:
    """Where a registry's parts lie: all in one folder, but for what is on a server."""

    root: Path
    server_url: str | None = None
    """The database's URL, where it is on a server."""
    bucket: Any = None
    """Where the blobs are, if not in the folder."""
    databases: "Databases | None" = None
    """Who made the database on the server."""

    @property
    def database(self):
        """SQLite's file."""
        return self.root / "registry.db"

    @property
    def objects(self):
        """The folder of blobs."""
        return self.root / "objects"

    @property
    def cache(self):
        """The cache folder."""
        return self.root / "cache"

    @property
    def urls(self):
        """The database's and the object store's URL."""
        return (
            self.server_url or f"sqlite:///{self.database}",
            self.bucket.url if self.bucket else self.objects.as_uri(),
        )

    @property
    def options(self):
        """The command line's options for this registry."""
        return ["--database-url", self.urls[0], "--objects-url", self.urls[1]]

    def open(self, *, actor="tester"):
        """Open the registry."""
        return Registry.open(*self.urls, cache_dir=self.cache, actor=actor)

    def rows(self):
        """Return every row of every table."""
        with _connect(self.urls[0]) as connection:
            tables = sorted(inspect(connection).get_table_names())
            return {
                table: sorted(map(repr, connection.execute(text(f'SELECT * FROM "{table}"'))))  # noqa: S608
                for table in tables
            }

    def files(self):
        """Return path, size and hash of everything among the blobs."""
        if self.bucket:
            return sorted(
                (key, len(data), hashlib.sha256(data).hexdigest())
                for key, data in self.bucket.contents().items()
            )
        return sorted(
            (
                str(path.relative_to(self.objects)),
                path.stat().st_size if path.is_file() else 0,
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder",
            )
            for path in self.objects.rglob("*")
        )

    def state(self):
        """Return all that the registry holds."""
        return self.rows(), self.files()

    def execute(self, statement, *values):
        """Change the database behind the registry's back; a question mark stands for a value."""
        if self.server_url:
            statement = statement.replace("?", "%s")
        with _connect(self.urls[0]) as connection:
            count = connection.exec_driver_sql(statement, values).rowcount
            connection.commit()
        return count

    def fill(self, model):
        """Become a copy of a registry that lies in a folder and does not change any more.

        Args:
            model: The folder.
        """
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(model, self.root)
        if self.databases:
            self.database.unlink()
            self.databases.fill(self.server_url, model)
        if self.bucket:
            shutil.rmtree(self.objects, ignore_errors=True)
            self.bucket.fill(model / self.objects.name)


class Places:
    """Places of one kind for one test, whose parts on servers go when it ends.

    Args:
        databases: Makes their databases; SQLite's files without it.
        s3: The server for their blobs; folders without it.
    """

    def __init__(self, *, databases=None, s3=None):
        self._databases = databases
        self._s3 = s3
        self._made = []

    def make(self, root):
        """Make a place for a registry, with nothing in it yet."""
        made = Place(
            root,
            self._databases.create() if self._databases else None,
            self._s3.bucket() if self._s3 else None,
            self._databases,
        )
        self._made.append(made)
        return made

    def close(self):
        """Remove what they have on servers."""
        for place in self._made:
            if place.databases:
                place.databases.drop(place.server_url)
            if place.bucket:
                place.bucket.clear()


class Databases:
    """Databases for registries on a server, copies of a template that is made once."""

    def __init__(self, server):
        self._server = server
        self._rows = {}

    def create(self):
        """Make a database with the schema and no rows; return its URL."""
        return self._server.url(self._server.create_database(template=self._template))

    def fill(self, url, model):
        """Give a database with the schema the rows of a registry in a folder, and no others."""
        if model not in self._rows:
            self._rows[model] = self._dump(model)
        with _talk(url) as connection:
            connection.execute(_REMOVE_ALL)
            for table, data in self._rows[model]:
                with connection.cursor().copy(f'COPY "{table}" FROM STDIN') as copy:
                    copy.write(data)
            connection.execute(_COUNT_ON)

    def drop(self, url):
        """Drop a database."""
        self._server.drop_database(_name(url))

    def _dump(self, model):
        """Return the rows of a registry in a folder, by table, as this server writes them."""
        url = self.create()
        with _connect(f"sqlite:///{model}/registry.db") as source, _connect(url) as target:
            for table in Table.metadata.sorted_tables:
                if rows := source.execute(select(table)).mappings().all():
                    target.execute(table.insert(), [dict(row) for row in rows])
            target.commit()
        dumped = []
        with _talk(url) as connection:
            for table in Table.metadata.sorted_tables:
                with connection.cursor().copy(f'COPY "{table.name}" TO STDOUT') as copy:
                    dumped.append((table.name, b"".join(copy)))
        self.drop(url)
        return [(table, data) for table, data in dumped if data]

    @functools.cached_property
    def _template(self):
        name = self._server.create_database()
        database = Database(self._server.url(name))
        database.upgrade()
        database.close()
        return name


_TABLES = {table.name: table.autoincrement_column for table in Table.metadata.sorted_tables}
# Each is many statements that are sent as one; the names are our own.
_REMOVE_ALL = ";".join(
    [
        "DROP SCHEMA IF EXISTS mlflow CASCADE",  # where MLflow's own tables are, if it was asked
        *(f'DELETE FROM "{table}"' for table in reversed(_TABLES)),  # noqa: S608
    ]
)
_COUNT_ON = ";".join(
    f"SELECT setval(pg_get_serial_sequence('{table}', '{number.name}'), "  # noqa: S608
    f'coalesce(max({number.name}), 1), max({number.name}) IS NOT NULL) FROM "{table}"'
    for table, number in _TABLES.items()
    if number is not None
)


def _name(url):
    return url.rpartition("/")[2]


def _talk(url):
    """Connect to PostgreSQL without SQLAlchemy, which asks much before its first statement."""
    import psycopg

    return psycopg.connect(url.replace("+psycopg", ""))


def _connect(url):
    return create_engine(url, poolclass=NullPool).connect()
