"""What is recorded beside an adapter: its base model, and what its outputs are called."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dovetail.errors import InvalidInput
from dovetail.registry.basedocument import write_base_document
from dovetail.registry.digests import digest_bytes
from dovetail.registry.fingerprint import CONFIG_FILE, BaseCheckpoint
from dovetail.registry.jsontext import parse_json
from dovetail.registry.peftconfig import HYPERPARAMETERS
from dovetail.registry.records import BaseModel

_MOST_BYTES = 2**20
_CLASSIFIES = "SEQ_CLS"
_LABELS = "id2label"
_PROBLEM = "problem_type"


def describe_base(base: BaseCheckpoint, *, location: str | None) -> dict[str, Any]:
    """Return the document of a base model as a registry would give it.

    Args:
        base: What was read from its files.
        location: Where they are on this machine, or None.
    """
    record = BaseModel(
        fingerprint=base.manifest.fingerprint,
        name=base.name,
        location=location,
        revision=base.revision,
        architecture=base.architecture,
        model_type=base.model_type,
        hidden_size=base.hidden_size,
        parameter_count=base.parameter_count,
        dtype=base.dtype,
        tokenizer_digest=base.tokenizer_digest,
        manifest_digest=digest_bytes(base.manifest.to_json()),
        created_at=datetime.now(UTC),
    )
    return write_base_document(record, base.manifest)


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an ``adapter_config.json`` says of the training, as hyperparameters to search by.

    Examples:
        >>> settings_of({"r": 16, "use_dora": False, "revision": None})
        {'r': 16}
    """
    found = {name: config.get(name) for name in HYPERPARAMETERS}
    return {
        name: value for name, value in found.items() if value is not None and value is not False
    }


def labels_of(config: Mapping[str, Any], task_type: object) -> dict[str, Any]:
    """Return hyperparameters that name a classifier's outputs, as far as a model's config does.

    They are ``id2label`` and ``problem_type``: what the outputs are called, and what they mean.

    Args:
        config: The model's configuration.
        task_type: PEFT's task type.
    """
    if str(getattr(task_type, "value", task_type)) != _CLASSIFIES:
        return {}
    found: dict[str, Any] = {}
    table, problem = config.get(_LABELS), config.get(_PROBLEM)
    if isinstance(table, Mapping) and table:
        found[_LABELS] = {str(key): str(name) for key, name in table.items()}
    if isinstance(problem, str):
        found[_PROBLEM] = problem
    return found


def labels_beside(directory: Path, task_type: object) -> dict[str, Any]:
    """Return the same of the ``config.json`` that some training runs leave beside an adapter.

    It belongs to no payload, so what it says would be lost; one that cannot be read says nothing.
    """
    path = directory / CONFIG_FILE
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return {}
        config = parse_json(path.read_bytes(), what=CONFIG_FILE)
    except (OSError, InvalidInput):
        return {}
    return labels_of(config, task_type) if isinstance(config, dict) else {}
