"""Moving aliases: promote through a gate, roll back, and where an alias was before.

Gates are decided outside the write lock, on a state that was read once. The move itself is a
compare-and-swap: if the alias moved in between, nothing happens and the caller is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from dovetail.errors import ConflictError, GateRefused, InvalidInput
from dovetail.registry.aliases import (
    load_requirements,
    move_alias,
    note_dropped,
    number_before,
    remove_alias,
    store_requirements,
    target_of,
)
from dovetail.registry.context import Context
from dovetail.registry.events import append_event
from dovetail.registry.gates import GateResult, check_requirement
from dovetail.registry.locking import lock_history
from dovetail.registry.owners import lock_version
from dovetail.registry.reading import find_version
from dovetail.registry.records import AdapterVersion, Event
from dovetail.registry.reference import Reference, check_alias, check_name
from dovetail.registry.requirements import Requirement
from dovetail.registry.scoreboard import RegistryScoreboard

if TYPE_CHECKING:
    from dovetail.registry.notifying import Notification, Notifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """An alias that was moved, or dropped.

    Attributes:
        name: Adapter.
        alias: Alias.
        number: Version it points to now; None if it was dropped.
        previous: Version it pointed to before, or None.
        moved: False if it pointed there already.
        gates: What became of each requirement.
        forced: Whether a refusal was overruled.
        notifications: What became of telling others about the move.
    """

    name: str
    alias: str
    number: int | None
    previous: int | None
    moved: bool
    gates: tuple[GateResult, ...] = ()
    forced: bool = False
    notifications: tuple[Notification, ...] = ()


def promote_version(
    context: Context,
    reference: Reference,
    alias: str,
    *,
    require: Sequence[str],
    force: bool,
    reason: str | None,
    notifier: Notifier | None = None,
) -> Promotion:
    """Move an alias through its gate; see `dovetail.registry.store.Registry.promote`."""
    check_alias(alias)
    if force and not (reason or "").strip():
        raise InvalidInput("force needs a reason: it is written into the history")
    given = [Requirement.parse(text) for text in require]
    with context.database.reading() as connection:
        version = find_version(connection, reference)[1]
        previous = target_of(connection, version.name, alias)
        stored = load_requirements(connection, version.name, alias)
        asked = {item.text: item for item in [*map(Requirement.parse, stored), *given]}
        board = RegistryScoreboard(connection, context.objects)
        gates = tuple(
            check_requirement(item, version, board, moving=alias) for item in asked.values()
        )
    failed = not all(gate.passed for gate in gates)
    promotion = Promotion(
        name=version.name,
        alias=alias,
        number=version.number,
        previous=previous,
        moved=previous != version.number,
        gates=gates,
        forced=failed,
    )
    if failed and not force:
        _refuse(context, promotion, reason)
    if promotion.moved:
        event = context.database.write(
            lambda connection: _move(
                context, connection, promotion, version, action="promote", reason=reason
            )
        )
        promotion = _notify(context, notifier, promotion, version, event)
    return promotion


def roll_back(
    context: Context,
    name: str,
    alias: str,
    *,
    reason: str | None,
    notifier: Notifier | None = None,
) -> Promotion:
    """Move an alias back to where it was before its last promotion."""
    check_name(name)
    check_alias(alias)

    def move(connection: Connection) -> tuple[Promotion, AdapterVersion, Event]:
        # An alias that is not set, or an adapter that does not exist, says so here.
        current = find_version(connection, Reference(name=name, alias=alias))[1].number
        before = number_before(connection, name, alias)
        if before is None:
            raise ConflictError(
                f"{name}@{alias} was nowhere before {name}/{current}, so it cannot go back; "
                f"promote another version instead",
                name=name,
                alias=alias,
            )
        version = find_version(connection, Reference(name=name, number=before))[1]
        rollback = Promotion(name=name, alias=alias, number=before, previous=current, moved=True)
        event = _move(context, connection, rollback, version, action="rollback", reason=reason)
        return rollback, version, event

    rollback, version, event = context.database.write(move)
    return _notify(context, notifier, rollback, version, event)


def drop_alias(context: Context, name: str, alias: str, *, reason: str | None) -> Promotion:
    """Take an alias away; what it requires stays, for the day it is set again."""
    check_name(name)
    check_alias(alias)

    def drop(connection: Connection) -> Promotion:
        previous = remove_alias(connection, name=name, alias=alias)
        note_dropped(connection, name, alias, previous, actor=context.actor, reason=reason)
        return Promotion(name=name, alias=alias, number=None, previous=previous, moved=True)

    return context.database.write(drop)


def requirements_of(context: Context, name: str, alias: str) -> tuple[str, ...]:
    """Return the requirements that are stored for an alias."""
    with context.database.reading() as connection:
        return tuple(load_requirements(connection, check_name(name), check_alias(alias)))


def require(
    context: Context, name: str, alias: str, requirements: Sequence[str], *, reason: str | None
) -> tuple[str, ...]:
    """Replace the requirements that are stored for an alias."""
    check_name(name)
    check_alias(alias)
    texts = list(dict.fromkeys(Requirement.parse(text).text for text in requirements))

    def store(connection: Connection) -> None:
        lock_history(connection)  # one at a time: two would each add their rows
        before = load_requirements(connection, name, alias)
        store_requirements(connection, name, alias, texts)
        append_event(
            connection,
            actor=context.actor,
            action="require",
            name=name,
            alias=alias,
            reason=reason,
            details={"requirements": texts, "before": before},
        )

    context.database.write(store)
    return tuple(texts)


def _move(
    context: Context,
    connection: Connection,
    promotion: Promotion,
    version: AdapterVersion,
    *,
    action: str,
    reason: str | None,
) -> Event:
    """Move the alias and write the event, within one transaction."""
    # Looked up again: it may have been deleted since the gate was decided.
    version_id, _ = lock_version(connection, version.reference)
    move_alias(
        connection,
        name=promotion.name,
        alias=promotion.alias,
        version_id=version_id,
        expected=promotion.previous,
        actor=context.actor,
    )
    return append_event(
        connection,
        actor=context.actor,
        action=action,
        name=promotion.name,
        number=promotion.number,
        alias=promotion.alias,
        previous=promotion.previous,
        reason=reason,
        details={"forced": promotion.forced, "gates": [asdict(gate) for gate in promotion.gates]},
    )


def _notify(
    context: Context,
    notifier: Notifier | None,
    promotion: Promotion,
    version: AdapterVersion,
    event: Event,
) -> Promotion:
    """Tell others about a move that is done, and write into the history what became of it."""
    if notifier is None:
        return promotion
    told = notifier.tell(_told(promotion, version, event))

    def note(connection: Connection) -> None:
        for each in told:
            append_event(
                connection,
                actor=context.actor,
                action="notified" if each.delivered else "notify-failed",
                name=promotion.name,
                number=promotion.number,
                alias=promotion.alias,
                details={**asdict(each), "event": event.hash},
            )

    context.database.write(note)
    return replace(promotion, notifications=told)


def _told(promotion: Promotion, version: AdapterVersion, event: Event) -> dict[str, Any]:
    """Return what others are told about a move."""
    return {
        "type": f"dovetail.{event.action}",
        "timestamp": event.time.isoformat(),
        "data": {
            "name": promotion.name,
            "alias": promotion.alias,
            "number": promotion.number,
            "previous": promotion.previous,
            "payload": version.payload_digest,
            "base_model": version.base_model,
            "actor": event.actor,
            "time": event.time.isoformat(),
            "reason": event.reason,
            "forced": promotion.forced,
            "requirements": [asdict(gate) for gate in promotion.gates],
            "event": event.hash,
        },
    }


def _refuse(context: Context, promotion: Promotion, reason: str | None) -> None:
    """Write the refusal into the history and raise it."""
    context.database.write(
        lambda connection: append_event(
            connection,
            actor=context.actor,
            action="promotion-refused",
            name=promotion.name,
            number=promotion.number,
            alias=promotion.alias,
            previous=promotion.previous,
            reason=reason,
            details={"gates": [asdict(gate) for gate in promotion.gates]},
        )
    )
    failed = [gate for gate in promotion.gates if not gate.passed]
    lines = "; ".join(f"requirement '{gate.requirement}' failed: {gate.message}" for gate in failed)
    raise GateRefused(
        f"{promotion.name}/{promotion.number} was not promoted to {promotion.alias!r}: {lines}",
        name=promotion.name,
        number=promotion.number,
        alias=promotion.alias,
        gates=promotion.gates,
    )
