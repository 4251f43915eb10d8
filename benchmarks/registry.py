"""Registering, resolving and searching, against MLflow's own store on SQLite.

MLflow's `create_model_version` writes one URI. `Registry.register` reads, checks and hashes an
adapter's files, compares them with the base model's 148 tensors, stores them durably, and appends
to the history; the whole of it is measured. MLflow's filters compare tags as text, so for
a numeric score every version must come to the client, which chooses; both sides return the same
number of versions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.measuring import Times, interleave
from benchmarks.ours import Ours
from benchmarks.report import Report, Row
from benchmarks.theirs import Theirs
from dovetail.registry.digests import digest_bytes
from dovetail.registry.folder import WEIGHTS_FILE
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.payload import read_payload

_PEER = "MLflow"


@dataclass(frozen=True, slots=True)
class _Sizes:
    versions: int
    quick_calls: int
    slow_calls: int


def run(*, quick: bool) -> Report:
    """Measure; quickly and on little, or properly."""
    sizes = _Sizes(200, 5, 2) if quick else _Sizes(10_000, 200, 9)
    with tempfile.TemporaryDirectory(prefix="dovetail-bench-") as name:
        place = Path(name)
        (place / "ours").mkdir()
        ours, theirs = Ours(place / "ours", sizes.versions), Theirs(place, sizes.versions)
        try:
            rows = [
                *_search(ours, theirs, sizes),
                *_resolve(ours, theirs, sizes),
                *_register(ours, theirs, sizes),
            ]
        finally:
            ours.close()
            theirs.close()
    return Report(
        name="registry",
        setting=f"{sizes.versions:,} versions under {-(-sizes.versions // 100)} names on either "
        "side, SQLite on one disk. MLflow keeps scores as tags; registering a version there "
        "stores a URI and no file.",
        rows=rows,
        versions={"mlflow": version("mlflow"), "sqlalchemy": version("sqlalchemy")},
    )


def _search(ours: Ours, theirs: Theirs, sizes: _Sizes) -> list[Row]:
    most = 10_000
    rows = []
    for share, goal in ((0.01, 10.0), (0.1, 10.0), (0.6, None)):
        above = 1 - share - 1e-9
        text = f"metrics.rougeL > {above}"
        times = _both(
            lambda text=text: ours.registry.search(text, limit=most).versions,
            lambda above=above: theirs.search_scores("rougeL", above),
            sizes.slow_calls,
        )
        found = len(ours.registry.search(text, limit=most).versions)
        what = f"search rougeL above a number, {found:,} found"
        rows.append(_row(what, times, at_least=goal, peer=f"{_PEER}: all, then choose in Python"))
    times = _both(
        lambda: ours.registry.search(limit=most).versions,
        lambda: theirs.search(None),
        sizes.slow_calls,
    )
    rows.append(_row("search with no filter, all in one page", times, at_least=1.0))
    tag = "tags.team = 'team-adapter-0001'"
    times = _both(
        lambda: ours.registry.search(tag).versions,
        lambda: theirs.search(tag),
        sizes.quick_calls,
    )
    return [*rows, _row("search one tag, 100 found", times, at_least=1.0)]


def _resolve(ours: Ours, theirs: Theirs, sizes: _Sizes) -> list[Row]:
    times = interleave(
        {
            "ours": lambda: ours.registry.resolve("adapter-0000@production"),
            "theirs": lambda: theirs.store.get_model_version_by_alias("adapter-0000", "production"),
        },
        rounds=sizes.quick_calls,
        warmup=5,
    )
    return [_row("resolve name@alias", times, at_least=1.0)]


def _register(ours: Ours, theirs: Theirs, sizes: _Sizes) -> list[Row]:
    warmup = 5
    calls = sizes.quick_calls + warmup
    same = iter([ours.new_adapter() for _ in range(calls)])
    new = iter([ours.new_adapter(all_new=True) for _ in range(calls)])
    other = ours.new_adapter()
    weights = (other / WEIGHTS_FILE).read_bytes()
    numbers = count()
    objects = LocalObjectStore(ours.place / "objects")

    def store() -> None:
        data = weights + str(next(numbers)).encode()
        objects.put(digest_bytes(data), data)

    times = interleave(
        {
            "ours": lambda: ours.register(next(same)),
            "theirs": theirs.create,
            "new": lambda: ours.register(next(new)),
            "read": lambda: read_payload(other),
            "store": store,
            "rows": ours.insert_rows,
        },
        rounds=sizes.quick_calls,
        warmup=warmup,
    )
    peer = f"{_PEER} create_model_version"
    return [
        _row("register, weights new, other files as before", times, at_least=1.0, peer=peer),
        Row(
            what="register, all three files new", ours=times["new"], peer=peer,
            theirs=times["theirs"],
        ),
        Row(what="- reading, checking and hashing the files", ours=times["read"]),
        Row(what="- storing one blob", ours=times["store"]),
        Row(
            what="- the rows alone, as MLflow writes no files", ours=times["rows"], peer=peer,
            theirs=times["theirs"],
        ),
    ]  # fmt: skip


def _both(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> dict[str, Times]:
    assert len(ours()) == len(theirs())
    return interleave({"ours": ours, "theirs": theirs}, rounds=rounds)


def _row(what: str, times: dict[str, Times], *, at_least: float | None, peer: str = _PEER) -> Row:
    return Row(what=what, ours=times["ours"], peer=peer, theirs=times["theirs"], at_least=at_least)
