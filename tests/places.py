"""A place for a registry, and processes that use it; `tests/conftest.py` gives them as fixtures."""

import hashlib
import json
import os
import signal
import sqlite3
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dovetail.registry.store import Registry

_LIMIT_S = 300  # a child that waits for what never comes ends by itself


@dataclass(frozen=True)
class Place:
    """Where a registry's parts lie."""

    root: Path

    @property
    def database(self):
        """The database file."""
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
        return f"sqlite:///{self.database}", self.objects.as_uri()

    @property
    def options(self):
        """The command line's options for this registry."""
        return ["--database-url", self.urls[0], "--objects-url", self.urls[1]]

    def open(self, *, actor="tester"):
        """Open the registry."""
        return Registry.open(*self.urls, cache_dir=self.cache, actor=actor)

    def rows(self):
        """Return every row of every table, as SQL."""
        connection = sqlite3.connect(self.database)
        try:
            return "\n".join(connection.iterdump())
        finally:
            connection.close()

    def files(self):
        """Return path, size and hash of everything in the folder of blobs."""
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
        """Change the database behind the registry's back."""
        connection = sqlite3.connect(self.database)
        try:
            with connection:
                return connection.execute(statement, values).rowcount
        finally:
            connection.close()


@dataclass(frozen=True)
class Child:
    """What became of a forked process: what it returned, its exit code or the signal."""

    result: object
    code: int


class Children:
    """Functions that run in forked processes, which may be killed or given fewer rights.

    No connection to a database may be open when a process is forked: SQLite forbids it.
    """

    def __init__(self, folder):
        self._folder = folder
        self._count = 0

    def run(self, function: Callable[[], object]):
        """Run one function in a process of its own."""
        return self.run_all([function])[0]

    def run_all(self, functions):
        """Run functions at once, each in its own process, released at the same moment."""
        reader, writer = os.pipe()
        started = []
        for function in functions:
            self._count += 1
            answer = self._folder / f"answer-{self._count}"
            descriptor = os.open(answer, os.O_RDWR | os.O_CREAT, 0o666)
            started.append((self._fork(function, descriptor, reader, writer), answer))
            os.close(descriptor)
        os.close(reader)
        os.close(writer)  # everybody waits for the end of this pipe
        return [self._wait(pid, answer) for pid, answer in started]

    def _fork(self, function, descriptor, reader, writer):
        with warnings.catch_warnings():
            # From Python 3.12 on, for the threads of numpy's linear algebra.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid:
            return pid
        try:
            signal.alarm(_LIMIT_S)
            os.close(writer)
            os.read(reader, 1)
            os.write(descriptor, json.dumps(function()).encode())
        except BaseException:  # noqa: BLE001 (a child must never get back into pytest)
            os.write(descriptor, json.dumps({"traceback": traceback.format_exc()}).encode())
            os._exit(1)
        os._exit(0)

    def _wait(self, pid, answer):
        _, status = os.waitpid(pid, 0)
        text = answer.read_text()
        answer.unlink()
        return Child(json.loads(text) if text else None, os.waitstatus_to_exitcode(status))
