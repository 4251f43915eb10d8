"""The rows of adapters, which own versions and aliases: locked, made and changed.

Every function runs in the caller's transaction. Whoever holds an adapter's row gives out its next
version number, and changes what it says of itself; whoever holds a version's points aliases to it,
and hides it. The adapter's row is locked before those of its versions.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from dovetail.errors import ConflictError
from dovetail.registry.metadata import Metadata
from dovetail.registry.reading import find_adapter_id, find_version
from dovetail.registry.records import AdapterVersion
from dovetail.registry.reference import Reference
from dovetail.registry.schema import AdapterRow, VersionRow, insert_or_ignore

# Building a statement takes longer than running it, so those of every registration are built once.
_ADAPTER = (
    select(
        AdapterRow.id,
        AdapterRow.task,
        AdapterRow.description,
        AdapterRow.tags,
        AdapterRow.deleted_at,
    )
    .where(AdapterRow.name == bindparam("of_name"))
    .with_for_update(key_share=True)
)
_LOCK = (
    select(VersionRow.id)
    .where(VersionRow.id == bindparam("of_version"))
    .with_for_update(key_share=True)
)
_ADD_ADAPTER = insert_or_ignore(AdapterRow)


def lock_adapter(connection: Connection, name: str, metadata: Metadata) -> Row[Any]:
    """Lock an adapter's row, and make it if it is not there; return its id and what it says."""
    row = connection.execute(_ADAPTER, {"of_name": name}).first()
    if row is None:
        now = datetime.now(UTC)
        made = {
            "name": name,
            "task": metadata.task,
            "description": metadata.description or "",
            "tags": dict(metadata.tags),
            "created_at": now,
            "updated_at": now,
        }
        connection.execute(_ADD_ADAPTER, made)
        row = connection.execute(_ADAPTER, {"of_name": name}).one()
    return row


def lock_known_adapter(connection: Connection, name: str, *, deleted: bool = False) -> Row[Any]:
    """Lock the row of an adapter that is there; return its id and what it says.

    Raises:
        AdapterNotFound: There is none with this name, or it is deleted and such do not count.
    """
    find_adapter_id(connection, name, deleted=deleted)
    row = connection.execute(_ADAPTER, {"of_name": name}).one()
    find_adapter_id(connection, name, deleted=deleted)  # as it is now that nobody changes it
    return row


def update_adapter(connection: Connection, row: Row[Any], name: str, metadata: Metadata) -> None:
    """Add to what an adapter says of itself, as a version is added; a deleted one comes back.

    Raises:
        ConflictError: It is for another task, and a task is never changed.
    """
    if metadata.task and row.task and metadata.task != row.task:
        raise ConflictError(
            f"adapter {name!r} is for the task {row.task!r}, not {metadata.task!r}; "
            "register under another name",
            name=name,
            task=row.task,
        )
    said = {
        "task": metadata.task or row.task,
        "description": row.description if metadata.description is None else metadata.description,
        "tags": {**row.tags, **metadata.tags},
        "deleted_at": None,
    }
    changed = {key: value for key, value in said.items() if value != getattr(row, key)}
    touch_adapter(connection, row.id, **changed)


def touch_adapter(connection: Connection, adapter_id: int, **changed: Any) -> None:
    """Note that an adapter changed now, and what of its row did; the caller holds the row."""
    values = {"updated_at": datetime.now(UTC), **changed}
    connection.execute(update(AdapterRow).where(AdapterRow.id == adapter_id).values(**values))


def lock_version(
    connection: Connection, reference: Reference, *, deleted: bool = False
) -> tuple[int, AdapterVersion]:
    """Find a version as `find_version` does, and lock its row: it is as found until the end.

    Who points an alias to a version and who deletes it must not overlook each other.
    """
    version_id, version = find_version(connection, reference, deleted=deleted)
    connection.execute(_LOCK, {"of_version": version_id})
    return find_version(connection, version.reference, deleted=deleted)


def lock_versions(connection: Connection, adapter_id: int) -> None:
    """Keep everybody from promoting and deleting versions of an adapter until the end."""
    connection.execute(
        select(VersionRow.id)
        .where(VersionRow.adapter_id == adapter_id)
        .order_by(VersionRow.number)
        .with_for_update(key_share=True)
    )
