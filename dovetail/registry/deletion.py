"""Hiding versions and bringing them back; numbers and files stay."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, update

from dovetail.errors import ConflictError
from dovetail.registry.context import Context
from dovetail.registry.events import append_event
from dovetail.registry.reading import find_version, lock_version
from dovetail.registry.records import AdapterVersion
from dovetail.registry.reference import Reference
from dovetail.registry.schema import VersionRow


def delete_version(context: Context, reference: Reference, *, reason: str | None) -> AdapterVersion:
    """Hide a version; see `dovetail.registry.store.Registry.delete`."""

    def hide(connection: Connection) -> AdapterVersion:
        version_id, version = lock_version(connection, reference)
        if version.aliases:
            raise ConflictError(
                f"{version.reference} is {' and '.join(version.aliases)}; move the alias first "
                f"with: dovetail promote {version.name}/NUMBER {version.aliases[0]}",
                name=version.name,
                number=version.number,
                aliases=version.aliases,
            )
        connection.execute(
            update(VersionRow)
            .where(VersionRow.id == version_id)
            .values(deleted_at=datetime.now(UTC))
        )
        append_event(
            connection,
            actor=context.actor,
            action="delete",
            name=version.name,
            number=version.number,
            reason=reason,
        )
        return find_version(connection, version.reference, deleted=True)[1]

    return context.database.write(hide)


def restore_version(
    context: Context, reference: Reference, *, reason: str | None
) -> AdapterVersion:
    """Bring a deleted version back; one that is not deleted is left as it is."""

    def bring_back(connection: Connection) -> AdapterVersion:
        version_id, version = lock_version(connection, reference, deleted=True)
        if version.deleted_at is None:
            return version
        connection.execute(
            update(VersionRow).where(VersionRow.id == version_id).values(deleted_at=None)
        )
        append_event(
            connection,
            actor=context.actor,
            action="restore",
            name=version.name,
            number=version.number,
            reason=reason,
        )
        return find_version(connection, version.reference)[1]

    return context.database.write(bring_back)
