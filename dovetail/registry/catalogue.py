"""Lean reading for catalogues: what a list of many versions shows, and nothing else.

A record of `dovetail.registry.records` has a version's configuration and its files. A page of ten
thousand versions in somebody's user interface shows neither, so here neither is read; the scores
that it shows are read for the whole page at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    and_,
    bindparam,
    exists,
    select,
    true,
)

from dovetail.registry.conditions import condition_of, unindexed
from dovetail.registry.dialects import IDS, is_among_ids
from dovetail.registry.filters import Field, Filter
from dovetail.registry.listing import load_aliases
from dovetail.registry.ordering import Term, after
from dovetail.registry.reading import chunks
from dovetail.registry.schema import (
    AdapterRow,
    AliasRow,
    BaseModelRow,
    EvaluationRow,
    ScoreRow,
    VersionRow,
)


class ListedVersion(NamedTuple):
    """What a list shows of one version; `id` is its row id.

    Scores are the newest by each metric, written by `shown_score`.
    """

    id: int
    name: str
    number: int
    base_model: str
    base_model_name: str
    peft_type: str
    source_run: str | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    description: str
    tags: Mapping[str, Any]
    aliases: Sequence[str]
    scores: Mapping[str, str]


class ListedAdapter(NamedTuple):
    """What a list shows of one adapter and of its latest version; `id` is its row id."""

    id: int
    name: str
    task: str | None
    description: str
    tags: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    aliases: Mapping[str, int]
    latest: ListedVersion | None


_AT_ONCE = 200  # rows of scores: to have few objects at a time spares Python looking through them
_LIVE = VersionRow.deleted_at.is_(None)
_VERSIONS = (
    select(
        VersionRow.id,
        AdapterRow.name,
        VersionRow.number,
        BaseModelRow.fingerprint,
        BaseModelRow.name.label("base_model_name"),
        VersionRow.peft_type,
        VersionRow.source_run,
        VersionRow.created_by,
        VersionRow.created_at,
        VersionRow.updated_at,
        VersionRow.description,
        VersionRow.tags,
    )
    .join(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
    .join(BaseModelRow, VersionRow.base_model_id == BaseModelRow.id)
)
_MANY = _VERSIONS.where(is_among_ids(VersionRow.id))
_OF_ADAPTER = _VERSIONS.where(AdapterRow.name == bindparam("of_name"), _LIVE)
_BY_NUMBER = _OF_ADAPTER.where(VersionRow.number == bindparam("of_number", type_=BigInteger))
_BY_ALIAS = _OF_ADAPTER.join(
    AliasRow, (AliasRow.adapter_id == AdapterRow.id) & (AliasRow.version_id == VersionRow.id)
).where(AliasRow.alias == bindparam("of_alias"))
_NEWEST = _OF_ADAPTER.order_by(VersionRow.number.desc()).limit(1)
# In order, but not by way of the indexes that have all of them in order.
_ALIASES = select(AliasRow.version_id, AliasRow.alias).order_by(unindexed(AliasRow.alias))
_SCORES = (
    select(
        EvaluationRow.version_id,
        ScoreRow.metric,
        ScoreRow.value,
        ScoreRow.ci_low,
        ScoreRow.ci_high,
        EvaluationRow.kind,
        EvaluationRow.dataset_name,
    )
    .join(ScoreRow, ScoreRow.evaluation_id == EvaluationRow.id)
    .order_by(unindexed(EvaluationRow.id), ScoreRow.metric)
)
_ALIASES_OF_MANY = _ALIASES.where(is_among_ids(AliasRow.version_id))
_SCORES_OF_MANY = _SCORES.where(is_among_ids(EvaluationRow.version_id))
# With the same text each time, which PostgreSQL then need not read and plan anew.
_ALIASES_OF_ONE = _ALIASES.where(AliasRow.version_id == bindparam("of_version"))
_SCORES_OF_ONE = _SCORES.where(EvaluationRow.version_id == bindparam("of_version"))
_ADAPTERS = select(
    AdapterRow.id,
    AdapterRow.name,
    AdapterRow.task,
    AdapterRow.description,
    AdapterRow.tags,
    AdapterRow.created_at,
    AdapterRow.updated_at,
    select(VersionRow.id)
    .where(VersionRow.adapter_id == AdapterRow.id, _LIVE)
    .order_by(VersionRow.number.desc())
    .limit(1)
    .correlate(AdapterRow)
    .scalar_subquery()
    .label("latest"),
).where(AdapterRow.deleted_at.is_(None))
_ADAPTER = _ADAPTERS.where(AdapterRow.name == bindparam("of_name"))
_NAMES = select(AdapterRow.name).where(
    AdapterRow.deleted_at.is_(None), AdapterRow.name.in_(bindparam("of_names", expanding=True))
)
IS_ADAPTER = (
    select(AdapterRow.id)
    .where(AdapterRow.deleted_at.is_(None), AdapterRow.name == bindparam("of_name"))
    .exists()
)
"""Whether there is an adapter with the name in the parameter ``of_name``."""
_IS_ADAPTER = select(IS_ADAPTER)


def shown_score(
    value: float, ci_low: float | None, ci_high: float | None, kind: str, dataset: str | None
) -> str:
    """Write a score so that it is read, and sorted, by its number first.

    Examples:
        >>> shown_score(0.41234, 0.39, 0.43, "measured", "dialogues")
        '0.4123 [0.3900, 0.4300] on dialogues'
        >>> shown_score(0.41234, None, None, "reported", None)
        '0.4123 reported'
    """
    words = f"{value:.4f}"
    if ci_low is not None and ci_high is not None:
        words += f" [{ci_low:.4f}, {ci_high:.4f}]"
    if dataset:
        words += f" on {dataset}"
    return words if kind == "measured" else f"{words} {kind}"


def is_adapter(connection: Connection, name: str) -> bool:
    """Tell whether there is an adapter with a name."""
    return bool(connection.execute(_IS_ADAPTER, {"of_name": name}).scalar())


def adapters_among(connection: Connection, names: Sequence[str]) -> set[str]:
    """Return those names that adapters have."""
    found: set[str] = set()
    for start in range(0, len(names), 1000):
        some = names[start : start + 1000]
        found.update(connection.execute(_NAMES, {"of_names": some}).scalars())
    return found


def list_version(
    connection: Connection, name: str, *, number: int | None = None, alias: str | None = None
) -> ListedVersion | None:
    """Return a version by its number or an alias, without either the latest; None if not there."""
    by_name = _NEWEST if alias is None else _BY_ALIAS
    query = by_name if number is None else _BY_NUMBER
    wanted = {"of_name": name, "of_number": number, "of_alias": alias}
    rows = connection.execute(query, wanted).all()
    return next(_with_belongings(connection, rows), None)


def list_versions_by_id(connection: Connection, ids: Sequence[int]) -> Iterator[ListedVersion]:
    """Yield versions by row id, in the order of the ids, within the transaction."""
    rows: dict[int, Any] = {}
    for chunk in chunks(ids):
        for row in connection.execute(_MANY, {IDS: chunk}).all():
            rows[row[0]] = row
    return _with_belongings(connection, [rows[one] for one in ids])


def list_adapter(connection: Connection, name: str) -> ListedAdapter | None:
    """Return an adapter by its name, or None if there is none."""
    rows = connection.execute(_ADAPTER, {"of_name": name}).all()
    return next(iter(_adapters(connection, rows)), None)


def list_adapters(
    connection: Connection,
    *,
    about: Filter | None,
    versions: Filter | None,
    terms: Sequence[Term],
    place: Sequence[Any] | None,
    limit: int,
) -> list[ListedAdapter]:
    """Find adapters.

    Args:
        connection: An open transaction.
        about: What must hold of the adapter itself: its name, task and tags.
        versions: What must hold of a version of it, or None.
        terms: The order, of `terms_of_adapters`.
        place: Only those that come after this place, from `find_places`.
        limit: Only so many.

    Raises:
        InvalidQuery: There is no such field, or a value is of the wrong kind.
    """
    query = _ADAPTERS.where(true() if about is None else condition_of(about))
    if versions is not None:
        owned = and_(VersionRow.adapter_id == AdapterRow.id, _LIVE, condition_of(versions))
        query = query.where(exists().where(owned).correlate(AdapterRow))
    if place is not None:
        query = query.where(after(terms, place))
    ordered = query.order_by(*(term.clause for term in terms)).limit(limit)
    return _adapters(connection, connection.execute(ordered).all())


def terms_of_adapters(order: Sequence[tuple[str, bool]]) -> tuple[Term, ...]:
    """Return an order of adapters, from fields (``name``, ``updated_at``) and whether descending.

    The name decides the rest.
    """
    columns = {"name": AdapterRow.name, "updated_at": AdapterRow.updated_at}
    whole = [*order, ("name", False)] if all(field != "name" for field, _ in order) else order
    return tuple(
        Term(field=Field(field), expression=columns[field], descending=descending, nullable=False)
        for field, descending in whole
    )


def find_places(
    connection: Connection, terms: Sequence[Term], ids: Sequence[int]
) -> dict[int, tuple[Any, ...]]:
    """Return what adapters are ordered by now, term by term, by their row ids."""
    query = select(AdapterRow.id, *(term.expression for term in terms))
    found = connection.execute(query.where(is_among_ids(AdapterRow.id)), {IDS: list(ids)})
    return {row[0]: tuple(row[1:]) for row in found}


def _adapters(connection: Connection, rows: Sequence[Any]) -> list[ListedAdapter]:
    aliases = load_aliases(connection, [row.id for row in rows])
    wanted = [row.latest for row in rows if row.latest is not None]
    latest = {version.id: version for version in list_versions_by_id(connection, wanted)}
    return [
        ListedAdapter._make((*row[:-1], aliases.get(row.id, {}), latest.get(row.latest)))
        for row in rows
    ]


def _with_belongings(connection: Connection, rows: Sequence[Any]) -> Iterator[ListedVersion]:
    aliases: defaultdict[int, list[str]] = defaultdict(list)
    scores: defaultdict[int | None, dict[str, str]] = defaultdict(dict)
    for of_aliases, of_scores, wanted in _belongings([row[0] for row in rows]):
        for pointed, alias in connection.execute(of_aliases, wanted).all():
            aliases[pointed].append(alias)
        for part in connection.execute(of_scores, wanted).partitions(_AT_ONCE):
            for version_id, metric, *score in part:
                scores[version_id][metric] = shown_score(*score)  # the last is the newest
    for row in rows:  # what was read is let go of with each, for there may be ten thousand
        one = row[0]
        yield ListedVersion._make((*row, aliases.pop(one, ()), scores.pop(one, {})))


def _belongings(ids: Sequence[int]) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Yield what selects the aliases and the scores of versions, and for which of them."""
    if len(ids) == 1:
        yield _ALIASES_OF_ONE, _SCORES_OF_ONE, {"of_version": ids[0]}
        return
    for chunk in chunks(ids):
        yield _ALIASES_OF_MANY, _SCORES_OF_MANY, {IDS: chunk}
