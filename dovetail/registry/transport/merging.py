"""Decide what an import adds to an adapter that is there, and what stands in its way.

Two histories of one thing, an alias for example, are compared by their events, which have the same
identity wherever they were imported to. If one side knows all that the other knows, the longer
history wins, without any conflict. If each has events of its own, the two have gone apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import partial

from dovetail.registry.records import AdapterVersion, Event
from dovetail.registry.transport.documents import (
    MOVES,
    AdapterDocument,
    Pointer,
    content_of,
    hidden_by,
    identity,
)
from dovetail.registry.transport.planning import AdapterPlan, new_evaluations, plan_new

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class _Side(Enum):
    """Whose state holds after an import."""

    OURS = "ours"
    THEIRS = "theirs"
    APART = "apart"


def plan_adapter(
    ours: AdapterDocument | None, theirs: AdapterDocument, *, known: Collection[str]
) -> AdapterPlan:
    """Compare an adapter in a bundle with what is there.

    Args:
        ours: What is there.
        theirs: What the bundle says.
        known: Identities of the bundle's events that are in our history.
    """
    return plan_new(theirs) if ours is None else _Merge(ours, theirs).plan(known)


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
        about = self._about()
        versions = self._versions()
        edits = self._edits()
        deletions = self._deletions()
        deleted_at = self._deleted_at()
        aliases, dropped = self._aliases()
        requirements = self._requirements()
        self._check_targets(deletions, aliases, dropped)
        return AdapterPlan(
            about=about,
            task=ours.task or theirs.task,
            deleted_at=deleted_at,
            # A row without versions was made a moment ago, for this import.
            updated_at=max(theirs.updated_at, ours.updated_at if ours.versions else _LONG_AGO),
            versions=versions,
            edits=edits,
            deletions=deletions,
            evaluations=new_evaluations(ours.evaluations, theirs.evaluations),
            aliases=aliases,
            dropped=dropped,
            requirements=requirements,
            events=tuple(event for event in theirs.events if identity(event) not in known),
            conflicts=tuple(self.conflicts),
        )

    def _side(self, about: Callable[[Event], bool]) -> _Side:
        """Say whose history of something has all of the other's."""

        def of(events: Iterable[Event]) -> set[str]:
            return {identity(event) for event in events if about(event)}

        here, there = of(self.ours.events), of(self.theirs.events)
        if there <= here:
            return _Side.OURS
        return _Side.THEIRS if here <= there else _Side.APART

    def _about(self) -> bool:
        """Tell whether the adapter's description and tags are to be theirs."""
        side = self._side(_describes)
        ours, theirs = self.ours, self.theirs
        if side is _Side.APART and self._side(partial(_edits, number=None)) is not _Side.OURS:
            self._differ(
                ours.name, (ours.description, ours.tags), (theirs.description, theirs.tags)
            )
        return side is _Side.THEIRS

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

    def _edits(self) -> tuple[AdapterVersion, ...]:
        changed = []
        for ours, theirs in zip(self.ours.versions, self.theirs.versions, strict=False):
            told = [(each.description, each.tags, each.updated_at) for each in (ours, theirs)]
            if told[0] == told[1]:
                continue
            side = self._side(partial(_edits, number=ours.number))
            if side is _Side.THEIRS:
                changed.append(theirs)
            elif side is _Side.APART:
                self._differ(str(ours.reference), told[0][:2], told[1][:2])
        return tuple(changed)

    def _differ(self, what: str, here: object, there: object) -> None:
        if here != there:
            self.conflicts.append(f"{what} was edited here and there, and says different things")

    def _deletions(self) -> dict[int, datetime | None]:
        there = {version.number: version.deleted_at for version in self.theirs.versions}
        changed = {}
        for version in self.ours.versions:
            deleted_at = there.get(version.number, version.deleted_at)
            if deleted_at == version.deleted_at:
                continue
            side = self._side(partial(_hides, number=version.number))
            if side is _Side.THEIRS:
                changed[version.number] = deleted_at
            elif side is _Side.APART:
                self._disagree(str(version.reference), version.deleted_at, deleted_at)
        return changed

    def _deleted_at(self) -> datetime | None:
        ours, theirs = self.ours.deleted_at, self.theirs.deleted_at
        if ours == theirs:
            return ours
        side = self._side(_hides_all)
        if side is _Side.APART:
            self._disagree(self.ours.name, ours, theirs)
        return theirs if side is _Side.THEIRS else ours

    def _disagree(self, what: str, here: datetime | None, there: datetime | None) -> None:
        if (here is None) != (there is None):
            self.conflicts.append(f"{what} is {_state(here)} here and {_state(there)} there")

    def _aliases(self) -> tuple[tuple[Pointer, ...], tuple[str, ...]]:
        here = {pointer.alias: pointer for pointer in self.ours.aliases}
        there = {pointer.alias: pointer for pointer in self.theirs.aliases}
        moved, dropped = [], []
        for alias in sorted({*here, *there}):
            ours, theirs = here.get(alias), there.get(alias)
            if ours == theirs:
                continue
            side = self._side(partial(_is_of, actions=MOVES, alias=alias))
            if side is _Side.THEIRS and theirs is not None:
                moved.append(theirs)
            elif side is _Side.THEIRS:
                dropped.append(alias)
            elif side is _Side.APART and _target(ours) != _target(theirs):
                self.conflicts.append(
                    f"{self.ours.name}@{alias} was {_went(ours)} here and {_went(theirs)} there"
                )
        return tuple(moved), tuple(dropped)

    def _requirements(self) -> dict[str, tuple[str, ...]]:
        changed = {}
        for alias in sorted({*self.ours.requirements, *self.theirs.requirements}):
            ours = self.ours.requirements.get(alias, ())
            theirs = self.theirs.requirements.get(alias, ())
            if ours == theirs:
                continue
            side = self._side(partial(_is_of, actions={"require"}, alias=alias))
            if side is _Side.THEIRS:
                changed[alias] = theirs
            elif side is _Side.APART:
                self.conflicts.append(
                    f"{self.ours.name}@{alias} requires {_listed(ours)} here and "
                    f"{_listed(theirs)} there"
                )
        return changed

    def _check_targets(
        self,
        deletions: Mapping[int, datetime | None],
        aliases: tuple[Pointer, ...],
        dropped: tuple[str, ...],
    ) -> None:
        """See that no alias would point to a deleted version."""
        states = {version.number: version.deleted_at for version in self.theirs.versions}
        states |= {version.number: version.deleted_at for version in self.ours.versions}
        states |= deletions
        targets = {pointer.alias: pointer.number for pointer in (*self.ours.aliases, *aliases)}
        for alias, number in sorted(targets.items()):
            if states.get(number) is not None and alias not in dropped:
                side = "there" if number in deletions else "here"
                self.conflicts.append(
                    f"{self.ours.name}@{alias} would point to {number}, which was deleted {side}"
                )


def _edits(event: Event, *, number: int | None) -> bool:
    return event.action == "edit" and event.number == number


def _describes(event: Event) -> bool:
    return event.action == "register" or _edits(event, number=None)


def _hides(event: Event, *, number: int) -> bool:
    own = event.action in ("delete", "restore") and event.number == number
    return own or number in hidden_by(event)


def _hides_all(event: Event) -> bool:
    return event.action in ("delete-adapter", "restore", "register")


def _is_of(event: Event, *, actions: Collection[str], alias: str) -> bool:
    return event.action in actions and event.alias == alias


def _target(pointer: Pointer | None) -> int | None:
    return None if pointer is None else pointer.number


def _went(pointer: Pointer | None) -> str:
    return "dropped" if pointer is None else f"moved to {pointer.number}"


def _state(deleted_at: datetime | None) -> str:
    return "alive" if deleted_at is None else "deleted"


def _listed(requirements: tuple[str, ...]) -> str:
    return " and ".join(map(repr, requirements)) or "nothing"
