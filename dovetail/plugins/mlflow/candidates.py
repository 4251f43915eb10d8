"""Find the adapter that an MLflow run made, among its artifacts and its LoggedModels."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dovetail.errors import InvalidInput, NotFoundError
from dovetail.plugins.mlflow.saved import MODEL_FILE
from dovetail.plugins.mlflow.tracking import speaking_of
from dovetail.registry.peftconfig import CONFIG_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_MOST_DIRECTORIES = 1_000
_DEEPEST = 8
_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A directory that MLflow keeps and that an adapter is in.

    Attributes:
        repository: Where MLflow keeps it.
        path: The directory there; empty for all of it.
        model: The LoggedModel that it belongs to, or None for an artifact of the run itself.
    """

    repository: ArtifactRepository
    path: str
    model: LoggedModel | None = None

    def __str__(self) -> str:
        """Say which it is: the artifact's path, or the model's name and id."""
        if self.model is None:
            return repr(self.path or ".")
        place = posixpath.join(self.model.name, self.path) if self.path else self.model.name
        return f"{place!r} ({self.model.model_id})"

    def is_meant_by(self, wanted: str) -> bool:
        """Tell whether somebody who writes this means it."""
        place = _place_in(wanted)
        if self.model is None:
            return place == (self.path or ".")
        return place in {
            posixpath.join(start, self.path) if self.path else start
            for start in (self.model.name, self.model.model_id)
        }

    def download(self, to: Path) -> Path:
        """Fetch it into a directory, and return where it is there."""
        with speaking_of(f"artifact {self}"):
            return Path(self.repository.download_artifacts(self.path, dst_path=str(to)))


def choose_candidate(client: MlflowClient, run: Run, artifact: str | None) -> Candidate:
    """Return the one adapter of a run, or the one that is named.

    Args:
        client: The tracking server.
        run: The run.
        artifact: Path of an artifact, or name or id of a LoggedModel; None if there is only one.

    Raises:
        NotFoundError: There is none, or none of that name; the message lists those there are.
        InvalidInput: There are several; the message lists them.
    """
    if artifact is not None:  # which is looked at before all else that there may be
        with contextlib.suppress(NotFoundError, InvalidInput):
            near = [one for one in _find(client, run, artifact) if one.is_meant_by(artifact)]
            if len(near) == 1:
                return near[0]
    found = list(_find(client, run))
    meant = [one for one in found if artifact is None or one.is_meant_by(artifact)]
    if len(meant) == 1:
        return meant[0]
    run_id, listed = run.info.run_id, _list(meant or found)
    if not found:
        raise NotFoundError(
            f"run {run_id} has no adapter: neither its artifacts nor its models hold an "
            f"{CONFIG_FILE}; log one with dovetail.plugins.mlflow.log_model, or with "
            "mlflow.log_artifacts",
            run_id=run_id,
        )
    if not meant:
        raise NotFoundError(
            f"run {run_id} has no adapter {artifact!r}; it has {listed}",
            run_id=run_id,
            artifact=artifact,
        )
    raise InvalidInput(
        f"run {run_id} has {len(meant)} adapters: {listed}; say which with artifact=… "
        "(--artifact), by path, or by a model's id",
        run_id=run_id,
        candidates=tuple(map(str, meant)),
    )


def _place_in(wanted: str) -> str:
    return wanted.removeprefix("models:/").strip("/") or "."


def _find(client: MlflowClient, run: Run, wanted: str | None = None) -> Iterator[Candidate]:
    """Yield what holds an adapter: LoggedModels first, then the run's own artifacts.

    Args:
        client: The tracking server.
        run: The run.
        wanted: Only where what somebody names so can be; None for everywhere.
    """
    place = None if wanted is None else _place_in(wanted)
    for model in _models_of(client, run):
        if place is not None and place.split("/")[0] not in (model.name, model.model_id):
            continue
        repository = _repository(client, model.artifact_location)
        for path in adapters_in(repository):
            yield Candidate(repository=repository, path=path, model=model)
    repository = _repository(client, run.info.artifact_uri)
    for path in adapters_in(repository, "" if place in (None, ".") else str(place)):
        yield Candidate(repository=repository, path=path)


def _models_of(client: MlflowClient, run: Run) -> Iterator[LoggedModel]:
    token = None
    while True:
        with speaking_of(f"the models of run {run.info.run_id}"):
            page = client.search_logged_models(
                [run.info.experiment_id],
                filter_string=f"source_run_id = '{run.info.run_id}'",
                page_token=token,
            )
        yield from page
        token = page.token
        if not token:
            return


def _repository(client: MlflowClient, uri: str) -> ArtifactRepository:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with speaking_of(f"artifacts in {uri}"):
        return get_artifact_repository(uri, tracking_uri=client.tracking_uri)


def adapters_in(repository: ArtifactRepository, within: str = "") -> Iterator[str]:
    """Yield the directories that hold an adapter, each once; of an MLflow model's, the model's own.

    Args:
        repository: Where MLflow keeps them.
        within: The directory there to begin with.

    Raises:
        InvalidInput: There are too many to look into.
        NotFoundError: There is no such place.
        StorageError: It cannot be reached.
    """
    waiting: list[tuple[str, str | None]] = [(within, None)]
    held: set[str] = set()
    looked_at = 0
    while waiting:
        path, model = waiting.pop(0)
        looked_at += 1
        if looked_at > _MOST_DIRECTORIES:
            raise InvalidInput(
                f"there are over {_MOST_DIRECTORIES:,} directories of artifacts; download the "
                "adapter, and register its directory with base=…"
            )
        with speaking_of(f"artifacts in {path or '.'!r}"):
            entries = repository.list_artifacts(path or None)
        names = {posixpath.basename(entry.path) for entry in entries if not entry.is_dir}
        if MODEL_FILE in names and model is None:
            model = path
        if CONFIG_FILE in names:
            place = model if model is not None and _is_near(path, model) else path
            if place not in held:
                held.add(place)
                yield place
        if path.count("/") < _DEEPEST:
            waiting += [(entry.path, model) for entry in entries if entry.is_dir]


def _is_near(path: str, model: str) -> bool:
    """Tell whether an adapter lies where an MLflow model's own does: there, or one folder down."""
    return path == model or posixpath.dirname(path) == model


def _list(candidates: Sequence[Candidate]) -> str:
    shown = ", ".join(map(str, candidates[:_SHOWN]))
    return shown + (", …" if len(candidates) > _SHOWN else "")
