"""The append-only history: every event carries the hash of the one before it.

Editing, removing or inserting a line changes a hash that a later line repeats, so it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from dovetail.registry.checks import check_text
from dovetail.registry.jsontext import digest_json
from dovetail.registry.locking import lock_history
from dovetail.registry.paging import checked_limit, within_reach
from dovetail.registry.progress import Progress
from dovetail.registry.records import BrokenLink, Event
from dovetail.registry.schema import EventRow, table_of

_ADD = insert(table_of(EventRow))
_LAST = select(EventRow.position, EventRow.hash).order_by(EventRow.position.desc()).limit(1)
_EVENTS = select(*EventRow.__table__.columns)
_CHUNK = 5_000
GENESIS = "sha256:" + "0" * 64
"""What the first event carries as the hash before it."""


def append_event(
    connection: Connection,
    *,
    actor: str,
    action: str,
    name: str | None = None,
    number: int | None = None,
    alias: str | None = None,
    previous: int | None = None,
    reason: str | None = None,
    details: Mapping[str, Any] | None = None,
    time: datetime | None = None,
    origin: str | None = None,
) -> Event:
    """Add an event to the end of the chain, within the caller's writing transaction.

    It waits for all who append, so it comes last in a transaction; nothing is locked after it.

    Args:
        connection: A writing transaction.
        actor: Who did it.
        action: What.
        name: To which adapter.
        number: To which version.
        alias: Which alias moved.
        previous: Where the alias pointed before.
        reason: Why.
        details: What else there is to know, as JSON.
        time: When, for an event that is imported; else now.
        origin: The event's hash in the registry that it comes from.
    """
    lock_history(connection)
    last = connection.execute(_LAST).first()
    fields: dict[str, Any] = {
        "position": last.position + 1 if last else 1,
        "time": time or datetime.now(UTC),
        "actor": actor,
        "action": action,
        "name": name,
        "number": number,
        "alias": alias,
        "previous": previous,
        "reason": check_text(reason, what="the reason"),
        "details": dict(details or {}),
        "origin": origin,
        "previous_hash": last.hash if last else GENESIS,
    }
    fields["hash"] = event_hash(fields)
    connection.execute(_ADD, fields)
    return Event(**fields)


def event_hash(fields: Mapping[str, Any]) -> str:
    """Hash an event's fields, ``previous_hash`` included and ``hash`` left out.

    Where there is no ``origin`` it is left out, too: events had none before schema 0002.
    """
    left_out = {"hash"} if fields.get("origin") else {"hash", "origin"}
    hashed = {key: value for key, value in fields.items() if key not in left_out}
    return digest_json({**hashed, "time": hashed["time"].astimezone(UTC).isoformat()})


def read_events(
    connection: Connection,
    *,
    name: str | None = None,
    alias: str | None = None,
    actions: Sequence[str] = (),
    limit: int | None = None,
    before: int | None = None,
) -> list[Event]:
    """Return events from the oldest to the newest.

    Args:
        connection: An open transaction.
        name: Only those of this adapter.
        alias: Only those of this alias.
        actions: Only these.
        limit: Only so many, the newest.
        before: Only those before this position.
    """
    query = _EVENTS
    if name is not None:
        query = query.where(EventRow.name == name)
    if alias is not None:
        query = query.where(EventRow.alias == alias)
    if actions:
        query = query.where(EventRow.action.in_(actions))
    if before is not None:
        query = query.where(EventRow.position < within_reach(before))
    newest_first = query.order_by(EventRow.position.desc()).limit(checked_limit(limit))
    rows = connection.execute(newest_first).mappings().all()
    return [Event(**row) for row in reversed(rows)]


def find_broken_link(
    connection: Connection, *, progress: Progress | None = None
) -> BrokenLink | None:
    """Check the whole history, a few thousand events in memory at a time.

    Args:
        connection: An open transaction.
        progress: Called with events done and events in all, once it takes noticeable time.
    """
    count = connection.execute(select(func.count()).select_from(EventRow)).scalar_one()
    query = _EVENTS.order_by(EventRow.position)
    with connection.execute(query, execution_options={"yield_per": _CHUNK}) as rows:
        events = (Event(**row) for row in rows.mappings())
        return first_broken_link(_counted(events, count, progress) if progress else events)


def _counted(events: Iterable[Event], count: int, progress: Progress) -> Iterator[Event]:
    for done, event in enumerate(events):
        if done and done % _CHUNK == 0:
            progress(done, count)
        yield event


def first_broken_link(events: Iterable[Event]) -> BrokenLink | None:
    """Return the first place where events do not make a whole chain from the first on, or None."""
    position, hash_before = 0, GENESIS
    rest = iter(events)
    while True:
        position += 1
        try:
            event = next(rest, None)
            if event is None:
                return None
            made = event_hash({key: getattr(event, key) for key in Event.__slots__})
        except (ValueError, TypeError):  # what is no date, no JSON, or cannot be hashed
            return BrokenLink(position=position, problem="unreadable")
        if event.position != position:
            return BrokenLink(
                position=event.position, problem="gap", expected=position, found=event.position
            )
        if event.previous_hash != hash_before:
            return BrokenLink(
                position=position, problem="link", expected=hash_before, found=event.previous_hash
            )
        if event.hash != made:
            return BrokenLink(position=position, problem="hash", expected=made, found=event.hash)
        hash_before = event.hash
