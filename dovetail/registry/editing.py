"""Describing and tagging adapters and versions; what was said before stays in the history.

A description that is given moves `updated_at`, even if it says the same as before; tags do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import Connection, update

from dovetail.errors import InvalidInput
from dovetail.registry.checks import check_tags, check_text
from dovetail.registry.context import Context
from dovetail.registry.events import append_event
from dovetail.registry.listing import load_adapters
from dovetail.registry.owners import lock_known_adapter, lock_version
from dovetail.registry.reading import find_version
from dovetail.registry.records import Adapter, AdapterVersion
from dovetail.registry.reference import Reference, check_name
from dovetail.registry.schema import AdapterRow, VersionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What to change; `checked` is the way to make one.

    Attributes:
        description: The new description, or None to leave it.
        tags: Tags to add or change.
        remove_tags: Tags to take away; those that are not there are no error.
    """

    description: str | None
    tags: Mapping[str, str]
    remove_tags: tuple[str, ...]

    @classmethod
    def checked(
        cls,
        *,
        description: str | None,
        tags: Mapping[str, str] | None,
        remove_tags: Sequence[str],
    ) -> Self:
        """Make one from what people hand in.

        Raises:
            InvalidInput: A text cannot be kept, or a tag is both given and taken away.
        """
        made = cls(
            description=check_text(description, what="the description"),
            tags=check_tags(tags),
            remove_tags=tuple(check_tags(dict.fromkeys(remove_tags, ""))),
        )
        both = sorted(made.tags.keys() & set(made.remove_tags))
        if both:
            raise InvalidInput(f"tag {both[0]!r} is both given and taken away", value=both[0])
        return made

    def change(self, description: str, tags: Mapping[str, str]) -> tuple[dict[str, Any], Any]:
        """Return the new values of a row's columns, and what changed, for the history."""
        values: dict[str, Any] = {}
        details: dict[str, Any] = {}
        if self.description is not None:
            values |= {"description": self.description, "updated_at": datetime.now(UTC)}
            details["description"] = {"old": description, "new": self.description}
        after = {key: tags[key] for key in tags if key not in self.remove_tags} | dict(self.tags)
        if after != tags:
            values["tags"] = after
            details["tags"] = {
                key: {"old": tags.get(key), "new": after.get(key)}
                for key in sorted(tags.keys() | after.keys())
                if tags.get(key) != after.get(key)
            }
        return values, details


def edit_adapter(context: Context, name: str, edit: Edit, *, reason: str | None) -> Adapter:
    """Change what an adapter says of itself; see `dovetail.registry.store.Registry`."""
    check_name(name)

    def change(connection: Connection) -> Adapter:
        row = lock_known_adapter(connection, name)
        values, details = edit.change(row.description, row.tags)
        if values:
            own = update(AdapterRow).where(AdapterRow.id == row.id)
            connection.execute(own.values(**values))
            append_event(
                connection,
                actor=context.actor,
                action="edit",
                name=name,
                reason=reason,
                details=details,
            )
        return load_adapters(connection, name=name)[0]

    return context.database.write(change)


def edit_version(
    context: Context, reference: Reference, edit: Edit, *, reason: str | None
) -> AdapterVersion:
    """Change what is said of a version; see `dovetail.registry.store.Registry`."""

    def change(connection: Connection) -> AdapterVersion:
        version_id, version = lock_version(connection, reference)
        values, details = edit.change(version.description, version.tags)
        if values:
            own = update(VersionRow).where(VersionRow.id == version_id)
            connection.execute(own.values(**values))
            append_event(
                connection,
                actor=context.actor,
                action="edit",
                name=version.name,
                number=version.number,
                reason=reason,
                details=details,
            )
        return find_version(connection, version.reference)[1]

    return context.database.write(change)
