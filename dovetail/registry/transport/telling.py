"""Read what a document tells of the past: events, and the aliases that they led to."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from dovetail.errors import InvalidPayload
from dovetail.registry.events import event_hash
from dovetail.registry.records import Event
from dovetail.registry.reference import check_alias
from dovetail.registry.requirements import Requirement
from dovetail.registry.transport.documents import MOVES, AdapterDocument, Pointer, identity
from dovetail.registry.transport.fields import MAX_BIG, Fields, refuse

_ACTION = re.compile(r"[a-z]+(-[a-z]+)*")
_MAX_ACTION_LENGTH = 32


def parse_pointer(value: Any, name: str) -> Pointer:
    """Read an alias."""
    read = Fields(value, f"an alias of {name!r}", (field.name for field in fields(Pointer)))
    return Pointer(
        alias=check_alias(read.text("alias")),
        number=read.number("number", least=1),
        moved_at=read.time("moved_at"),
        moved_by=read.text("moved_by"),
    )


def parse_requirements(value: dict[str, Any], name: str) -> dict[str, tuple[str, ...]]:
    """Read what each alias requires."""
    read = Fields(value, f"the requirements of {name!r}", value)
    return {
        check_alias(alias): tuple(Requirement.parse(text).text for text in read.texts(alias))
        for alias in value
    }


def parse_events(read: Fields, name: str | None) -> tuple[Event, ...]:
    """Read a history: in order, each event once, and none changed."""
    events = tuple(_event(item, name) for item in read.items("events"))
    positions = [event.position for event in events]
    if sorted(set(positions)) != positions:
        refuse(f"the history of {read.what} is not in order")
    if len({identity(event) for event in events}) != len(events):
        refuse(f"the history of {read.what} has an event twice")
    return events


def _event(value: Any, name: str | None) -> Event:
    read = Fields(value, f"an event of {name or 'a base model'}", (f.name for f in fields(Event)))
    action = read.text("action")
    if len(action) > _MAX_ACTION_LENGTH or not _ACTION.fullmatch(action):
        refuse(f"{read.what} is called {ascii(action)[:80]}")
    if read.raw("name") != name:
        refuse(f"{read.what} is about another adapter")
    values: dict[str, Any] = {
        "position": read.number("position", least=1, most=MAX_BIG),
        "time": read.time("time"),
        "actor": read.text("actor"),
        "action": action,
        "name": name,
        "number": read.maybe(read.number, "number"),
        "alias": read.maybe(lambda field: check_alias(read.text(field)), "alias"),
        "previous": read.maybe(read.number, "previous"),
        "reason": read.maybe(read.text, "reason"),
        "details": read.json("details"),
        "origin": read.maybe(read.digest, "origin"),
        "previous_hash": read.digest("previous_hash"),
    }
    if event_hash(values) != read.digest("hash"):
        refuse(f"event {values['position']} of {name or 'a base model'} was changed")
    return Event(**values, hash=read.digest("hash"))


def check_aliases(document: AdapterDocument) -> None:
    """See that each alias is where its history says, and at a version that is there."""
    moved = {event.alias: event.number for event in document.events if event.action in MOVES}
    live = {version.number for version in document.versions if version.deleted_at is None}
    if len({pointer.alias for pointer in document.aliases}) != len(document.aliases):
        refuse(f"adapter {document.name!r} has an alias twice")
    for pointer in document.aliases:
        if pointer.number not in live or moved.get(pointer.alias) != pointer.number:
            raise InvalidPayload(
                f"{document.name}@{pointer.alias} points to {pointer.number} in the export, but "
                f"its history says {moved.get(pointer.alias)}, or that version is deleted",
                name=document.name,
                alias=pointer.alias,
            )
