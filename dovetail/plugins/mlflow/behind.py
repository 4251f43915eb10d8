"""The registry behind an MLflow server, as far as an adapter's way onto its base needs one."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidInput
from dovetail.plugins.mlflow.saved import SavedAdapter, read_saved
from dovetail.plugins.mlflow.whereabouts import find_registry, is_server, open_registry
from dovetail.registry.basedocument import read_base_document
from dovetail.registry.reference import Reference
from dovetail.registry.transport.parsing import parse_base_model

if TYPE_CHECKING:
    from dovetail.plugins.mlflow.served import ServedModel
    from dovetail.registry.manifest import Manifest
    from dovetail.registry.records import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """What `dovetail.registry.records.AdapterVersion` says of a version, as far as it came."""

    reference: Reference
    payload: Path
    payload_digest: str
    base_model: str
    task: str | None
    input_template: str | None
    generation_config: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]


class ServedRegistry:
    """Versions that come through an MLflow server, asked for as `dovetail.Registry` is asked.

    What came stays on disk as long as this object does.

    Args:
        server: The server's URL.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        kept = tempfile.TemporaryDirectory(prefix="dovetail-")
        weakref.finalize(self, kept.cleanup)
        self._directory = Path(kept.name)
        self._lock = threading.Lock()
        self._saved: dict[tuple[Reference, str], SavedAdapter] = {}
        self._documents: dict[str, Mapping[str, Any]] = {}

    def resolve(self, reference: str | Reference) -> ServedVersion:
        """Fetch a version, unless it is here; an alias is looked up now.

        Raises:
            MlflowException: The server refuses; with its code and its words.
            DigestMismatch: What came is not what the registry has.
            StorageError: The connection broke.
        """
        # MLflow imports this package in the middle of its own import.
        from dovetail.plugins.mlflow.served import ServedModel

        model = ServedModel(self._server, Reference.parse(str(reference)))
        key = (model.reference, model.payload_digest)
        with self._lock:
            saved = self._saved.get(key)
            if saved is None:
                saved = self._saved[key] = self._fetch(model)
            fingerprint, document = saved.base_fingerprint, saved.base_document
            if fingerprint is None or document is None:
                raise InvalidInput(f"{model} does not say which base model it was trained on")
            self._documents[fingerprint] = document
        return ServedVersion(
            reference=model.reference,
            payload=saved.payload,
            payload_digest=model.payload_digest,
            base_model=fingerprint,
            task=saved.task,
            input_template=saved.input_template,
            generation_config=saved.generation_config,
            hyperparameters=saved.hyperparameters,
        )

    def fetch(self, version: ServedVersion) -> Path:
        """Return the directory with the adapter's files."""
        return version.payload

    def base_document(self, fingerprint: str) -> Mapping[str, Any]:
        """Return the document of a base model that a version was resolved for."""
        return self._documents[fingerprint]

    def base_model(self, fingerprint: str) -> BaseModel:
        """Return what is known of such a base model."""
        return parse_base_model(self._documents[fingerprint]["base_model"])

    def base_manifest(self, fingerprint: str) -> Manifest:
        """Return the manifest of such a base model."""
        return read_base_document(self._documents[fingerprint]).manifest

    def note_base_mismatch(self, reference: Reference, *, attached_to: str) -> None:
        """Do nothing: MLflow's protocol has no call that writes into the history."""

    def _fetch(self, model: ServedModel) -> SavedAdapter:
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        model.write_all(directory)
        saved = read_saved(directory)
        if saved is None:
            raise InvalidInput(f"the model of {model} holds no adapter")
        return saved


@lru_cache(maxsize=8)
def _behind(server: str) -> ServedRegistry:
    return ServedRegistry(server)


@contextmanager
def open_versions() -> Iterator[Any]:
    """Open the registry that a reference means (`dovetail.plugins.mlflow.whereabouts`).

    Raises:
        StorageError: It cannot be reached.
    """
    uri = find_registry()
    if is_server(uri):
        yield _behind(uri)
    else:
        with open_registry(uri) as registry:
            yield registry
