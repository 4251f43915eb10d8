"""The MLflow model of a registered version, made when it is asked for."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

from mlflow.models import Model

from dovetail.plugins.mlflow.contents import FILES, as_entry, list_contents
from dovetail.plugins.mlflow.requirements import write_environment
from dovetail.plugins.mlflow.saved import ADAPTER_DIRECTORY, FLAVOR_NAME, MODEL_FILE
from dovetail.plugins.mlflow.sources import from_registry
from dovetail.plugins.mlflow.whereabouts import open_registry
from dovetail.plugins.mlflow.writing import write_model
from dovetail.registry.reference import Reference


class MadeModel:
    """A version from a registry, as the files of an MLflow model.

    The adapter's own files stay where the registry's cache has them; the others are in a directory
    that goes when this object does.

    Args:
        store_uri: Which registry, as for ``mlflow server --registry-store-uri``.
        reference: Which version; an alias is looked up now.

    Attributes:
        sizes: Bytes of each file, by its path in the model.

    Raises:
        NotFoundError: There is no such version.
        DigestMismatch: A stored file is corrupt.
        StorageError: The registry cannot be reached.
    """

    sizes: Mapping[str, int]

    def __init__(self, store_uri: str, reference: Reference) -> None:
        kept = tempfile.TemporaryDirectory(prefix="dovetail-")
        weakref.finalize(self, kept.cleanup)
        directory = Path(kept.name)
        with open_registry(store_uri) as registry:
            source = from_registry(registry, reference)
        model = Model()
        write_model(source, directory, model=model, copy=False)
        write_environment(directory)
        files = list_contents(directory, source.payload)
        model.flavors[FLAVOR_NAME][FILES] = as_entry(files)
        model.save(str(directory / MODEL_FILE))
        self._directory, self._payload = directory, source.payload.directory
        self.sizes = {
            MODEL_FILE: (directory / MODEL_FILE).stat().st_size,
            **{file.path: file.size for file in files},
        }

    def write(self, path: str, to: str) -> None:
        """Write a copy of one of the files.

        Args:
            path: Its path in the model.
            to: File to write.
        """
        top, _, rest = path.partition("/")
        own = self._payload / rest if top == ADAPTER_DIRECTORY else self._directory / path
        shutil.copyfile(own, to)
