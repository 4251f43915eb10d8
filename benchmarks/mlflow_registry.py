"""What MLflow's clients ask of a registry, with Dovetail's store and with MLflow's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.measuring import interleave
from benchmarks.mlflow_clients import Side, create_with_files, directly, filled, over_http
from benchmarks.report import Row
from benchmarks.servers import first_of

_PEER = "MLflow's SqlAlchemyStore"
_CHOOSES = "MLflow's: all, then choose in Python"
_WARMUP = 3
_PAGE = 1_000
_NAME = "adapter-0001"
_PLAIN = "plain-model"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        versions: Versions in either registry.
        lookups: Calls that get one thing.
        searches: Searches for a hundred versions.
        scans: Searches over all.
        creations: Versions that are made.
    """

    versions: int
    lookups: int
    searches: int
    scans: int
    creations: int

    @property
    def over_http(self) -> Sizes:
        """Less of all."""
        return Sizes(
            self.versions,
            max(3, self.lookups // 5),
            max(3, self.searches // 2),
            max(2, self.scans // 2),
            max(3, self.creations // 2),
        )


def measure_registry(sizes: Sizes) -> list[Row]:
    """Measure on SQLite, and on PostgreSQL where there is one."""
    rows = list(_on("SQLite", sizes))
    with first_of("PostgresServer") as server:
        if server is not None:
            urls = [server.url(server.create_database()) for _ in range(2)]
            rows += _on("PostgreSQL", sizes, *urls)
    return rows


def _on(database: str, sizes: Sizes, *urls: str) -> Iterator[Row]:
    most = 2 * (sizes.creations + _WARMUP)
    with (
        tempfile.TemporaryDirectory(prefix="dovetail-bench-") as name,
        filled(Path(name), sizes.versions, *urls) as both,
        directly(both, most) as near,
        over_http(both, most) as far,
    ):
        ways = (("directly", near, sizes), ("over HTTP", far, sizes.over_http))
        # What is created last is in the way of no search.
        for measure in (_lookups, _searches, _creations):
            for way, sides, chosen in ways:
                for row in measure(*sides, chosen):
                    yield replace(row, what=f"{database}, {way}: {row.what}")
        for row in _creations_with_files(*near, sizes, Path(name)):
            yield replace(row, what=f"{database}, directly: {row.what}")


def _lookups(ours: Side, theirs: Side, sizes: Sizes) -> Iterator[Row]:
    yield _row(
        "get a version",
        lambda side: side.client.get_model_version(_NAME, "7"),
        ours,
        theirs,
        sizes.lookups,
    )
    yield _row(
        "get a version by alias",
        lambda side: side.client.get_model_version_by_alias("adapter-0000", "production"),
        ours,
        theirs,
        sizes.lookups,
    )


def _searches(ours: Side, theirs: Side, sizes: Sizes) -> Iterator[Row]:
    for what, text in (
        ("search by name, 100 found", f"name = '{_NAME}'"),
        ("search by tag, 100 found", f"tags.team = 'team-{_NAME}'"),
    ):
        _same(ours.search(text, _PAGE), theirs.search(text, _PAGE))
        yield _row(
            what, lambda side, text=text: side.search(text, _PAGE), ours, theirs, sizes.searches
        )
    above = 1 - 0.01 - 1e-9
    text = f"metrics.rougeL > {above}"

    def choose() -> list[Any]:
        return [one for one in theirs.search(None, _PAGE) if float(one.tags["rougeL"]) > above]

    _same(ours.search(text, _PAGE), choose())
    times = interleave(
        {"ours": lambda: ours.search(text, _PAGE), "theirs": choose}, rounds=sizes.scans
    )
    yield Row(
        what=f"search over {sizes.versions:,}, rougeL above a number, 1 % found",
        ours=times["ours"],
        peer=_CHOOSES,
        theirs=times["theirs"],
        at_least=5.0,
    )
    yield _row(
        f"search over {sizes.versions:,} without a filter, pages of {_PAGE:,}",
        lambda side: side.search(None, _PAGE),
        ours,
        theirs,
        sizes.scans,
        at_least=5.0,
    )


def _creations(ours: Side, theirs: Side, sizes: Sizes) -> Iterator[Row]:
    for side in (ours, theirs):
        if not side.search(f"name = '{_PLAIN}'", _PAGE):
            side.client.create_registered_model(_PLAIN)
    yield _row(
        "create a version of an ordinary model",
        lambda side: side.create(_PLAIN, side.plain),
        ours,
        theirs,
        sizes.creations,
    )
    yield _row(
        "create a version of an adapter: files read, checked, hashed, stored",
        lambda side: side.create(_NAME, next(side.sources)),
        ours,
        theirs,
        sizes.creations,
        peer=f"{_PEER}: a URI alone",
    )


def _creations_with_files(ours: Side, theirs: Side, sizes: Sizes, place: Path) -> Iterator[Row]:
    """Let the peer keep the files, too: a URI alone leaves that to who logged them."""
    numbers = count()
    times = interleave(
        {
            "ours": lambda: ours.create(_NAME, next(ours.sources)),
            "theirs": lambda: create_with_files(theirs, _NAME, place / f"kept-{next(numbers)}"),
        },
        rounds=sizes.creations,
        warmup=_WARMUP,
    )
    yield Row(
        what="create a version of an adapter, once more",
        ours=times["ours"],
        peer=f"{_PEER}, and its files hashed, copied and flushed by hand",
        theirs=times["theirs"],
    )


def _row(
    what: str,
    call: Callable[[Side], Any],
    ours: Side,
    theirs: Side,
    rounds: int,
    *,
    at_least: float = 1.0,
    peer: str = _PEER,
) -> Row:
    times = interleave(
        {"ours": lambda: call(ours), "theirs": lambda: call(theirs)}, rounds=rounds, warmup=_WARMUP
    )
    return Row(what=what, ours=times["ours"], peer=peer, theirs=times["theirs"], at_least=at_least)


def _same(ours: list[Any], theirs: list[Any]) -> None:
    """See that both found the same versions, in whatever order."""
    found = [{(one.name, str(one.version)) for one in side} for side in (ours, theirs)]
    assert found[0] == found[1], f"{len(found[0])} and {len(found[1])} versions differ"
