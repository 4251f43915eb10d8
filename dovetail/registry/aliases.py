"""Aliases and what they require, as rows; every function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, CursorResult, delete, insert, select, update

from dovetail.errors import ConflictError
from dovetail.registry.events import append_event, read_events
from dovetail.registry.reading import find_adapter_id, find_version
from dovetail.registry.reference import Reference
from dovetail.registry.schema import AliasRow, RequirementRow, VersionRow, insert_or_ignore

_MOVES = ("promote", "rollback")


def target_of(connection: Connection, name: str, alias: str) -> int | None:
    """Return the number of the version that an alias points to, or None."""
    return connection.execute(
        select(VersionRow.number)
        .join(AliasRow, AliasRow.version_id == VersionRow.id)
        .where(
            AliasRow.adapter_id == find_adapter_id(connection, name),
            AliasRow.alias == alias,
        )
    ).scalar()


def move_alias(
    connection: Connection,
    *,
    name: str,
    alias: str,
    version_id: int,
    expected: int | None,
    actor: str,
) -> None:
    """Point an alias to a version if it still points to what was expected: a compare-and-swap.

    Raises:
        ConflictError: It was moved by somebody else in between; nothing was changed.
    """
    adapter_id = find_adapter_id(connection, name)
    values = {"version_id": version_id, "moved_at": datetime.now(UTC), "moved_by": actor}
    found = target_of(connection, name, alias)
    if found != expected:
        raise ConflictError(
            f"{name}@{alias} was moved to {found} while this was being decided (it was "
            f"{expected or 'not set'}); look at it again with: dovetail history {name}",
            name=name,
            alias=alias,
            expected=expected,
            found=found,
        )
    if expected is None:
        row = {"adapter_id": adapter_id, "alias": alias, **values}
        _require_moved(connection.execute(insert_or_ignore(AliasRow), row), name, alias)
        return
    previous_id = (
        select(VersionRow.id)
        .where(VersionRow.adapter_id == adapter_id, VersionRow.number == expected)
        .scalar_subquery()
    )
    moved = connection.execute(
        update(AliasRow)
        .where(
            AliasRow.adapter_id == adapter_id,
            AliasRow.alias == alias,
            AliasRow.version_id == previous_id,
        )
        .values(**values)
    )
    _require_moved(moved, name, alias)


def remove_alias(connection: Connection, *, name: str, alias: str) -> int:
    """Remove an alias; return the number of the version that it pointed to at that moment.

    Raises:
        AliasNotFound: It is not set.
        ConflictError: It was not, and was set by somebody else right after.
    """
    removed = connection.execute(
        delete(AliasRow)
        .where(AliasRow.adapter_id == find_adapter_id(connection, name), AliasRow.alias == alias)
        .returning(AliasRow.version_id)
    ).scalar()
    if removed is None:
        find_version(connection, Reference(name=name, alias=alias))  # says which there are
        raise ConflictError(
            f"{name}@{alias} was set at the same moment; look at it again with: "
            f"dovetail history {name}",
            name=name,
            alias=alias,
        )
    number = select(VersionRow.number).where(VersionRow.id == removed)
    return connection.execute(number).scalar_one()


def note_dropped(
    connection: Connection, name: str, alias: str, previous: int, *, actor: str, reason: str | None
) -> None:
    """Write into the history that an alias was taken away."""
    append_event(
        connection,
        actor=actor,
        action="drop-alias",
        name=name,
        alias=alias,
        previous=previous,
        reason=reason,
    )


def _require_moved(result: CursorResult[Any], name: str, alias: str) -> None:
    """See that the row was the one that was expected when the database came to change it."""
    if result.rowcount != 1:
        raise ConflictError(
            f"{name}@{alias} was moved at the same moment; look at it again with: "
            f"dovetail history {name}",
            name=name,
            alias=alias,
        )


def number_before(connection: Connection, name: str, alias: str) -> int | None:
    """Return the version that an alias pointed to before its last promotion, or None.

    A rollback undoes a promotion, so two rollbacks in a row go back by two.
    """
    trail: list[int | None] = []
    for event in read_events(connection, name=name, alias=alias, actions=_MOVES):
        if event.action == "promote":
            trail.append(event.previous)
        elif trail:
            trail.pop()
    return trail[-1] if trail else None


def load_requirements(connection: Connection, name: str, alias: str) -> list[str]:
    """Return the requirements that are stored for an alias."""
    query = (
        select(RequirementRow.requirement)
        .where(
            RequirementRow.adapter_id == find_adapter_id(connection, name),
            RequirementRow.alias == alias,
        )
        .order_by(RequirementRow.position)
    )
    return list(connection.execute(query).scalars())


def store_requirements(
    connection: Connection, name: str, alias: str, requirements: Sequence[str]
) -> None:
    """Replace the requirements that are stored for an alias."""
    adapter_id = find_adapter_id(connection, name)
    connection.execute(
        delete(RequirementRow).where(
            RequirementRow.adapter_id == adapter_id, RequirementRow.alias == alias
        )
    )
    for position, requirement in enumerate(requirements):
        connection.execute(
            insert(RequirementRow).values(
                adapter_id=adapter_id, alias=alias, position=position, requirement=requirement
            )
        )
