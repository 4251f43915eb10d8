"""What a bundle says of an adapter, or of a base model; and how that is written as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dovetail.registry.jsontext import canonical_json
from dovetail.registry.metadata import Metadata
from dovetail.registry.records import AdapterVersion, BaseModel, Evaluation, Event

# What a version and an evaluation share with the document that they are in.
_IMPLIED: Mapping[Any, Collection[str]] = {
    AdapterVersion: {"name", "task", "base_model_name", "aliases"},
    Evaluation: {"name"},
}
MOVES = frozenset({"promote", "rollback", "drop-alias"})
"""Events that move an alias, or take it away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """An alias: the number of the version that it points to, since when, and who moved it."""

    alias: str
    number: int
    moved_at: datetime
    moved_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterDocument:
    """An adapter with all that belongs to it.

    Attributes:
        name: Its name.
        task: Its task.
        description: Free text.
        tags: Free pairs.
        created_at: When the name was first used.
        deleted_at: When it was deleted, or None.
        updated_at: When it was last changed.
        versions: Its versions from 1 on, deleted ones included, without their aliases.
        evaluations: Their evaluations, the oldest first.
        aliases: Its aliases, by name.
        requirements: What each alias requires.
        events: Its history, the oldest first.
    """

    name: str
    task: str | None
    description: str
    tags: Mapping[str, str]
    created_at: datetime
    deleted_at: datetime | None
    updated_at: datetime
    versions: tuple[AdapterVersion, ...]
    evaluations: tuple[Evaluation, ...]
    aliases: tuple[Pointer, ...]
    requirements: Mapping[str, tuple[str, ...]]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseDocument:
    """A base model, the evaluations of it without any adapter, and its history."""

    base: BaseModel
    evaluations: tuple[Evaluation, ...]
    events: tuple[Event, ...]


def to_json(document: AdapterDocument | BaseDocument) -> bytes:
    """Write a document: the same facts give the same bytes."""
    return canonical_json(plain(document))


def content_of(version: AdapterVersion) -> str:
    """Identify what a version is, as registering does."""
    metadata = Metadata.checked(
        task=None,
        description=None,
        tags=None,
        hyperparameters=version.hyperparameters,
        input_template=version.input_template,
        generation_config=version.generation_config,
        scores=None,
        source_run=version.source_run,
    )
    return metadata.content_digest(version.payload_digest, version.base_model)


def key_of(evaluation: Evaluation) -> bytes:
    """Return what tells an evaluation from others: all that it says."""
    return canonical_json(plain(evaluation))


def identity(event: Event) -> str:
    """Return the hash that an event has in the registry where it happened."""
    return event.origin or event.hash


def hidden_by(event: Event) -> Collection[Any]:
    """Return the numbers of the versions that were hidden with their adapter."""
    hidden = event.details.get("versions") if event.action == "delete-adapter" else None
    return hidden if isinstance(hidden, list) else ()


def plain(value: Any) -> Any:
    """Return records as JSON values, without what the document around them says."""
    if dataclasses.is_dataclass(value):
        implied = _IMPLIED.get(type(value), ())
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in implied
        }
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
