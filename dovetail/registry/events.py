"""The append-only history: every event carries the hash of the one before it.

Editing, removing or inserting a line changes a hash that a later line repeats, so it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from dovetail.registry.checks import check_text
from dovetail.registry.jsontext import digest_json
from dovetail.registry.records import Event
from dovetail.registry.schema import EventRow, table_of

_ADD = insert(table_of(EventRow))
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
) -> Event:
    """Add an event to the end of the chain, within the caller's writing transaction."""
    last = connection.execute(
        select(EventRow.position, EventRow.hash).order_by(EventRow.position.desc()).limit(1)
    ).first()
    fields: dict[str, Any] = {
        "position": last.position + 1 if last else 1,
        "time": datetime.now(UTC),
        "actor": actor,
        "action": action,
        "name": name,
        "number": number,
        "alias": alias,
        "previous": previous,
        "reason": check_text(reason, what="the reason"),
        "details": dict(details or {}),
        "previous_hash": last.hash if last else GENESIS,
    }
    fields["hash"] = event_hash(fields)
    connection.execute(_ADD, fields)
    return Event(**fields)


def event_hash(fields: Mapping[str, Any]) -> str:
    """Hash an event's fields, ``previous_hash`` included and ``hash`` left out."""
    hashed = {key: value for key, value in fields.items() if key != "hash"}
    return digest_json({**hashed, "time": hashed["time"].astimezone(UTC).isoformat()})


def read_events(
    connection: Connection,
    *,
    name: str | None = None,
    alias: str | None = None,
    actions: Sequence[str] = (),
) -> list[Event]:
    """Return events from the oldest to the newest."""
    query = select(*EventRow.__table__.columns).order_by(EventRow.position)
    if name is not None:
        query = query.where(EventRow.name == name)
    if alias is not None:
        query = query.where(EventRow.alias == alias)
    if actions:
        query = query.where(EventRow.action.in_(actions))
    return [Event(**row) for row in connection.execute(query).mappings()]


def first_broken_link(events: Sequence[Event]) -> int | None:
    """Return the position of the first event that does not fit the one before it, or None."""
    expected_hash, expected_position = GENESIS, 1
    for event in events:
        fields = {key: getattr(event, key) for key in Event.__slots__}
        fits = event.previous_hash == expected_hash and event.position == expected_position
        if not fits or event_hash(fields) != event.hash:
            return event.position
        expected_hash, expected_position = event.hash, event.position + 1
    return None
