"""Moving adapters to S3 and back, against bare boto3 that verifies nothing.

The peer is what people write: `upload_file` or `download_file`, one file after the other, with the
default transfer configuration, and of each adapter the weights only. Dovetail moves an adapter's
three files, hashes every byte, and writes to the database, or for the rows that say so does only
the object store's part, with the same files as the peer. Each push is of bytes that the server
does not have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.making import BYTES_PER_RANK, make_adapter, make_base, renew
from benchmarks.measuring import Times, interleave
from benchmarks.report import Report, Row
from benchmarks.servers import first_of
from dovetail import AdapterVersion, Registry
from dovetail.registry.database import Database
from dovetail.registry.digests import digest_file
from dovetail.registry.folder import WEIGHTS_FILE
from dovetail.registry.objects import ObjectStore, open_object_store
from dovetail.registry.objects.transfer import fetch_all, put_all
from dovetail.settings import Settings

_MB = 10**6
_UPLOAD = "boto3 upload_file"
_DOWNLOAD = "boto3 download_file"


def run(*, quick: bool) -> Report:
    """Measure; quickly, on little and on moto, or properly and on radosgw."""
    cases = [(1, 9, 0.95, 1), (3, 1, 1.5, 1)] if quick else [(1, 100, 0.95, 15), (200, 2, 1.5, 5)]
    kinds = ["MotoServer"] if quick else ["RadosGateway", "MotoServer"]
    rows = []
    with first_of(*kinds) as server, patch.dict(os.environ, server.environment if server else {}):
        if server is None:
            raise SystemExit("storage needs radosgw, or moto: pip install -e '.[dev]'")
        for count, megabytes, goal, rounds in cases:
            with _opened(server, count, megabytes * _MB) as bench:
                what = f"{count} of {megabytes} MB"
                rows += [
                    *_push(bench, what, goal, rounds),
                    *_pull(bench, what, goal, rounds),
                    _pull_again(bench, what, 20 * rounds),
                ]
        kind = type(server).__name__
    return Report(
        name="storage",
        setting=f"{kind} on this machine, in memory, with the client on the same "
        f"{os.cpu_count()} cores; files on a disk, in the page cache. boto3 moves one file after "
        "the other and verifies nothing.",
        rows=rows,
        versions={"boto3": version("boto3")},
    )


class _Counting:
    """An object store that counts what is asked of it.

    Args:
        objects: The store.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self.url = objects.url
        self.calls = 0
        self._objects = objects

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        return getattr(self._objects, name)


class _Bench:
    """A registry on S3, a bare client of the same server, and adapters."""

    def __init__(self, place: Path, server: Any, count: int, size: int) -> None:
        self.base = make_base(place / "base")
        rank = size // BYTES_PER_RANK
        self.adapters = [
            make_adapter(place / "adapters" / str(number), number, rank=rank)
            for number in range(count)
        ]
        bucket = server.bucket()
        self.bucket, self.client = bucket.name, bucket.client()
        self.objects = open_object_store(f"{bucket.url}/ours")
        self.counting: Any = _Counting(self.objects)
        self.cache, self.target = place / "cache", place / "target"
        url = f"sqlite:///{place / 'registry.db'}"
        settings = Settings.from_env(
            database_url=url, objects_url=self.objects.url, cache_dir=self.cache, actor="bench"
        )
        database = Database(url)
        database.prepare()
        self.registry = Registry(database, self.counting, settings)
        self.registry.register_base(self.base)

    def close(self) -> None:
        """Close what is open."""
        self.registry.close()
        self.client.close()

    def renew(self) -> None:
        """Remove what was pushed from the server, and make all adapters new to it."""
        self.objects.delete_many(self._digests())
        for number in range(len(self.adapters)):
            self.client.delete_object(Bucket=self.bucket, Key=f"theirs/{number}")
        for adapter in self.adapters:
            renew(adapter)
        self.sources = dict(zip(self._digests(), self._weights(), strict=True))

    def register(self) -> list[AdapterVersion]:
        """Register every adapter, one after the other."""
        return [
            self.registry.register(f"adapter-{number:03}", path, base=self.base).version
            for number, path in enumerate(self.adapters)
        ]

    def put(self) -> None:
        """Do the object store's part."""
        put_all(self.objects, self.sources)

    def upload(self) -> None:
        """Do what people do without a registry."""
        for number, file in enumerate(self._weights()):
            self.client.upload_file(str(file), self.bucket, f"theirs/{number}")

    def forget(self) -> None:
        """Remove what was pulled."""
        for folder in (self.cache, self.target):
            shutil.rmtree(folder, ignore_errors=True)
        self.target.mkdir()

    def fetch(self, versions: list[AdapterVersion]) -> None:
        """Do the object store's part."""
        weights = [_weights_of(found) for found in versions]
        wanted = [(file.digest, file.size, self.target / file.digest) for file in weights]
        fetch_all(self.objects, wanted)

    def download(self, versions: list[AdapterVersion]) -> None:
        """Do what people do without a registry."""
        for found in versions:
            digits = _weights_of(found).digest.removeprefix("sha256:")
            key = f"ours/sha256/{digits[:2]}/{digits[2:]}"
            self.client.download_file(self.bucket, key, str(self.target / digits))

    def _weights(self) -> list[Path]:
        return [adapter / WEIGHTS_FILE for adapter in self.adapters]

    def _digests(self) -> list[str]:
        return [digest_file(path) for path in self._weights()]


@contextmanager
def _opened(server: Any, count: int, size: int) -> Iterator[_Bench]:
    with (
        tempfile.TemporaryDirectory(prefix="dovetail-bench-") as place,
        contextlib.closing(_Bench(Path(place), server, count, size)) as bench,
    ):
        yield bench


def _push(bench: _Bench, what: str, goal: float, rounds: int) -> list[Row]:
    times = interleave(
        {"put": bench.put, "upload": bench.upload, "register": bench.register},
        rounds=rounds,
        before=bench.renew,
    )
    return [
        _row(f"push {what}, hash-verified", times["put"], _UPLOAD, times["upload"], goal),
        _row(f"register {what}: checks and rows, too", times["register"], _UPLOAD, times["upload"]),
    ]


def _pull(bench: _Bench, what: str, goal: float, rounds: int) -> list[Row]:
    bench.renew()
    versions = bench.register()
    references = [found.reference for found in versions]
    times = interleave(
        {
            "fetch": lambda: bench.fetch(versions),
            "download": lambda: bench.download(versions),
            "pull": lambda: bench.registry.pull_many(references),
            "to": lambda: bench.registry.pull_many(
                references, [bench.target / str(one.name) for one in references]
            ),
        },
        rounds=rounds,
        before=bench.forget,
    )
    peer, theirs = _DOWNLOAD, times["download"]
    return [
        _row(f"pull {what}, hash-verified", times["fetch"], peer, theirs, goal),
        _row(f"pull_many {what} into an empty cache", times["pull"], peer, theirs, goal),
        _row(f"pull_many {what} into folders, by way of the cache", times["to"], peer, theirs),
    ]


def _pull_again(bench: _Bench, what: str, rounds: int) -> Row:
    one = "adapter-000@latest"
    bench.registry.pull(one)
    before = bench.counting.calls
    times = interleave({"pull": lambda: bench.registry.pull(one)}, rounds=rounds)
    calls = bench.counting.calls - before
    moved = f"{calls} CALLS OF THE STORE" if calls else "0 bytes moved"
    what = f"pull one ({what}) again from the cache: {moved}"
    return Row(what=what, ours=times["pull"], below=0.020)


def _weights_of(found: AdapterVersion) -> Any:
    return next(file for file in found.files if file.path == WEIGHTS_FILE)


def _row(what: str, ours: Times, peer: str, theirs: Times, goal: float | None = None) -> Row:
    return Row(what=what, ours=ours, peer=peer, theirs=theirs, at_least=goal)
