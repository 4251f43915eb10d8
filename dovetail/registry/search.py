"""Searching versions: which statements answer a filter, however many versions there are.

A database cannot know how many versions have a rougeL over 0.4 and come early in the alphabet. So
it is asked first, at little cost, whether those that a part of the filter finds by way of an index
are few. If they are, only they are looked at. Else versions are read in the order that is asked
for, until the page is full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    literal,
    select,
    true,
)
from sqlalchemy.orm import aliased

from dovetail.errors import InvalidQuery
from dovetail.registry.conditions import MOMENTS, candidates_of, condition_of, unindexed
from dovetail.registry.dialects import IDS, is_among_ids, joins_laterally, prefer_order
from dovetail.registry.filters import Both, Comparison, Filter, parse_filter
from dovetail.registry.jsontext import digest_json
from dovetail.registry.ordering import Term, after, not_before, terms_of
from dovetail.registry.paging import next_token, place_of
from dovetail.registry.reading import load_versions_by_id
from dovetail.registry.records import AdapterVersion
from dovetail.registry.schema import AdapterRow, EvaluationRow, ScoreRow, VersionRow

MAX_PAGE = 10_000
FEW = 5_000
"""So many versions are looked at one by one sooner than all versions in order."""

_MOST_PROBES = 16
_BEYOND_NUMBERS = 2**31
_BY_NAME = ([("name", False), ("number", True)], [("name", True), ("number", True)])
_Statement: TypeAlias = Callable[[int], Select[int]]
_OWNER = unindexed(VersionRow.adapter_id)  # from a version to its adapter, never the other way
_MEMBER = unindexed(AdapterRow.id)  # from an adapter to its versions, never the other way
_VERSIONS_OF = select(VersionRow.id).join(AdapterRow, VersionRow.adapter_id == _MEMBER)
_FOUND = select(VersionRow.id).join(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
_parsed = lru_cache(maxsize=256)(parse_filter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of search results, and the token that asks for the next, or None."""

    versions: tuple[AdapterVersion, ...]
    next_page_token: str | None


def search_versions(
    connection: Connection,
    text: str,
    *,
    order_by: Sequence[str],
    limit: int,
    page_token: str | None,
) -> Page:
    """Find versions that are not deleted.

    Args:
        connection: An open transaction.
        text: A filter, or nothing for all.
        order_by: Fields such as ``metrics.rougeL DESC``; name and number follow.
        limit: Most versions on a page, 1 to 10,000.
        page_token: From the page before.

    Raises:
        InvalidQuery: The filter, order, limit or token cannot be understood.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidQuery(f"limit is {limit:,}; it must be from 1 to {MAX_PAGE:,}", value=limit)
    if any("\0" in part for part in (text, *order_by)):
        raise InvalidQuery("a filter or order has a NUL character, which nothing that is kept has")
    asked = digest_json([text, list(order_by)])
    terms = terms_of(order_by)
    place = None if page_token is None else place_of(page_token, terms, asked)
    found = find_ids(connection, _parsed(text), terms, place=place, limit=limit + 1)
    token = None
    if len(found) > limit:
        last = found[limit - 1]
        token = next_token(find_places(connection, terms, [last])[last], asked)
    return Page(
        versions=tuple(load_versions_by_id(connection, found[:limit])), next_page_token=token
    )


def find_ids(
    connection: Connection,
    part: Filter | None,
    terms: Sequence[Term],
    *,
    place: tuple[Any, ...] | None,
    limit: int,
) -> list[int]:
    """Return the row ids of versions that are not deleted and that a filter finds, in order.

    Args:
        connection: An open transaction.
        part: The filter, or None for all.
        terms: The order.
        place: Only those that come after this place, from `find_places`.
        limit: Only so many.

    Raises:
        InvalidQuery: There is no such field, or a value is of the wrong kind.
    """
    condition: ColumnElement[bool] = true() if part is None else condition_of(part)
    few = None if part is None else _few(connection, part)
    if few is not None and few.exact:
        condition = true()
    parameters = {} if few is None else {IDS: sorted(few.ids)}
    if few is None:
        prefer_order(connection)
    statements = _statements(connection, terms, place, condition, few=few is not None)
    found: list[int] = []
    for statement in statements:
        wanted = limit - len(found)
        if wanted:
            found += connection.execute(statement(wanted), parameters).scalars().all()
    return found


def find_places(
    connection: Connection, terms: Sequence[Term], ids: Sequence[int]
) -> dict[int, tuple[Any, ...]]:
    """Return what versions are ordered by now, term by term, by their row ids."""
    columns = (VersionRow.id, *(term.expression for term in terms))
    query = _FOUND.with_only_columns(*columns).where(is_among_ids(VersionRow.id))
    return {row[0]: tuple(row[1:]) for row in connection.execute(query, {IDS: list(ids)})}


@dataclass(frozen=True, slots=True)
class _Few:
    """Row ids that hold all versions which a filter can find; whether it finds every one."""

    ids: set[int]
    exact: bool


def _few(connection: Connection, part: Filter) -> _Few | None:
    """Return the versions that a filter can find, if an index says that they are few."""
    if isinstance(part, Comparison):
        return _found_by_index(connection, part)
    if not isinstance(part, Both) or _size(part) > _MOST_PROBES:
        return None
    known = [few for few in (_few(connection, inner) for inner in part.parts) if few is not None]
    complete = len(known) == len(part.parts)
    if not known or (part.operator == "OR" and not complete):
        return None
    join = set.intersection if part.operator == "AND" else set.union
    exact = complete and all(few.exact for few in known)
    return _Few(join(*(few.ids for few in known)), exact=exact)


def _found_by_index(connection: Connection, part: Comparison) -> _Few | None:
    candidates = candidates_of(part)
    if candidates is None:
        return None
    ids = connection.execute(candidates.limit(FEW + 1)).scalars().all()
    if len(ids) > FEW:
        return None
    return _Few({one for one in ids if one is not None}, exact=True)


def _size(part: Filter) -> int:
    if isinstance(part, Both):
        return sum(_size(inner) for inner in part.parts)
    return 1


def _statements(
    connection: Connection,
    terms: Sequence[Term],
    place: Sequence[Any] | None,
    condition: ColumnElement[bool],
    *,
    few: bool = False,
) -> Iterator[_Statement]:
    """Yield what finds versions in order; the second goes on where the first finds no more."""
    first, rest = terms[0], terms[1:]
    order = [(term.field.kind, term.descending) for term in terms]
    wanted = and_(VersionRow.deleted_at.is_(None), condition)
    if few:
        yield partial(_in_order, _FOUND.where(is_among_ids(VersionRow.id), wanted), terms, place)
    elif first.field.kind == "metrics":
        if place is None or place[0] is not None:
            by_value = replace(first, expression=ScoreRow.value, nullable=False)
            scored = _scored(str(first.field.key)).where(wanted)
            yield partial(_in_order, scored, (by_value, *rest), place)
            place = None
        without = and_(condition, first.expression.is_(None))
        yield from _statements(connection, rest, None if place is None else place[1:], without)
    elif first.field.kind in MOMENTS:
        by_time = select(VersionRow.id).join(AdapterRow, AdapterRow.id == _OWNER).where(wanted)
        yield partial(_in_order, by_time, terms, place)
    elif order in _BY_NAME and joins_laterally(connection):
        yield partial(_of_each_adapter, wanted, first, place)
    elif order in _BY_NAME:
        yield partial(_in_order, _VERSIONS_OF.where(wanted), terms, place)
    else:
        yield partial(_in_order, _FOUND.where(wanted), terms, place)


def _in_order(
    query: Select[int], terms: Sequence[Term], place: Sequence[Any] | None, limit: int
) -> Select[int]:
    # Ids alone are put in order: sorting whole rows would take the database longer.
    ordered = query.order_by(*(term.clause for term in terms)).limit(limit)
    return ordered if place is None else ordered.where(after(terms, place))


def _of_each_adapter(
    wanted: ColumnElement[bool], name: Term, place: Sequence[Any] | None, limit: int
) -> Select[int]:
    """Select by name, then number: of each adapter no more than could be on the page.

    Where one adapter has a hundred thousand versions and the others have ten, PostgreSQL expects
    ten of that one, too, and would read and sort them all.
    """
    own = select(VersionRow.id, VersionRow.number).where(VersionRow.adapter_id == AdapterRow.id)
    if place is not None:
        here, number = name.is_at(place[0]), literal(place[1], BigInteger)
        own = own.where(VersionRow.number < case((here, number), else_=_BEYOND_NUMBERS))
    newest = own.where(wanted).order_by(VersionRow.number.desc()).limit(limit)
    each = newest.correlate(AdapterRow).lateral()
    found = select(each.c.id).select_from(AdapterRow).join(each, true())
    if place is not None:
        found = found.where(not_before(name, place[0]))
    return found.order_by(name.clause, each.c.number.desc()).limit(limit)


def _scored(metric: str) -> Select[int]:
    """Select versions by way of the score that `newest_score` returns for them.

    An index has the scores in order, and from there to their versions is a short way.
    """
    newer, other = aliased(EvaluationRow), aliased(ScoreRow)
    later = (
        select(newer.id)
        .join(other, other.evaluation_id == newer.id)
        .where(
            newer.version_id == EvaluationRow.version_id,
            newer.id > EvaluationRow.id,
            unindexed(other.metric) == metric,
        )
        .limit(1)
        .correlate(EvaluationRow)
        .scalar_subquery()
    )
    return (
        select(VersionRow.id)
        .select_from(ScoreRow)
        .join(EvaluationRow, ScoreRow.evaluation_id == EvaluationRow.id)
        .join(VersionRow, EvaluationRow.version_id == VersionRow.id)
        .join(AdapterRow, AdapterRow.id == _OWNER)
        .where(ScoreRow.metric == metric, later.is_(None))
    )
