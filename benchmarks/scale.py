"""Looking things up in a registry of a million versions, on SQLite and on PostgreSQL.

All times are those of `Registry`'s own methods, transactions included, on one connection. Where no
PostgreSQL is installed, only SQLite is measured.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.bulk import BIG, fill
from benchmarks.measuring import interleave
from benchmarks.report import Report, Row
from benchmarks.servers import first_of
from dovetail import Registry
from dovetail.registry.database import Database

_PAGE_S = 0.05
_LOOK_UP_S = {"SQLite": 0.001, "PostgreSQL": 0.002}
_MANY_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Sizes:
    versions: int
    quick_calls: int
    slow_calls: int


def run(*, quick: bool) -> Report:
    """Measure; quickly and on little, or properly."""
    sizes = _Sizes(500, 2, 1) if quick else _Sizes(1_000_000, 500, 15)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dovetail-bench-") as name:
        place = Path(name)
        rows += _measure("SQLite", f"sqlite:///{place / 'registry.db'}", place, sizes)
        with first_of("PostgresServer") as server:
            if server is not None:
                url = server.url(server.create_database())
                rows += _measure("PostgreSQL", url, place, sizes)
    without = "" if any("PostgreSQL" in row.what for row in rows) else " No PostgreSQL here."
    return Report(
        name="scale",
        setting=f"{sizes.versions:,} versions, a tenth of them of one adapter, 90 of each other; "
        f"8 of 10 have two scores, and the history has an event for each and more.{without}",
        rows=rows,
        versions={"sqlite": sqlite3.sqlite_version, "sqlalchemy": version("sqlalchemy")},
    )


def _measure(database: str, url: str, place: Path, sizes: _Sizes) -> list[Row]:
    filled = Database(url, timeout_s=_MANY_S)
    filled.upgrade()
    fill(filled, sizes.versions)
    filled.close()
    with Registry.open(url, (place / "objects").as_uri(), cache_dir=place / "cache") as registry:
        name = "adapter-00001"
        return [
            _row(database, "resolve name@alias", sizes.quick_calls, _LOOK_UP_S[database],
                 lambda: registry.resolve(f"{name}@production")),
            *(
                _row(database, what, sizes.slow_calls, _PAGE_S, look)
                for what, look in _pages(registry, name).items()
            ),
        ]  # fmt: skip


def _pages(registry: Registry, name: str) -> dict[str, Callable[[], object]]:
    search = registry.search
    best = ["metrics.rougeL DESC"]
    token = search("metrics.rougeL > 0.7", order_by=best).next_page_token
    return {
        "list, 100 adapters": lambda: registry.adapters(limit=100),
        "list, the large adapter": lambda: registry.adapters(prefix=BIG, limit=100),
        "list, 100 versions of the large one": lambda: registry.versions(BIG, limit=100),
        "history, 50 events": lambda: registry.history(limit=50),
        "history of one adapter, 50 events": lambda: registry.history(name, limit=50),
        "history of the large one, 50 events": lambda: registry.history(BIG, limit=50),
        "search, no filter": search,
        "search, a score that 1 in 1,000 has": lambda: search("metrics.rougeL > 0.999"),
        "search, a score that 3 in 10 have": lambda: search("metrics.rougeL > 0.7"),
        "search, two scores": lambda: search("metrics.rougeL > 0.7 AND metrics.bleu > 75"),
        "search, an alias that 3 versions have": lambda: search("alias = 'canary'"),
        "search, the best 100 by a score": lambda: search(order_by=best),
        "search, the best of those over 0.7": lambda: search("metrics.rougeL > 0.7", order_by=best),
        "search, its second page": lambda: search(
            "metrics.rougeL > 0.7", order_by=best, page_token=token
        ),
        "search, the large adapter, the best 100": lambda: search(
            f"name = '{BIG}' AND metrics.rougeL > 0.5", order_by=best
        ),
        "search, the newest 100": lambda: search(order_by=["created_at DESC"]),
    }


def _row(database: str, what: str, rounds: int, below: float, look: Callable[[], object]) -> Row:
    times = interleave({"ours": look}, rounds=rounds, warmup=2)
    return Row(what=f"{database}: {what}", ours=times["ours"], below=below)
