"""Read what a registry knows of an adapter or a base model, as a document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select

from dovetail.registry.evaluations import load_evaluations
from dovetail.registry.events import read_events
from dovetail.registry.reading import VERSIONS, find_base_model, load_versions
from dovetail.registry.records import Event
from dovetail.registry.schema import AdapterRow, AliasRow, EventRow, RequirementRow, VersionRow
from dovetail.registry.transport.documents import MOVES, AdapterDocument, BaseDocument, Pointer

_EVENTS_OF_BASES = (
    select(*EventRow.__table__.columns)
    .where(EventRow.name.is_(None), EventRow.action.in_(["register-base", "evaluate"]))
    .order_by(EventRow.position)
)


def read_adapter(connection: Connection, name: str) -> AdapterDocument | None:
    """Return all that is known of an adapter, or None if there is none with this name."""
    row = connection.execute(
        select(*AdapterRow.__table__.columns).where(AdapterRow.name == name)
    ).first()
    if row is None:
        return None
    versions = load_versions(
        connection, VERSIONS.where(VersionRow.adapter_id == row.id).order_by(VersionRow.number)
    )
    return AdapterDocument(
        name=row.name,
        task=row.task,
        description=row.description,
        tags=row.tags,
        created_at=row.created_at,
        deleted_at=row.deleted_at,
        updated_at=row.updated_at,
        versions=tuple(replace(version, aliases=()) for version in versions),
        evaluations=tuple(reversed(load_evaluations(connection, adapter_id=row.id))),
        aliases=_pointers(connection, row.id),
        requirements=_requirements(connection, row.id),
        events=tuple(read_events(connection, name=name)),
    )


def read_base(connection: Connection, fingerprint: str) -> BaseDocument:
    """Return all that is known of a base model itself."""
    _, base = find_base_model(connection, fingerprint)
    evaluations = tuple(reversed(load_evaluations(connection, bare_base=fingerprint)))
    examples = {evaluation.examples_digest for evaluation in evaluations}
    events = (Event(**row) for row in connection.execute(_EVENTS_OF_BASES).mappings())
    return BaseDocument(
        base=base,
        evaluations=evaluations,
        events=tuple(event for event in events if _is_about(event.details, fingerprint, examples)),
    )


def up_to(document: AdapterDocument, number: int) -> tuple[AdapterDocument, tuple[str, ...]]:
    """Return an adapter without its later versions, and the aliases that cannot be told of then.

    Those are the aliases that ever pointed to a later version: their way there would have gaps.
    """
    lost = {
        event.alias
        for event in document.events
        if event.action in MOVES and max(event.number or 0, event.previous or 0) > number
    }
    events = [
        event
        for event in document.events
        if (event.number or 0) <= number and not (event.action in MOVES and event.alias in lost)
    ]
    earlier = replace(
        document,
        versions=document.versions[:number],
        evaluations=tuple(e for e in document.evaluations if (e.number or 0) <= number),
        aliases=tuple(each for each in document.aliases if each.alias not in lost),
        events=tuple(events),
    )
    return earlier, tuple(each.alias for each in document.aliases if each.alias in lost)


def _pointers(connection: Connection, adapter_id: int) -> tuple[Pointer, ...]:
    query = (
        select(AliasRow.alias, VersionRow.number, AliasRow.moved_at, AliasRow.moved_by)
        .join(VersionRow, AliasRow.version_id == VersionRow.id)
        .where(AliasRow.adapter_id == adapter_id)
        .order_by(AliasRow.alias)
    )
    return tuple(Pointer(**row) for row in connection.execute(query).mappings())


def _requirements(connection: Connection, adapter_id: int) -> dict[str, tuple[str, ...]]:
    query = (
        select(RequirementRow.alias, RequirementRow.requirement)
        .where(RequirementRow.adapter_id == adapter_id)
        .order_by(RequirementRow.alias, RequirementRow.position)
    )
    found: defaultdict[str, list[str]] = defaultdict(list)
    for alias, requirement in connection.execute(query):
        found[alias].append(requirement)
    return {alias: tuple(texts) for alias, texts in found.items()}


def _is_about(details: Mapping[str, Any], fingerprint: str, examples: set[str | None]) -> bool:
    """Tell whether an event is about a base model, which may have been called by its name."""
    return details.get("base_model") == fingerprint or details.get("examples", "") in examples
