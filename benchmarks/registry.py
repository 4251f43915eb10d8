"""Registering, resolving and searching, against MLflow's own store on the same database.

MLflow's `create_model_version` writes one URI. `Registry.register` reads, checks and hashes an
adapter's files, compares them with the base model's 148 tensors, stores them durably, and appends
to the history; the whole of it is measured. MLflow's filters compare tags as text, so for
a numeric score every version must come to the client, which chooses; both sides return the same
number of versions.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.measuring import Times, interleave
from benchmarks.ours import Ours
from benchmarks.report import Report, Row
from benchmarks.servers import first_of
from benchmarks.theirs import Theirs
from dovetail.registry.digests import digest_bytes
from dovetail.registry.folder import WEIGHTS_FILE
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.payload import read_payload

_PEER = "MLflow"
_WARMUP = 5


@dataclass(frozen=True, slots=True)
class _Sizes:
    versions: int
    registrations: int
    lookups: int
    searches: int


def run(*, quick: bool) -> Report:
    """Measure; quickly and on little, or properly."""
    sizes = _Sizes(200, 5, 5, 2) if quick else _Sizes(10_000, 1_000, 10_000, 9)
    with _both_filled(sizes) as (ours, theirs):
        rows = [
            *_search(ours, theirs, sizes),
            *_resolve("SQLite", ours, theirs, sizes),
            *_register("SQLite", ours, theirs, sizes),
            *_register_parts(ours, sizes),
        ]
    with first_of("PostgresServer") as server:
        if server is not None:
            urls = (server.url(server.create_database()) for _ in range(2))
            with _both_filled(sizes, *urls) as (ours, theirs):
                rows += _resolve("PostgreSQL", ours, theirs, sizes)
                rows += _register("PostgreSQL", ours, theirs, sizes)
    return Report(
        name="registry",
        setting=f"{sizes.versions:,} versions under {-(-sizes.versions // 100)} names on either "
        "side. SQLite: one disk for all files. PostgreSQL: one server on this machine with a "
        "database for either side, in memory and without fsync. MLflow keeps scores as tags; "
        "registering a version there stores a URI and no file.",
        rows=rows,
        versions={"mlflow": version("mlflow"), "sqlalchemy": version("sqlalchemy")},
    )


@contextmanager
def _both_filled(
    sizes: _Sizes, our_url: str | None = None, their_url: str | None = None
) -> Iterator[tuple[Ours, Theirs]]:
    with tempfile.TemporaryDirectory(prefix="dovetail-bench-") as name:
        place = Path(name)
        (place / "ours").mkdir()
        with (
            contextlib.closing(Ours(place / "ours", sizes.versions, our_url)) as ours,
            contextlib.closing(Theirs(place, sizes.versions, their_url)) as theirs,
        ):
            yield ours, theirs


def _search(ours: Ours, theirs: Theirs, sizes: _Sizes) -> list[Row]:
    most = 10_000
    rows = []
    for share, goal in ((0.01, 10.0), (0.1, 10.0), (0.6, None)):
        above = 1 - share - 1e-9
        text = f"metrics.rougeL > {above}"
        times = _both(
            lambda text=text: ours.registry.search(text, limit=most).versions,
            lambda above=above: theirs.search_scores("rougeL", above),
            sizes.searches,
        )
        found = len(ours.registry.search(text, limit=most).versions)
        what = f"search rougeL above a number, {found:,} found"
        rows.append(_row(what, times, at_least=goal, peer=f"{_PEER}: all, then choose in Python"))
    times = _both(
        lambda: ours.registry.search(limit=most).versions,
        lambda: theirs.search(None),
        sizes.searches,
    )
    rows.append(_row("search with no filter, all in one page", times, at_least=1.0))
    tag = "tags.team = 'team-adapter-0001'"
    times = _both(
        lambda: ours.registry.search(tag).versions,
        lambda: theirs.search(tag),
        20 * sizes.searches,
    )
    return [*rows, _row("search one tag, 100 found", times, at_least=1.0)]


def _resolve(database: str, ours: Ours, theirs: Theirs, sizes: _Sizes) -> list[Row]:
    times = interleave(
        {
            "ours": lambda: ours.registry.resolve("adapter-0000@production"),
            "theirs": lambda: theirs.store.get_model_version_by_alias("adapter-0000", "production"),
        },
        rounds=sizes.lookups,
        warmup=_WARMUP,
    )
    return [_row(f"{database}: resolve name@alias", times, at_least=1.0)]


def _register(database: str, ours: Ours, theirs: Theirs, sizes: _Sizes) -> list[Row]:
    calls = sizes.registrations + _WARMUP
    same = iter([ours.new_adapter() for _ in range(calls)])
    new = iter([ours.new_adapter(all_new=True) for _ in range(calls)])
    times = interleave(
        {
            "ours": lambda: ours.register(next(same)),
            "theirs": theirs.create,
            "new": lambda: ours.register(next(new)),
            "rows": ours.insert_rows,
        },
        rounds=sizes.registrations,
        warmup=_WARMUP,
    )
    peer, theirs_took = f"{_PEER} create_model_version", times["theirs"]
    what = f"{database}: register, weights new, other files as before"
    return [
        _row(what, times, at_least=1.0, peer=peer),
        Row(
            what=f"{database}: register, all three files new",
            ours=times["new"],
            peer=peer,
            theirs=theirs_took,
        ),
        Row(
            what=f"- {database}: the rows of one alone, as MLflow writes no files",
            ours=times["rows"],
            peer=peer,
            theirs=theirs_took,
        ),
    ]


def _register_parts(ours: Ours, sizes: _Sizes) -> list[Row]:
    other = ours.new_adapter()
    weights = (other / WEIGHTS_FILE).read_bytes()
    numbers = count()
    objects = LocalObjectStore(ours.place / "objects")

    def store() -> None:
        data = weights + str(next(numbers)).encode()
        objects.put(digest_bytes(data), data)

    times = interleave(
        {"read": lambda: read_payload(other), "store": store}, rounds=sizes.registrations
    )
    return [
        Row(what="- reading, checking and hashing the files", ours=times["read"]),
        Row(what="- storing one blob", ours=times["store"]),
    ]


def _both(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> dict[str, Times]:
    assert len(ours()) == len(theirs())
    return interleave({"ours": ours, "theirs": theirs}, rounds=rounds)


def _row(what: str, times: dict[str, Times], *, at_least: float | None, peer: str = _PEER) -> Row:
    return Row(what=what, ours=times["ours"], peer=peer, theirs=times["theirs"], at_least=at_least)
