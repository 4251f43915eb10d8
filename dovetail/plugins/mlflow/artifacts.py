"""Artifact URIs: ``dovetail://name@production`` and ``dovetail://name/7``.

The registry keeps plain PEFT payloads; what is downloaded from here is a whole MLflow model, made
when it is asked for. Every download is a copy of its own: MLflow writes into what it downloads.

MLflow imports this module while it is being imported itself, so what needs the rest of it is
imported later.
"""

from __future__ import annotations

import posixpath
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any, NoReturn

from mlflow.entities.file_info import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from dovetail.plugins.mlflow.problems import speaking_mlflow
from dovetail.registry.reference import Reference

_SCHEME = "dovetail:"
_ADVICE = " (the registry is the one that DOVETAIL_DATABASE_URL and DOVETAIL_OBJECTS_URL name)"


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
    parts = [part for part in uri.removeprefix(_SCHEME).split("/") if part]
    count = 1 if parts and "@" in parts[0] else 2
    reference = Reference.parse("/".join(parts[:count]))
    return reference, "/".join(parts[count:])


class DovetailArtifactRepository(ArtifactRepository):  # type: ignore[misc]  # mlflow has no types
    """The models that registered versions are, for reading; chosen by MLflow for ``dovetail:``.

    MLflow splits a URI where it likes, into the one of a repository and a path in it:
    ``dovetail://name`` and ``7``, or ``dovetail://name/7`` and ``MLmodel``. They are put together
    before they are understood.
    """

    def __init__(self, artifact_uri: str, *arguments: Any, **options: Any) -> None:
        super().__init__(artifact_uri, *arguments, **options)
        self._making = threading.Lock()
        self._made: dict[Reference, Path] = {}

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return the files and directories right below a path; none if it is a file."""
        place = self._place(path or "")
        if not place.is_dir():
            return []
        return [
            FileInfo(
                posixpath.join(path or "", child.name),
                child.is_dir(),
                None if child.is_dir() else child.stat().st_size,
            )
            for child in sorted(place.iterdir())
        ]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        place = self._place(remote_file_path)
        if not place.is_file():
            self._missing(remote_file_path)
        shutil.copyfile(place, local_path)

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

    def _place(self, path: str) -> Path:
        """Return where something of a model lies in a copy that is this object's own."""
        whole = posixpath.join(self.artifact_uri, path) if path else self.artifact_uri
        with speaking_mlflow():
            reference, inside = split_uri(whole)
        place = self._model(reference) / inside
        if ".." in Path(inside).parts or not place.exists():
            self._missing(path)
        return place

    def _model(self, reference: Reference) -> Path:
        """Make a model of a version, once; what an alias names stays what it was at first."""
        with self._making, speaking_mlflow(_ADVICE):
            if reference not in self._made:
                self._made[reference] = self._make(reference)
            return self._made[reference]

    def _make(self, reference: Reference) -> Path:
        # MLflow imports this module in the middle of its own import.
        from mlflow.models import Model

        from dovetail.plugins.mlflow.requirements import write_environment
        from dovetail.plugins.mlflow.sources import from_registry
        from dovetail.plugins.mlflow.writing import write_model
        from dovetail.registry.store import Registry

        kept = tempfile.TemporaryDirectory(prefix="dovetail-")
        weakref.finalize(self, kept.cleanup)
        directory = Path(kept.name)
        with Registry.open() as registry:
            write_model(from_registry(registry, reference), directory, model=Model())
        write_environment(directory)
        return directory

    def _missing(self, path: str) -> NoReturn:
        raise MlflowException(
            f"{self.artifact_uri} has no {path!r}", error_code=RESOURCE_DOES_NOT_EXIST
        )

    def _refuse(self) -> NoReturn:
        raise MlflowException(
            f"{self.artifact_uri} can only be read; register a version with: dovetail register, or "
            "mlflow.register_model",
            error_code=INVALID_PARAMETER_VALUE,
        )
