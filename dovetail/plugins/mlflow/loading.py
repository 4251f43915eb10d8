"""Load a saved model: find its base, share it, attach the adapter."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.tracking.artifact_utils import _download_artifact_from_uri
from mlflow.utils.model_utils import _add_code_from_conf_to_system_path

from dovetail.errors import DovetailError
from dovetail.plugins.mlflow.bases import share_base
from dovetail.plugins.mlflow.finding import known_registry
from dovetail.plugins.mlflow.model import AttachedModel
from dovetail.plugins.mlflow.options import LoadOptions
from dovetail.plugins.mlflow.saved import FLAVOR_NAME, SavedAdapter, read_described, read_flavors

if TYPE_CHECKING:
    from dovetail.loader.base import FrozenBase

_logger = logging.getLogger(__name__)


def load_model(
    model_uri: str,
    dst_path: str | os.PathLike[str] | None = None,
    *,
    model_config: Mapping[str, Any] | None = None,
) -> AttachedModel:
    """Load a model: the adapter, attached to its frozen base model.

    The base model is read from this machine's disk and nothing is downloaded but the adapter. It is
    opened once per process, device and type, however many adapters are loaded for it.

    Args:
        model_uri: Where the model is: a directory, ``models:/name@production``,
            ``models:/m-…``, ``runs:/…``, ``dovetail://name/7``, or what else MLflow understands.
        dst_path: Directory that exists, to download the model to.
        model_config: What differs from what was saved with the model: ``base_model`` (directory,
            hub name or registered name of the base model, if it moved), ``base_revision``,
            ``device``, ``dtype``, ``allow_base_mismatch``, ``batch_size``, ``seed`` and
            generation options.

    Raises:
        BaseModelNotFound: The base model's files are not on this machine.
        IncompatibleBaseModel: They have other weights than the adapter was trained on, or another
            tokenizer.
        DigestMismatch: The adapter's files are not those that were saved.
        InvalidInput: ``model_config`` has a key that is not taken.
        MlflowException: There is no such model, or it has another flavor.
    """
    place = None if dst_path is None else os.fspath(dst_path)
    directory = Path(_download_artifact_from_uri(artifact_uri=str(model_uri), output_path=place))
    flavors = read_flavors(directory)
    if FLAVOR_NAME not in flavors:
        raise MlflowException(
            f"the model at {model_uri!r} has not the {FLAVOR_NAME!r} flavor, but "
            f"{', '.join(flavors) or 'none'}",
            RESOURCE_DOES_NOT_EXIST,
        )
    _add_code_from_conf_to_system_path(str(directory), flavors[FLAVOR_NAME])
    kept = flavors.get("python_function", {}).get("config") or {}
    return _attach(directory, flavors, {**kept, **(model_config or {})})


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> AttachedModel:
    """Load a model from a directory for ``mlflow.pyfunc``."""
    return _attach(Path(path), read_flavors(Path(path)), model_config)


def _attach(
    directory: Path, flavors: Mapping[str, Any], config: Mapping[str, Any] | None
) -> AttachedModel:
    options = LoadOptions.parse(config)
    saved = read_described(directory, flavors[FLAVOR_NAME])
    shared, fits = share_base(saved, options)
    model = AttachedModel(saved, shared, options, fits=fits)
    if not fits:
        _tell_of_mismatch(saved, model.base)
    return model


def _tell_of_mismatch(saved: SavedAdapter, base: FrozenBase) -> None:
    """Say in the log, and in the history of the registry that the version is from, what was done.

    A registry behind an MLflow server is only read through it.
    """
    _logger.warning(
        "attached %s, which was trained on %s, to %s, as asked for",
        saved.reference or saved.payload,
        saved.base_fingerprint,
        base.fingerprint,
    )
    if saved.reference is None:
        return
    try:
        with known_registry() as registry:
            # One of another machine may have another version of this name.
            version = None if registry is None else registry.resolve(saved.reference)
            if registry and version and version.payload_digest == saved.payload_digest:
                registry.note_base_mismatch(version.reference, attached_to=base.fingerprint)
    except DovetailError as error:
        _logger.warning("that is not in the registry's history: %s", error)
