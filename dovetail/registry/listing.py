"""Lists of adapters and of an adapter's versions, in pages.

A page counts the versions of its own adapters and of no other, and begins where the one before
ended, so that it takes the same time in a registry of any size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import BigInteger, Connection, func, literal, select

from dovetail.registry.checks import check_text
from dovetail.registry.conditions import unindexed
from dovetail.registry.dialects import IDS, is_among_ids
from dovetail.registry.paging import checked_limit, within_reach
from dovetail.registry.reading import VERSIONS, chunks, find_adapter_id, load_versions, without_id
from dovetail.registry.records import Adapter, AdapterVersion
from dovetail.registry.schema import AdapterRow, AliasRow, VersionRow

_LAST_CHARACTER = "\U0010ffff"
_LIVE = VersionRow.deleted_at.is_(None)
_OF_THIS = VersionRow.adapter_id == AdapterRow.id
_ADAPTERS = select(
    AdapterRow.id,
    AdapterRow.name,
    AdapterRow.task,
    AdapterRow.description,
    AdapterRow.tags,
    AdapterRow.created_at,
    AdapterRow.updated_at,
    select(func.count()).where(_OF_THIS, _LIVE).scalar_subquery().label("versions"),
    select(func.max(VersionRow.number)).where(_OF_THIS, _LIVE).scalar_subquery().label("latest"),
)
_ADAPTERS = _ADAPTERS.where(AdapterRow.deleted_at.is_(None)).order_by(AdapterRow.name)
_POINTERS = (
    select(AliasRow.adapter_id, AliasRow.alias, VersionRow.number)
    .join(VersionRow, AliasRow.version_id == VersionRow.id)
    .where(is_among_ids(AliasRow.adapter_id))
    .order_by(unindexed(AliasRow.alias))  # as in `reading`
)


def load_adapters(
    connection: Connection,
    *,
    name: str | None = None,
    prefix: str = "",
    limit: int | None = None,
    after: str = "",
) -> list[Adapter]:
    """Return adapters by name.

    Args:
        connection: An open transaction.
        name: Only this one.
        prefix: Only those whose names begin so.
        limit: Only so many.
        after: Only those whose names come after this.

    Raises:
        AdapterNotFound: There is none with this name.
        InvalidInput: The limit is below 1, or something is no text.
    """
    for text in (prefix, after):
        check_text(text, what="what a name begins with or comes after")
    query = _ADAPTERS.limit(checked_limit(limit))
    if name is not None:
        query = query.where(AdapterRow.id == find_adapter_id(connection, name))
    if prefix:
        query = query.where(AdapterRow.name.between(prefix, prefix + _LAST_CHARACTER))
    if after:
        query = query.where(AdapterRow.name > after)
    rows = connection.execute(query).mappings().all()
    aliases = load_aliases(connection, [row["id"] for row in rows])
    return [Adapter(**without_id(row), aliases=aliases[row["id"]]) for row in rows]


def load_aliases(
    connection: Connection, adapter_ids: Sequence[int]
) -> defaultdict[int, dict[str, int]]:
    """Return the aliases of each adapter by row id, and the numbers that they point to."""
    aliases: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for chunk in chunks(adapter_ids):
        for owner, alias, number in connection.execute(_POINTERS, {IDS: chunk}).all():
            aliases[owner][alias] = number
    return aliases


def list_versions(
    connection: Connection,
    name: str,
    *,
    deleted: bool = False,
    limit: int | None = None,
    before: int | None = None,
) -> list[AdapterVersion]:
    """Return an adapter's versions from the newest to the oldest.

    Args:
        connection: An open transaction.
        name: The adapter.
        deleted: Whether those that are deleted count.
        limit: Only so many, the newest.
        before: Only those with lower numbers.

    Raises:
        AdapterNotFound: There is no adapter with this name.
    """
    adapter_id = find_adapter_id(connection, name)
    query = VERSIONS.where(VersionRow.adapter_id == adapter_id)
    if not deleted:
        query = query.where(VersionRow.deleted_at.is_(None))
    if before is not None:
        query = query.where(VersionRow.number < literal(within_reach(before), BigInteger))
    newest_first = query.order_by(VersionRow.number.desc()).limit(checked_limit(limit))
    return load_versions(connection, newest_first)
