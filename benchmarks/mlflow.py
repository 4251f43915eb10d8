"""MLflow with Dovetail behind it, against MLflow alone: its registry store, and loading adapters.

The registry: MLflow's own client asks Dovetail's store and MLflow's `SqlAlchemyStore`, each with
the same versions in a database of the same kind; in this process, and through an ``mlflow server``
of one process for either. MLflow's store writes a URI where Dovetail's fetches an adapter, checks
it against its base model, hashes it and keeps it.

Loading: all adapters of one base, one after the other.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.mlflow_clients import quiet
from benchmarks.mlflow_loading import measure_loading
from benchmarks.mlflow_registry import Sizes, measure_registry
from benchmarks.mlflow_results import write_results
from benchmarks.report import Report

_PROPER = Sizes(versions=10_000, lookups=1_000, searches=30, scans=5, creations=100)
_QUICK = Sizes(versions=200, lookups=5, searches=3, scans=2, creations=3)
_LIBRARIES = ("mlflow", "sqlalchemy", "torch", "transformers", "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowReport(Report):
    """What this benchmark found.

    Attributes:
        details: The day and the machine, for the section in RESULTS.md.
    """

    details: dict[str, Any]


def run(*, quick: bool, results: Path | None = None) -> MlflowReport:
    """Measure; quickly and on little, or properly.

    Args:
        quick: Small sizes, to see that it works.
        results: A Markdown file whose section is written anew.
    """
    quiet()
    sizes = _QUICK if quick else _PROPER
    loading = measure_loading(adapters=3 if quick else 32, rounds=1 if quick else 3, small=quick)
    rows = [*measure_registry(sizes), *loading.rows]
    agreed, of = loading.agreed
    report = MlflowReport(
        name="mlflow",
        setting=f"{sizes.versions:,} versions under {-(-sizes.versions // 100)} names on either "
        "side, with four scores and a tag each; MLflow keeps scores as tags. One MlflowClient "
        "asks, of the databases or of two servers of one process each. PostgreSQL: one server on "
        "this machine, in memory and without fsync. Creating a version of an adapter includes "
        "fetching, checking, hashing and storing its files, which MLflow's does not do. Loading: "
        f"{loading.title}; both sides wrote the same tokens with {agreed} of {of} adapters.",
        rows=rows,
        versions={name: version(name) for name in _LIBRARIES},
        details={
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        },
    )
    if results is not None:
        write_results(results, report)
    return report
