"""Decide what an import adds to what is there, and what stands in its way.

Two histories of one thing, an alias for example, are compared by their events, which have the same
identity wherever they were imported to. If one side knows all that the other knows, the longer
history wins, without any conflict. If each has events of its own, the two have gone apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from dovetail.registry.records import AdapterVersion, BaseModel, Evaluation, Event
from dovetail.registry.transport.documents import (
    MOVES,
    AdapterDocument,
    BaseDocument,
    Pointer,
    content_of,
    identity,
    key_of,
)


class _Side(Enum):
    """Whose state holds after an import."""

    OURS = "ours"
    THEIRS = "theirs"
    APART = "apart"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPlan:
    """What importing an adapter would change.

    Attributes:
        about: Whether task, description, tags and dates are taken over.
        task: The task that it has afterwards.
        versions: Versions to add.
        deletions: When versions that are there were deleted, or None for those brought back.
        evaluations: Evaluations to add.
        aliases: Aliases to set or move.
        requirements: What aliases will require.
        events: Events to append.
        conflicts: What stands in the way, in words.
    """

    about: bool
    task: str | None
    versions: tuple[AdapterVersion, ...]
    deletions: Mapping[int, datetime | None]
    evaluations: tuple[Evaluation, ...]
    aliases: tuple[Pointer, ...]
    requirements: Mapping[str, tuple[str, ...]]
    events: tuple[Event, ...]
    conflicts: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(
            self.versions
            or self.deletions
            or self.evaluations
            or self.aliases
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
        evaluations=_new_evaluations(ours.evaluations if ours else (), theirs.evaluations),
        events=tuple(event for event in theirs.events if identity(event) not in known),
    )


def plan_adapter(
    ours: AdapterDocument | None, theirs: AdapterDocument, *, known: Collection[str]
) -> AdapterPlan:
    """Compare an adapter in a bundle with what is there; see `plan_base`."""
    if ours is None:
        return AdapterPlan(
            about=True,
            task=theirs.task,
            versions=theirs.versions,
            deletions={},
            evaluations=theirs.evaluations,
            aliases=theirs.aliases,
            requirements=theirs.requirements,
            events=theirs.events,
            conflicts=(),
        )
    return _Merge(ours, theirs).plan(known)


class _Merge:
    """Two documents of one adapter, side by side."""

    def __init__(self, ours: AdapterDocument, theirs: AdapterDocument) -> None:
        self.ours = ours
        self.theirs = theirs
        self.conflicts: list[str] = []

    def plan(self, known: Collection[str]) -> AdapterPlan:
        ours, theirs = self.ours, self.theirs
        if ours.task and theirs.task and ours.task != theirs.task:
            self.conflicts.append(
                f"{ours.name} is for the task {ours.task!r} here and {theirs.task!r} there"
            )
        versions = self._versions()
        deletions = self._deletions()
        aliases = self._aliases()
        requirements = self._requirements()
        self._check_targets(deletions, aliases)
        about = self._side(["register"])
        return AdapterPlan(
            about=about is _Side.THEIRS,
            task=ours.task or theirs.task,
            versions=versions,
            deletions=deletions,
            evaluations=_new_evaluations(ours.evaluations, theirs.evaluations),
            aliases=aliases,
            requirements=requirements,
            events=tuple(event for event in theirs.events if identity(event) not in known),
            conflicts=tuple(self.conflicts),
        )

    def _side(
        self, actions: Collection[str], *, number: int | None = None, alias: str | None = None
    ) -> _Side:
        """Say whose history of something has all of the other's."""

        def of(events: Iterable[Event]) -> set[str]:
            return {
                identity(event)
                for event in events
                if event.action in actions
                and (number is None or event.number == number)
                and (alias is None or event.alias == alias)
            }

        here, there = of(self.ours.events), of(self.theirs.events)
        if there <= here:
            return _Side.OURS
        return _Side.THEIRS if here <= there else _Side.APART

    def _versions(self) -> tuple[AdapterVersion, ...]:
        by_number = {version.number: content_of(version) for version in self.ours.versions}
        by_content = {content: number for number, content in by_number.items()}
        name = self.ours.name
        added = []
        for version in self.theirs.versions:
            content = content_of(version)
            if by_number.get(version.number, content) != content:
                self.conflicts.append(f"{name}/{version.number} has other content here than there")
            elif by_content.get(content, version.number) != version.number:
                self.conflicts.append(
                    f"{name}/{version.number} there is {name}/{by_content[content]} here"
                )
            elif version.number not in by_number:
                added.append(version)
        return tuple(added)

    def _deletions(self) -> dict[int, datetime | None]:
        there = {version.number: version.deleted_at for version in self.theirs.versions}
        changed = {}
        for version in self.ours.versions:
            deleted_at = there.get(version.number, version.deleted_at)
            if deleted_at == version.deleted_at:
                continue
            side = self._side(["delete", "restore"], number=version.number)
            if side is _Side.THEIRS:
                changed[version.number] = deleted_at
            elif side is _Side.APART and (deleted_at is None) != (version.deleted_at is None):
                self.conflicts.append(
                    f"{version.reference} is {_state(version.deleted_at)} here and "
                    f"{_state(deleted_at)} there"
                )
        return changed

    def _aliases(self) -> tuple[Pointer, ...]:
        here = {pointer.alias: pointer for pointer in self.ours.aliases}
        moved = []
        for pointer in self.theirs.aliases:
            ours = here.get(pointer.alias)
            if ours == pointer:
                continue
            side = self._side(MOVES, alias=pointer.alias)
            if side is _Side.THEIRS:
                moved.append(pointer)
            elif side is _Side.APART and ours and ours.number != pointer.number:
                self.conflicts.append(
                    f"{self.ours.name}@{pointer.alias} was moved to {ours.number} here and to "
                    f"{pointer.number} there"
                )
        return tuple(moved)

    def _requirements(self) -> dict[str, tuple[str, ...]]:
        changed = {}
        for alias in sorted({*self.ours.requirements, *self.theirs.requirements}):
            ours = self.ours.requirements.get(alias, ())
            theirs = self.theirs.requirements.get(alias, ())
            if ours == theirs:
                continue
            side = self._side(["require"], alias=alias)
            if side is _Side.THEIRS:
                changed[alias] = theirs
            elif side is _Side.APART:
                self.conflicts.append(
                    f"{self.ours.name}@{alias} requires {_listed(ours)} here and "
                    f"{_listed(theirs)} there"
                )
        return changed

    def _check_targets(
        self, deletions: Mapping[int, datetime | None], aliases: tuple[Pointer, ...]
    ) -> None:
        """See that no alias would point to a deleted version."""
        states = {version.number: version.deleted_at for version in self.theirs.versions}
        states |= {version.number: version.deleted_at for version in self.ours.versions}
        states |= deletions
        targets = {pointer.alias: pointer.number for pointer in (*self.ours.aliases, *aliases)}
        for alias, number in sorted(targets.items()):
            if states.get(number) is not None:
                side = "there" if number in deletions else "here"
                self.conflicts.append(
                    f"{self.ours.name}@{alias} would point to {number}, which was deleted {side}"
                )


def _new_evaluations(
    ours: tuple[Evaluation, ...], theirs: tuple[Evaluation, ...]
) -> tuple[Evaluation, ...]:
    here = {key_of(evaluation) for evaluation in ours}
    return tuple(evaluation for evaluation in theirs if key_of(evaluation) not in here)


def _state(deleted_at: datetime | None) -> str:
    return "alive" if deleted_at is None else "deleted"


def _listed(requirements: tuple[str, ...]) -> str:
    return " and ".join(map(repr, requirements)) or "nothing"
