"""Artifact URIs: ``dovetail://name@production`` and ``dovetail://name/7``.

The registry keeps plain PEFT payloads; what is downloaded from here is a whole MLflow model, made
when it is asked for. Every download is a copy of its own: MLflow writes into what it downloads.
Which registry that is, and whether it is read itself or through an MLflow server,
`dovetail.plugins.mlflow.whereabouts` says.

MLflow imports this module while it is being imported itself, so what needs the rest of it is
imported later.
"""

from __future__ import annotations

import posixpath
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from mlflow.entities.file_info import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from dovetail.plugins.mlflow.problems import missing, refusal, speaking_mlflow
from dovetail.plugins.mlflow.whereabouts import SCHEME
from dovetail.registry.reference import Reference

if TYPE_CHECKING:
    from dovetail.plugins.mlflow.made import MadeModel
    from dovetail.plugins.mlflow.served import ServedModel


def split_uri(uri: str) -> tuple[Reference, str]:
    """Split a URI into a reference and a path inside its model.

    Raises:
        InvalidReference: It names no version.

    Examples:
        >>> split_uri("dovetail://dialogue-summary/7/adapter/adapter_config.json")
        (Reference(name='dialogue-summary', number=7, alias=None), 'adapter/adapter_config.json')
        >>> split_uri("dovetail://dialogue-summary@production")
        (Reference(name='dialogue-summary', number=None, alias='production'), '')
    """
    parts = [part for part in uri.removeprefix(f"{SCHEME}:").split("/") if part]
    count = 1 if parts and "@" in parts[0] else 2
    reference = Reference.parse("/".join(parts[:count]))
    return reference, "/".join(parts[count:])


class DovetailArtifactRepository(ArtifactRepository):  # type: ignore[misc]  # mlflow has no types, so its class is Any
    """The models that registered versions are, for reading; chosen by MLflow for ``dovetail:``.

    MLflow splits a URI where it likes, into the one of a repository and a path in it:
    ``dovetail://name`` and ``7``, or ``dovetail://name/7`` and ``MLmodel``. They are put together
    before they are understood.
    """

    def __init__(self, artifact_uri: str, *arguments: Any, **options: Any) -> None:
        super().__init__(artifact_uri, *arguments, **options)
        self._opening = threading.Lock()
        self._models: dict[Reference, MadeModel | ServedModel] = {}

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return the files and directories right below a path; none if it is a file."""
        model, inside = self._find(path or "")
        if inside in model.sizes:
            return []
        prefix = f"{inside}/" if inside else ""
        below = {
            file.removeprefix(prefix): size
            for file, size in model.sizes.items()
            if file.startswith(prefix)
        }
        if not below:
            self._missing(path)
        names = sorted({file.partition("/")[0] for file in below})
        return [
            FileInfo(posixpath.join(path or "", name), name not in below, below.get(name))
            for name in names
        ]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        model, inside = self._find(remote_file_path)
        if inside not in model.sizes:
            self._missing(remote_file_path)
        with speaking_mlflow():
            model.write(inside, local_path)

    def log_artifact(self, local_file: Any, artifact_path: str | None = None) -> None:
        """Refuse: versions are made by registering."""
        del local_file, artifact_path
        self._refuse()

    def log_artifacts(self, local_dir: Any, artifact_path: str | None = None) -> None:
        """Refuse: versions are made by registering."""
        del local_dir, artifact_path
        self._refuse()

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Refuse: versions never change."""
        del artifact_path
        self._refuse()

    def _find(self, path: str) -> tuple[MadeModel | ServedModel, str]:
        """Return the model that a path leads to, and the path inside it."""
        whole = posixpath.join(self.artifact_uri, path) if path else self.artifact_uri
        with speaking_mlflow():
            reference, inside = split_uri(whole)
        with self._opening:  # once: what an alias names stays what it was at first
            if reference not in self._models:
                self._models[reference] = self._open(reference)
            return self._models[reference], inside

    def _open(self, reference: Reference) -> MadeModel | ServedModel:
        # MLflow imports this module in the middle of its own import.
        from dovetail.plugins.mlflow.made import MadeModel
        from dovetail.plugins.mlflow.served import ServedModel
        from dovetail.plugins.mlflow.whereabouts import advice_on, find_registry, is_server

        uri = find_registry(self.registry_uri)
        with speaking_mlflow(advice_on(uri)):
            return (ServedModel if is_server(uri) else MadeModel)(uri, reference)

    def _missing(self, path: str | None) -> NoReturn:
        raise missing(f"{self.artifact_uri} has no {path!r}")

    def _refuse(self) -> NoReturn:
        raise refusal(
            f"{self.artifact_uri} can only be read; register a version with: dovetail register, or "
            "mlflow.register_model"
        )
