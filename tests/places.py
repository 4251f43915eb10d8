"""Places for registries, on files and on servers; `tests/conftest.py` gives them as fixtures."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, func, inspect, select, text
from sqlalchemy.pool import NullPool

from dovetail.registry.database import Database
from dovetail.registry.objects import LocalObjectStore, open_object_store
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

    def fill(self, model, *, again=False):
        """Become a copy of a registry that lies in a folder and does not change any more.

        Args:
            model: The folder.
            again: There is the schema and few rows: quicker than to copy a whole database.
        """
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(model, self.root)
        if self.databases:
            self.database.unlink()
            if again:
                _copy_rows(f"sqlite:///{model}/registry.db", self.server_url)
            else:
                self.databases.fill(self.server_url, model)
        if self.bucket:
            self.bucket.clear()
            target = open_object_store(self.urls[1])
            for blob in LocalObjectStore(self.objects).blobs():
                target.put(blob.digest, LocalObjectStore(self.objects).path(blob.digest))
            shutil.rmtree(self.objects, ignore_errors=True)


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
    """Databases for registries on a server, copies of templates that are each made once."""

    def __init__(self, server):
        self._server = server
        self._templates = {}

    def create(self):
        """Make a database with the schema and no rows; return its URL."""
        return self._server.url(self._server.create_database(template=self._template(None)))

    def fill(self, url, model):
        """Replace a database by a copy of the registry in a folder."""
        template = self._template(model)
        self.drop(url)
        self._server.create_database(_name(url), template=template)

    def drop(self, url):
        """Drop a database."""
        self._server.drop_database(_name(url))

    def _template(self, model):
        if model not in self._templates:
            name = self._server.create_database(template=self._template(None) if model else None)
            if model:
                _copy_rows(f"sqlite:///{model}/registry.db", self._server.url(name))
            else:
                database = Database(self._server.url(name))
                database.upgrade()
                database.close()
            self._templates[model] = name
        return self._templates[model]


def _name(url):
    return url.rpartition("/")[2]


def _connect(url):
    return create_engine(url, poolclass=NullPool).connect()


def _copy_rows(source_url, target_url):
    """Copy every row in place of those there are, and let the target's numbers go on after them."""
    with _connect(source_url) as source, _connect(target_url) as target:
        for table in reversed(Table.metadata.sorted_tables):
            target.execute(table.delete())
        for table in Table.metadata.sorted_tables:
            if rows := source.execute(select(table)).mappings().all():
                target.execute(table.insert(), [dict(row) for row in rows])
            counted = table.autoincrement_column
            if rows and counted is not None:
                sequence = func.pg_get_serial_sequence(table.name, counted.name)
                target.execute(
                    select(func.setval(sequence, select(func.max(counted)).scalar_subquery()))
                )
        target.commit()
