"""What an import adds to what is there, and what stands in its way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from dovetail.registry.records import AdapterVersion, BaseModel, Evaluation, Event
from dovetail.registry.transport.documents import (
    AdapterDocument,
    BaseDocument,
    Pointer,
    identity,
    key_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPlan:
    """What importing an adapter would change.

    Attributes:
        about: Whether description, tags and the date of the first version are taken over.
        task: The task that it has afterwards.
        deleted_at: When it was deleted, or None if it is alive afterwards.
        updated_at: When it was last changed.
        versions: Versions to add.
        edits: Versions that are there, with the description and tags that are taken over.
        deletions: When versions that are there were deleted, or None for those brought back.
        evaluations: Evaluations to add.
        aliases: Aliases to set or move.
        dropped: Aliases to take away.
        requirements: What aliases will require.
        events: Events to append.
        conflicts: What stands in the way, in words.
    """

    about: bool
    task: str | None
    deleted_at: datetime | None
    updated_at: datetime
    versions: tuple[AdapterVersion, ...]
    edits: tuple[AdapterVersion, ...]
    deletions: Mapping[int, datetime | None]
    evaluations: tuple[Evaluation, ...]
    aliases: tuple[Pointer, ...]
    dropped: tuple[str, ...]
    requirements: Mapping[str, tuple[str, ...]]
    events: tuple[Event, ...]
    conflicts: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(
            self.versions
            or self.edits
            or self.deletions
            or self.evaluations
            or self.aliases
            or self.dropped
            or self.requirements
            or self.events
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePlan:
    """What importing a base model would change.

    Attributes:
        base: The base model, as it will be known.
        added: Whether it is new.
        evaluations: Evaluations to add.
        events: Events to append.
    """

    base: BaseModel
    added: bool
    evaluations: tuple[Evaluation, ...]
    events: tuple[Event, ...]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.added or self.evaluations or self.events)


def plan_base(
    ours: BaseDocument | None, theirs: BaseDocument, *, known: Collection[str]
) -> BasePlan:
    """Compare a base model in a bundle with what is there.

    Args:
        ours: What is there.
        theirs: What the bundle says.
        known: Identities of the bundle's events that are in our history.
    """
    return BasePlan(
        base=ours.base if ours else theirs.base,
        added=ours is None,
        evaluations=new_evaluations(ours.evaluations if ours else (), theirs.evaluations),
        events=tuple(event for event in theirs.events if identity(event) not in known),
    )


def plan_new(theirs: AdapterDocument) -> AdapterPlan:
    """Plan to add an adapter that is not there."""
    return AdapterPlan(
        about=True,
        task=theirs.task,
        deleted_at=theirs.deleted_at,
        updated_at=theirs.updated_at,
        versions=theirs.versions,
        edits=(),
        deletions={},
        evaluations=theirs.evaluations,
        aliases=theirs.aliases,
        dropped=(),
        requirements=theirs.requirements,
        events=theirs.events,
        conflicts=(),
    )


def new_evaluations(
    ours: tuple[Evaluation, ...], theirs: tuple[Evaluation, ...]
) -> tuple[Evaluation, ...]:
    """Return those evaluations of a bundle that are not here."""
    here = {key_of(evaluation) for evaluation in ours}
    return tuple(evaluation for evaluation in theirs if key_of(evaluation) not in here)
