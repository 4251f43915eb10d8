"""MLflow's own SQL registry with the same versions.

MLflow keeps a URI where Dovetail keeps files, and tags (text) where Dovetail keeps scores.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from benchmarks.making import SCORES
from benchmarks.ours import names_and_scores


class Theirs:
    """MLflow's `SqlAlchemyStore` filled with versions.

    Args:
        place: An empty directory.
        versions: How many versions.
        url: An empty database; None for a SQLite file.
    """

    def __init__(self, place: Path, versions: int, url: str | None = None) -> None:
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        from mlflow.entities.model_registry import ModelVersionTag
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

        self.store = SqlAlchemyStore(url or f"sqlite:///{place / 'mlflow.db'}")
        self._tags = [ModelVersionTag(metric, "0.4") for metric in SCORES]
        self._fill(versions)
        self.store.set_registered_model_alias("adapter-0000", "production", 50)

    def close(self) -> None:
        """Close the store's connections."""
        self.store._dispose_engine()  # noqa: SLF001 (MLflow has no public way)

    def create(self) -> Any:
        """Add a version by a URI, with scores as tags."""
        return self.store.create_model_version(
            "adapter-0001",
            "file:///models/adapter",
            run_id="0123456789abcdef0123456789abcdef",
            tags=self._tags,
        )

    def search(self, filter_string: str | None, most: int = 10_000) -> list[Any]:
        """Return the versions that a filter finds, in one page."""
        return list(self.store.search_model_versions(filter_string, max_results=most))

    def search_scores(self, metric: str, above: float) -> list[Any]:
        """Do what MLflow's filter cannot: compare numbers. All versions come; Python chooses."""
        return [version for version in self.search(None) if float(version.tags[metric]) > above]

    def _fill(self, versions: int) -> None:
        """Write the rows that registering would write, all in one transaction."""
        from mlflow.store.model_registry.dbmodels.models import (
            SqlModelVersion,
            SqlModelVersionTag,
            SqlRegisteredModel,
        )
        from sqlalchemy import insert

        rows = list(names_and_scores(versions))
        names = sorted({name for name, _, _ in rows})
        with self.store.ManagedSessionMaker(read_only=False) as session:
            session.execute(insert(SqlRegisteredModel), [{"name": name} for name in names])
            session.execute(
                insert(SqlModelVersion),
                [
                    {
                        "name": name,
                        "version": number,
                        "source": "file:///models/adapter",
                        "storage_location": "file:///models/adapter",
                        "run_id": "0123456789abcdef0123456789abcdef",
                    }
                    for name, number, _ in rows
                ],
            )
            session.execute(
                insert(SqlModelVersionTag),
                [
                    {"name": name, "version": number, "key": key, "value": value}
                    for name, number, scores in rows
                    for key, value in (
                        *((metric, str(score)) for metric, score in scores.items()),
                        ("team", f"team-{name}"),
                    )
                ],
            )
