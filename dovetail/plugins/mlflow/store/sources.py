"""Finding the adapter behind a model version's source: a path, ``runs:/``, ``models:/m-…``, a URI.

Only what holds an adapter is fetched; of a model of ten gigabytes only its folders are listed.
"""

from __future__ import annotations

import logging
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dovetail.errors import InvalidInput
from dovetail.plugins.mlflow.saved import (
    FLAVOR_NAME,
    MODEL_FILE,
    SavedAdapter,
    read_flavors,
    read_saved,
)
from dovetail.registry.peftconfig import CONFIG_FILE

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_logger = logging.getLogger(__name__)

_SERVER_ARTIFACTS = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
"""Where an MLflow server that hands out artifacts keeps them; set in its own processes."""
_MOST_CHILDREN = 100
_NOT_FETCHED = frozenset({"http", "https", "ftp", "sftp"})


def find_run(run_id: str) -> Run:
    """Ask the tracking server for a run; it takes its time."""
    from mlflow import MlflowClient

    return MlflowClient().get_run(run_id)


@contextmanager
def fetched(
    source: str, *, find_run: Callable[[str], Run] = find_run
) -> Iterator[SavedAdapter | None]:
    """Give the adapter that a source holds; what was fetched is gone afterwards.

    It is None where there is none, or where the source cannot be read: MLflow's own store does not
    look at sources, and keeps any.

    Args:
        source: Where it is.
        find_run: How a run is found, if the source lies in one.

    Raises:
        InvalidInput: There are several adapters, or what describes one is damaged.
    """
    with ExitStack() as places:
        try:
            directory = _fetch(source, places, find_run)
        except InvalidInput:
            raise
        except Exception as error:  # noqa: BLE001 (every kind of artifact store has its own errors)
            _logger.warning("source %s of a model version cannot be read: %s", source, error)
            directory = None
        yield None if directory is None else read_saved(directory)


def _fetch(source: str, places: ExitStack, find_run: Callable[[str], Run]) -> Path | None:
    """Return a local directory with the adapter of a source, or None if it has none."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    uri = _within_server(_resolved(source, find_run))
    if urlsplit(uri).scheme in _NOT_FETCHED:
        return None
    if is_local_uri(uri):
        local = Path(local_file_uri_to_path(uri))
        return local if local.is_dir() and _may_hold_adapter(read_flavors(local)) else None
    repository = get_artifact_repository(uri)
    place = Path(places.enter_context(tempfile.TemporaryDirectory(prefix="dovetail-")))
    found = _places(repository, place, "")
    if not found:
        entries = repository.list_artifacts(None)
        # Another model may have adapters among its files; it is another model all the same.
        is_model = MODEL_FILE in {entry.path for entry in entries}
        children = [] if is_model else [entry.path for entry in entries if entry.is_dir]
        for child in children[:_MOST_CHILDREN]:
            found += _places(repository, place, child)
        if len(children) > _MOST_CHILDREN:
            _logger.warning(
                "source %s of a model version has %d folders, and an adapter was looked for in the "
                "first %d; if it is in another, add the folder's name to the source",
                source,
                len(children),
                _MOST_CHILDREN,
            )
    if len(found) > 1:
        raise InvalidInput(
            f"source {source!r} holds {len(found)} adapters ({', '.join(found[:5])}); say which: "
            "add the folder's name to the source",
            value=source,
        )
    return _download(repository, found[0], place) if found else None


def _places(repository: ArtifactRepository, place: Path, path: str) -> list[str]:
    """Return a directory of a repository if an adapter lies in it."""
    names = {posixpath.basename(entry.path) for entry in repository.list_artifacts(path or None)}
    if MODEL_FILE not in names:
        return [path] if CONFIG_FILE in names else []
    described = _download(repository, posixpath.join(path, MODEL_FILE), place / "described" / path)
    flavors = read_flavors(described.parent)
    return [path] if flavors and _may_hold_adapter(flavors) else []


def _may_hold_adapter(flavors: Mapping[str, Any]) -> bool:
    """Tell whether a directory is of no model, or of an adapter's.

    Other models may have adapters somewhere among their files; they are other models all the same.
    """
    peft = "peft_adaptor" in flavors.get("transformers", {})
    return not flavors or FLAVOR_NAME in flavors or peft


def _download(repository: ArtifactRepository, path: str, place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    return Path(repository.download_artifacts(path, dst_path=str(place)))


def _resolved(source: str, find_run: Callable[[str], Run]) -> str:
    """Replace ``runs:/`` and ``models:/m-…`` by where the artifacts are."""
    from mlflow import MlflowClient
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
    from mlflow.utils.uri import append_to_uri_path

    scheme = urlsplit(source).scheme
    if scheme == "runs":
        run_id, path = RunsArtifactRepository.parse_runs_uri(source)
        root = find_run(run_id).info.artifact_uri
        return str(append_to_uri_path(root, path) if path else root)
    if scheme == "models":
        model_id, _, path = source.removeprefix("models:/").partition("/")
        location = MlflowClient().get_logged_model(model_id).artifact_location
        return posixpath.join(location, path) if path else str(location)
    return source


def _within_server(uri: str) -> str:
    """Let a server that hands out artifacts read them where they lie, and not ask itself."""
    parts = urlsplit(uri)
    destination = os.environ.get(_SERVER_ARTIFACTS)
    if parts.scheme != "mlflow-artifacts" or parts.netloc or not destination:
        return uri
    path = parts.path.lstrip("/")
    if ".." in path.split("/"):
        raise InvalidInput(f"source {uri!r} has a '..'; write the whole path", value=uri)
    return posixpath.join(destination, path)
