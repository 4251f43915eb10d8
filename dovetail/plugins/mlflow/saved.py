"""What a directory holds that an adapter was saved in; the layout of the flavor's own.

::

    MLmodel                     flavors `dovetail` and `python_function`, signature, metadata
    adapter/                    the payload, byte for byte
    base_model.json             the base model's manifest and what else is known of it; no weights
    requirements.txt, conda.yaml, python_env.yaml, input_example.json …

Nothing here needs a registry, and nothing from a directory is executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dovetail.errors import InvalidInput, InvalidPayload
from dovetail.registry.directories import is_directory
from dovetail.registry.jsontext import parse_json
from dovetail.registry.payload import (
    Payload,
    check_file_path,
    read_payload,
    read_registered,
)
from dovetail.registry.peftconfig import CONFIG_FILE

FLAVOR_NAME = "dovetail"
MODEL_FILE = "MLmodel"
ADAPTER_DIRECTORY = "adapter"
BASE_FILE = "base_model.json"

_MOST_BYTES = 2**30
_MOST_CONFIG_BYTES = 2**20
# Both are safe loaders; the one in C takes a tenth of the time, where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedAdapter:
    """An adapter in a directory, and what is recorded of it there.

    Attributes:
        payload: Directory with ``adapter_config.json`` and the weights.
        base_name: What the base model is called, or None.
        base_revision: Its revision, or None.
        base_fingerprint: Hash of its weights, or None where nobody recorded it.
        base_location: Directory in which it was last seen, or None.
        base_document: The base model as `Registry.register_base_document` takes it, or None.
        payload_digest: Digest that the payload had when it was saved, or None.
        reference: ``name/7`` if it was made from a registered version, or None.
        task: Pipeline tag such as ``summarization``, or None.
        input_template: Template that the training inputs were made with, or None.
        generation_config: Generation defaults.
        hyperparameters: What the training run used.
    """

    payload: Path
    base_name: str | None = None
    base_revision: str | None = None
    base_fingerprint: str | None = None
    base_location: str | None = None
    base_document: Mapping[str, Any] | None = None
    payload_digest: str | None = None
    reference: str | None = None
    task: str | None = None
    input_template: str | None = None
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


def read_saved(directory: str | os.PathLike[str]) -> SavedAdapter | None:
    """Find the adapter that a directory holds.

    That is a model of this flavor, one of MLflow's transformers flavor that was saved from a
    ``PeftModel``, or what PEFT's ``save_pretrained`` wrote; or a directory with one of these in it,
    such as the artifacts of a run.

    Args:
        directory: A local directory.

    Returns:
        The adapter, or None if there is none. Its files were not read; `read_unchanged` does that.

    Raises:
        InvalidInput: There are several, or what describes it cannot be read.
    """
    root = Path(directory)
    if not root.is_dir():
        return None
    found = _read_one(root)
    if found is not None:
        return found
    children = sorted(child for child in root.iterdir() if child.is_dir())
    held = {child.name: saved for child in children if (saved := _read_one(child)) is not None}
    if len(held) > 1:
        raise InvalidInput(
            f"{str(root)!r} holds {len(held)} adapters ({', '.join(list(held)[:5])}); say which",
            directory=str(root),
            adapters=list(held),
        )
    return next(iter(held.values()), None)


def read_unchanged(saved: SavedAdapter) -> Payload:
    """Read the files of an adapter, which have to be those that were saved, if that is recorded.

    Raises:
        DigestMismatch: They are others.
        InvalidPayload: They are damaged, unsafe or incomplete.
    """
    if saved.payload_digest is None:
        return read_payload(saved.payload)
    return read_registered(
        saved.payload,
        digest=saved.payload_digest,
        what="the saved adapter",
        advice="they were changed since it was saved; save it again from where it was trained",
    )


def check_unchanged(saved: SavedAdapter) -> None:
    """See that the files of an adapter are those that were saved, if that is recorded.

    Raises:
        DigestMismatch: They are others.
        InvalidPayload: One is missing or is no plain file.
    """
    if saved.payload_digest is not None:
        read_unchanged(saved)


def read_flavors(directory: Path) -> Mapping[str, Any]:
    """Return the flavors in a directory's MLmodel file; none without one.

    Raises:
        InvalidInput: The file is not what MLflow writes.
    """
    path = directory / MODEL_FILE
    return parse_flavors(path.read_bytes(), what=repr(str(path))) if path.is_file() else {}


def parse_flavors(text: bytes, *, what: str) -> Mapping[str, Any]:
    """Return the flavors that an MLmodel file lists.

    Args:
        text: The file's bytes.
        what: Which file it is, for the error message.

    Raises:
        InvalidInput: It is not what MLflow writes.
    """
    try:
        value = yaml.load(text, _LOADER)  # noqa: S506 (the rule does not see that _LOADER is a safe one)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{what} is no MLmodel file: {error}", path=what) from error
    flavors = value.get("flavors") if isinstance(value, dict) else None
    if not isinstance(flavors, dict) or not all(isinstance(v, dict) for v in flavors.values()):
        raise InvalidInput(f"{what} is no MLmodel file: it lists no flavors", path=what)
    return flavors


def _read_one(root: Path) -> SavedAdapter | None:
    flavors = read_flavors(root)
    if FLAVOR_NAME in flavors:
        return read_described(root, flavors[FLAVOR_NAME])
    transformers = flavors.get("transformers", {})
    if "peft_adaptor" in transformers:
        return _read_transformers(root, transformers)
    return _read_plain(root)


def read_described(root: Path, flavor: Mapping[str, Any]) -> SavedAdapter:
    """Read a model of this flavor.

    Args:
        root: The model's directory.
        flavor: What its MLmodel file says of the flavor.

    Raises:
        InvalidInput: It has no adapter, or what describes it cannot be read.
    """
    base = _table(flavor, "base_model", root)
    document = None
    if (root / BASE_FILE).is_file():
        document = parse_json(
            (root / BASE_FILE).read_bytes(), what=BASE_FILE, max_bytes=_MOST_BYTES
        )
        if not isinstance(document, dict):
            raise InvalidInput(f"{str(root / BASE_FILE)!r} is no JSON object", path=str(root))
    payload = _inside(root, flavor.get("adapter"))
    if _peft_config(payload) is None:
        raise InvalidInput(
            f"{str(root)!r} is an MLflow model of an adapter, but {str(payload)!r} holds none; "
            "download or log it again",
            directory=str(root),
        )
    return SavedAdapter(
        payload=payload,
        base_name=_text(base, "name"),
        base_revision=_text(base, "revision"),
        base_fingerprint=_text(base, "fingerprint"),
        base_location=_text(base, "location"),
        base_document=document,
        payload_digest=_text(flavor, "payload_digest"),
        reference=_text(flavor, "reference"),
        task=_text(flavor, "task"),
        input_template=_text(flavor, "input_template"),
        generation_config=_table(flavor, "generation_config", root),
        hyperparameters=_table(flavor, "hyperparameters", root),
    )


def _read_transformers(root: Path, flavor: Mapping[str, Any]) -> SavedAdapter | None:
    """Read what MLflow's transformers flavor made of a pipeline with a ``PeftModel``."""
    payload = _inside(root, flavor["peft_adaptor"])
    config = _peft_config(payload)
    if config is None:
        return None
    name = _text(flavor, "source_model_name") or _text(config, "base_model_name_or_path")
    return SavedAdapter(
        payload=payload,
        base_name=name,
        base_revision=_text(flavor, "source_model_revision") or _text(config, "revision"),
        base_location=_text(flavor, "local_base_model_path") or _directory(name),
        task=_text(flavor, "task"),
    )


def _read_plain(root: Path) -> SavedAdapter | None:
    config = _peft_config(root)
    if config is None:
        return None
    name = _text(config, "base_model_name_or_path")
    return SavedAdapter(
        payload=root,
        base_name=name,
        base_revision=_text(config, "revision"),
        base_location=_directory(name),
    )


def _peft_config(directory: Path) -> dict[str, Any] | None:
    """Return PEFT's configuration; other libraries have files of that name, without this key."""
    path = directory / CONFIG_FILE
    if not path.is_file() or path.stat().st_size > _MOST_CONFIG_BYTES:
        return None
    try:
        config = parse_json(path.read_bytes(), what=CONFIG_FILE)
    except InvalidInput:
        return None
    found = isinstance(config, dict) and isinstance(config.get("peft_type"), str)
    return config if found else None


def _inside(root: Path, path: Any) -> Path:
    try:
        return root / check_file_path(path if isinstance(path, str) else "")
    except InvalidPayload as error:
        raise InvalidInput(
            f"the MLmodel file in {str(root)!r} says that its adapter lies in {path!r}; that is no "
            "directory inside it",
            directory=str(root),
        ) from error


def _directory(name: str | None) -> str | None:
    return name if name is not None and is_directory(name) else None


def _text(table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    return value if isinstance(value, str) and value else None


def _table(flavor: Mapping[str, Any], key: str, root: Path) -> Mapping[str, Any]:
    value = flavor.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{key} in the MLmodel file in {str(root)!r} is {value!r}; it must be a table",
            directory=str(root),
        )
    return value
