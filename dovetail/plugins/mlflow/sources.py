"""What a model is made of: a ``PeftModel``, an adapter's directory, or a registered version."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from dovetail.errors import (
    BaseModelNotFound,
    IncompatibleBaseModel,
    InvalidInput,
    InvalidReference,
)
from dovetail.loader.verify import check_weights
from dovetail.plugins.mlflow.behind import open_versions
from dovetail.plugins.mlflow.documents import describe_base, labels_beside, labels_of, settings_of
from dovetail.plugins.mlflow.finding import find_base
from dovetail.plugins.mlflow.saved import SavedAdapter, check_unchanged, read_saved
from dovetail.plugins.mlflow.whereabouts import SCHEME
from dovetail.registry.basedocument import read_base_document
from dovetail.registry.compatibility import check_against_base
from dovetail.registry.directories import is_directory
from dovetail.registry.fingerprint import BaseCheckpoint, read_base
from dovetail.registry.live import check_live_model
from dovetail.registry.metadata import Metadata
from dovetail.registry.payload import Payload, read_payload, read_registered
from dovetail.registry.reference import Reference
from dovetail.settings import Settings

_logger = logging.getLogger(__name__)

_MODEL_CARD = "README.md"  # PEFT's, with every line still to be filled in
_SETTLED = ("base_model", "base_revision", "allow_base_mismatch", "exclude")
_TRAINED = ("task", "input_template", "generation_config", "hyperparameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a caller says of the adapter to save, as `save_model` describes it."""

    base_model: str | os.PathLike[str] | None = None
    base_revision: str | None = None
    allow_base_mismatch: bool = False
    exclude: Sequence[str] = ()
    task: str | None = None
    input_template: str | None = None
    generation_config: Mapping[str, Any] | None = None
    hyperparameters: Mapping[str, Any] | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What is said of how the adapter was trained and is used."""
        values = {name: getattr(self, name) for name in _TRAINED}
        return {name: value for name, value in values.items() if value is not None}

    def checked(self) -> Self:
        """Return the same as a version would record it.

        Raises:
            InvalidInput: A value cannot be kept; the message says which and why.
        """
        rest: dict[str, Any] = dict.fromkeys(("description", "tags", "scores", "source_run"))
        metadata = Metadata.checked(**{name: getattr(self, name) for name in _TRAINED}, **rest)
        return replace(self, **{name: getattr(metadata, name) for name in self.said})


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter that is ready to be saved: what is known of it, and its checked files."""

    saved: SavedAdapter
    payload: Payload


@contextmanager
def open_source(adapter: Any, wanted: Wanted) -> Iterator[Source]:
    """Find the files of an adapter, and the base model that it was trained on.

    Raises:
        InvalidInput: It is none, or it contradicts what is wanted.
        InvalidPayload: Its files are damaged, unsafe or incomplete.
        BaseModelNotFound: Its base model is not on this machine.
        IncompatibleBaseModel: It does not fit its base model.
        NotFoundError: There is no such version.
    """
    wanted = wanted.checked()
    if _is_peft_model(adapter):
        with tempfile.TemporaryDirectory(prefix="dovetail-") as kept:
            yield _from_model(adapter, wanted, Path(kept))
        return
    if not isinstance(adapter, str | os.PathLike | Reference):
        raise InvalidInput(
            f"the adapter is a {type(adapter).__name__}; give a PeftModel, the directory that its "
            "save_pretrained wrote, or a reference such as name@production"
        )
    place = str(adapter)
    if is_directory(place):
        yield _from_directory(Path(place), wanted)
        return
    reference = _as_reference(place, wanted)
    with open_versions() as registry:
        yield from_registry(registry, reference)


def from_registry(registry: Any, reference: Reference) -> Source:
    """Return a registered version, with all that the registry knows of its base model.

    Args:
        registry: A `Registry`, or one behind an MLflow server, which is asked in the same words.
        reference: Which version.

    Raises:
        NotFoundError: There is no such version.
        DigestMismatch: A stored file is corrupt.
    """
    version = registry.resolve(reference)
    document = registry.base_document(version.base_model)
    base = registry.base_model(version.base_model)
    directory = registry.fetch(version)
    name = str(version.reference)
    payload = read_registered(directory, digest=version.payload_digest, what=name)
    saved = SavedAdapter(
        payload=directory,
        base_name=base.name,
        base_revision=base.revision,
        base_fingerprint=base.fingerprint,
        base_location=base.location,
        base_document=document,
        payload_digest=payload.digest,
        reference=name,
        task=version.task,
        input_template=version.input_template,
        generation_config=dict(version.generation_config),
        hyperparameters=dict(version.hyperparameters),
    )
    return Source(saved, payload)


def _is_peft_model(adapter: Any) -> bool:
    """Tell whether it is one; where peft was never imported, nothing is."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(adapter, peft.PeftModel)


def _as_reference(text: str, wanted: Wanted) -> Reference:
    try:
        reference = Reference.parse(text.removeprefix(f"{SCHEME}://"))
    except InvalidReference as error:
        raise InvalidReference(f"{text!r} is no directory, and {error}", value=text) from error
    given = [*wanted.said, *(name for name in _SETTLED if getattr(wanted, name))]
    if given:
        raise InvalidInput(
            f"{text!r} is a registered version, and {', '.join(given)} were settled when it was "
            "registered; leave them out here",
            value=text,
        )
    return reference


def _from_model(model: Any, wanted: Wanted, kept: Path) -> Source:
    from dovetail.plugins.training_run import save_adapter, task_of

    config = model.peft_config[model.active_adapter]
    named = config.base_model_name_or_path or model.base_model.name_or_path
    base = _read_base(wanted, name=named or None, revision=config.revision)
    try:
        replaced = getattr(config, "modules_to_save", None) or ()
        check_live_model(model, base.manifest, ignore=replaced)
    except IncompatibleBaseModel as error:
        if not wanted.allow_base_mismatch:
            raise
        _logger.warning("saved all the same, as asked for: %s", error)
    directory = save_adapter(model, kept)
    payload = read_payload(directory, exclude=[*wanted.exclude, _MODEL_CARD])
    labels = labels_of(getattr(model.config, "to_dict", dict)(), config.task_type)
    plain = SavedAdapter(payload=directory, task=task_of(config), hyperparameters=labels)
    return _described(plain, payload, base, wanted)


def _from_directory(directory: Path, wanted: Wanted) -> Source:
    saved = read_saved(directory)
    if saved is None:
        raise InvalidInput(
            f"{str(directory)!r} holds no adapter; give the directory that "
            "PeftModel.save_pretrained wrote",
            directory=str(directory),
        )
    check_unchanged(saved)
    payload = read_payload(saved.payload, exclude=wanted.exclude)
    if wanted.base_model is None and saved.base_document is not None:
        base = read_base_document(saved.base_document)
    else:
        named = saved.base_location or saved.base_name
        base = _read_base(wanted, name=named, revision=saved.base_revision)
    if saved.base_fingerprint is not None and not check_weights(
        expected=saved.base_fingerprint,
        found=base,
        registry=None,
        what=f"the adapter in {str(directory)!r} was trained on",
        allow=wanted.allow_base_mismatch,
    ):
        _logger.warning(
            "saved the adapter in %s, which was trained on %s, for %s (%s), as asked for",
            directory,
            saved.base_fingerprint,
            base.name,
            base.manifest.fingerprint,
        )
    return _described(saved, payload, base, wanted)


def _read_base(wanted: Wanted, *, name: str | None, revision: str | None) -> BaseCheckpoint:
    given = wanted.base_model or name
    if not given:
        raise BaseModelNotFound(
            "neither the adapter's configuration nor its model says which base model it was "
            "trained on; give base_model=DIRECTORY"
        )
    revision = wanted.base_revision or revision
    directory = find_base(given, revision=revision)
    hub = not is_directory(given)
    return read_base(
        directory,
        revision=None if hub else wanted.base_revision,  # a snapshot's path has its commit
        cache_dir=Settings.from_env().cache_dir,
    )


def _described(
    saved: SavedAdapter, payload: Payload, base: BaseCheckpoint, wanted: Wanted
) -> Source:
    check_against_base(
        payload, base.manifest, hidden_size=base.hidden_size, model_type=base.model_type
    )
    found = {
        **settings_of(payload.config),
        **labels_beside(saved.payload, payload.config.get("task_type")),
    }
    location = str(base.directory.resolve()) if base.directory and base.directory.is_dir() else None
    described: dict[str, Any] = {
        "payload": saved.payload,
        "base_name": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.manifest.fingerprint,
        "base_location": location,
        "base_document": describe_base(base, location=location),
        "payload_digest": payload.digest,
    }
    known = {name: getattr(saved, name) for name in _TRAINED}
    told = {**known, **wanted.said}
    told["hyperparameters"] = {**found, **told["hyperparameters"]}
    return Source(SavedAdapter(**described, **told), payload)
