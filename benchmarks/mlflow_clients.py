"""Two MLflow registries with the same versions, one of them Dovetail's, and a client of either."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from benchmarks.making import make_adapter
from benchmarks.ours import Ours
from benchmarks.theirs import Theirs
from dovetail.registry.durable import sync

_PLAIN = "flavors:\n  sklearn:\n    pickled_model: model.pkl\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A client of one registry, and where what it registers lies.

    Attributes:
        client: An ``MlflowClient``.
        run_id: The run whose artifacts are registered; None where directories are.
        sources: An unregistered adapter's source for each call.
        plain: Source of a model that is no adapter.
    """

    client: Any
    run_id: str | None
    sources: Iterator[str]
    plain: str

    def create(self, name: str, source: str) -> Any:
        """Add a version."""
        return self.client.create_model_version(name, source, run_id=self.run_id)

    def search(self, text: str | None, most: int) -> list[Any]:
        """Return all versions that a filter finds, page by page."""
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_model_versions(text, max_results=most, page_token=token)
            found += page
            token = page.token
            if not token:
                return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """Two databases with the same versions.

    Attributes:
        place: A directory with the files of both.
        ours: The URI of Dovetail's registry store.
        theirs: That of MLflow's own.
    """

    place: Path
    ours: str
    theirs: str

    @property
    def environment(self) -> dict[str, str]:
        """The settings with which Dovetail's store finds what is beside its database."""
        return {
            "DOVETAIL_OBJECTS_URL": (self.place / "ours" / "objects").as_uri(),
            "DOVETAIL_CACHE_DIR": str(self.place / "ours" / "cache"),
            "DOVETAIL_ACTOR": "bench",
        }


@contextmanager
def filled(
    place: Path, versions: int, our_url: str | None = None, their_url: str | None = None
) -> Iterator[Filled]:
    """Fill both databases; settings of this process name Dovetail's while it lasts."""
    (place / "ours").mkdir(parents=True)
    with contextlib.closing(Ours(place / "ours", versions, our_url)) as ours:
        our_uri = f"dovetail+{ours.url}"
    with contextlib.closing(Theirs(place, versions, their_url)):
        their_uri = their_url or f"sqlite:///{place / 'mlflow.db'}"
    for url in (ours.url, their_uri):
        _analyze(url)
    made = Filled(place=place, ours=our_uri, theirs=their_uri)
    before = dict(os.environ)
    os.environ.update(made.environment)
    try:
        yield made
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def directly(both: Filled, adapters: int) -> Iterator[tuple[Side, Side]]:
    """Give clients that open the databases themselves."""
    from mlflow import MlflowClient

    runs = f"sqlite:///{both.place / 'runs.db'}"
    made = [_directory_of(both.place / side, adapters) for side in ("a", "b")]
    yield tuple(  # type: ignore[misc]  # a generator of two, which mypy cannot count
        Side(
            client=MlflowClient(tracking_uri=runs, registry_uri=uri),
            run_id=None,
            sources=(str(folder) for folder in folders),
            plain=str(plain),
        )
        for uri, (folders, plain) in zip((both.ours, both.theirs), made, strict=True)
    )


@contextmanager
def over_http(both: Filled, adapters: int) -> Iterator[tuple[Side, Side]]:
    """Start two MLflow servers of one process each, on these databases, and give clients."""
    from tests.servers import MlflowServer

    with (
        MlflowServer(both.ours, environment=both.environment) as ours,
        MlflowServer(both.theirs) as theirs,
    ):
        yield tuple(  # type: ignore[misc]  # a generator of two, which mypy cannot count
            _logged(server.client(), both.place / name, adapters)
            for server, name in ((ours, "c"), (theirs, "d"))
        )


def create_with_files(side: Side, name: str, target: Path) -> Any:
    """Add a version as Dovetail does, by other means: files hashed, copied to the disk, flushed."""
    source = Path(next(side.sources))
    target.mkdir()
    for file in source.iterdir():
        with file.open("rb") as stream, (target / file.name).open("wb") as copy:
            hashlib.file_digest(stream, "sha256")
            stream.seek(0)
            shutil.copyfileobj(stream, copy)
            copy.flush()
            os.fsync(copy.fileno())
    for directory in (target, target.parent):
        sync(directory)
    return side.create(name, str(target))


def quiet() -> None:
    """Let MLflow say less."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _analyze(url: str) -> None:
    """Do what a database does by itself in time, once it has been written to."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        is_sqlite = engine.dialect.name == "sqlite"
        connection.exec_driver_sql("ANALYZE" if is_sqlite else "VACUUM ANALYZE")
    engine.dispose()


def _logged(client: Any, place: Path, adapters: int) -> Side:
    """Log adapters and another model as artifacts of a run."""
    folders, plain = _directory_of(place, adapters)
    run_id = client.create_run("0").info.run_id
    client.log_artifacts(run_id, str(plain.parent))
    return Side(
        client=client,
        run_id=run_id,
        sources=(f"runs:/{run_id}/{folder.name}" for folder in folders),
        plain=f"runs:/{run_id}/plain",
    )


_seeds = count(1_000_000)


def _directory_of(place: Path, adapters: int) -> tuple[list[Path], Path]:
    folders = [
        make_adapter(place / f"adapter-{number}", next(_seeds)) for number in range(adapters)
    ]
    plain = place / "plain"
    plain.mkdir(parents=True)
    (plain / "MLmodel").write_text(_PLAIN)
    (plain / "model.pkl").write_bytes(bytes(4096))
    return folders, plain
