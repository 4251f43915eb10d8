"""Hiding versions and whole adapters, and bringing them back; numbers and files stay."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, select, update

from dovetail.errors import ConflictError
from dovetail.registry.aliases import note_dropped
from dovetail.registry.context import Context
from dovetail.registry.events import append_event
from dovetail.registry.listing import load_adapters
from dovetail.registry.owners import lock_known_adapter, lock_version, lock_versions, touch_adapter
from dovetail.registry.reading import find_version
from dovetail.registry.records import Adapter, AdapterVersion
from dovetail.registry.reference import Reference, check_name
from dovetail.registry.schema import AliasRow, VersionRow


def delete_version(context: Context, reference: Reference, *, reason: str | None) -> AdapterVersion:
    """Hide a version; see `dovetail.registry.store.Registry.delete`."""

    def hide(connection: Connection) -> AdapterVersion:
        adapter = lock_known_adapter(connection, reference.name)
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
        touch_adapter(connection, adapter.id)
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
    """Bring a deleted version back, and a deleted adapter; what is not deleted is left as it is."""

    def bring_back(connection: Connection) -> AdapterVersion:
        adapter = lock_known_adapter(connection, reference.name, deleted=True)
        version_id, version = lock_version(connection, reference, deleted=True)
        if version.deleted_at is None:
            return version
        connection.execute(
            update(VersionRow).where(VersionRow.id == version_id).values(deleted_at=None)
        )
        touch_adapter(connection, adapter.id, deleted_at=None)
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


def delete_adapter(
    context: Context, name: str, *, drop_aliases: bool, reason: str | None
) -> Adapter:
    """Hide an adapter with all of its versions; see `dovetail.registry.store.Registry`."""
    check_name(name)

    def hide(connection: Connection) -> Adapter:
        adapter_id = lock_known_adapter(connection, name).id
        lock_versions(connection, adapter_id)  # nobody points an alias to one from here on
        last = load_adapters(connection, name=name)[0]
        # Somebody may have dropped one since: those that are dropped here and now count.
        last = replace(last, aliases=_remove_aliases(connection, adapter_id))
        if last.aliases and not drop_aliases:
            raise _in_use(last)
        now = datetime.now(UTC)
        alive = (VersionRow.adapter_id == adapter_id, VersionRow.deleted_at.is_(None))
        numbers = select(VersionRow.number).where(*alive).order_by(VersionRow.number)
        hidden = list(connection.execute(numbers).scalars())
        connection.execute(update(VersionRow).where(*alive).values(deleted_at=now))
        touch_adapter(connection, adapter_id, deleted_at=now)
        for alias, number in last.aliases.items():
            note_dropped(connection, name, alias, number, actor=context.actor, reason=reason)
        append_event(
            connection,
            actor=context.actor,
            action="delete-adapter",
            name=name,
            reason=reason,
            details={"versions": hidden},
        )
        return last

    return context.database.write(hide)


def _remove_aliases(connection: Connection, adapter_id: int) -> dict[str, int]:
    """Remove an adapter's aliases; return where they pointed at that moment."""
    removed = connection.execute(
        delete(AliasRow)
        .where(AliasRow.adapter_id == adapter_id)
        .returning(AliasRow.alias, AliasRow.version_id)
    ).all()
    ids = {row.version_id for row in removed}
    numbered = select(VersionRow.id, VersionRow.number).where(VersionRow.id.in_(ids))
    numbers = {row.id: row.number for row in connection.execute(numbered)}
    return {row.alias: numbers[row.version_id] for row in sorted(removed)}


def _in_use(adapter: Adapter) -> ConflictError:
    name, aliases = adapter.name, adapter.aliases
    listed = ", ".join(f"{alias} is {name}/{number}" for alias, number in aliases.items())
    return ConflictError(
        f"adapter {name!r} is in use: {listed}; drop each alias with: dovetail drop {name} ALIAS, "
        f"or all with: dovetail delete {name} --all --force",
        name=name,
        aliases=dict(aliases),
    )
