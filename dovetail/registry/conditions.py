"""From a filter to SQL: conditions on a version, and the versions that can meet them at all.

Every value is a bound parameter. A condition on another table is a subquery with a limit: of that
no database makes a join, which would read all scores over 0.4 to show the first hundred versions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    and_,
    case,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    type_coerce,
)

from dovetail.errors import InvalidQuery
from dovetail.registry.comparands import moment, numeric, refuse_pattern
from dovetail.registry.dialects import ilike, json_number, json_text, like
from dovetail.registry.filters import Both, Comparison, Field, Filter, Not
from dovetail.registry.schema import (
    AdapterRow,
    AliasRow,
    BaseModelRow,
    EvaluationRow,
    ScoreRow,
    VersionRow,
)

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
COLUMNS: dict[str, Any] = {
    "name": AdapterRow.name,
    "task": AdapterRow.task,
    "peft_type": VersionRow.peft_type,
    "created_by": VersionRow.created_by,
    "source_run": VersionRow.source_run,
    "payload": VersionRow.payload_digest,
    "created_at": VersionRow.created_at,
    "updated_at": VersionRow.updated_at,
    "number": VersionRow.number,
}
"""The fields that are a column of a version or its adapter."""

_PLAIN = {*COLUMNS, "base_model", "alias"}
_KEYED = {"metrics", "params", "tags", "version_tags", "adapter_tags"}
MOMENTS = {"created_at", "updated_at"}
"""The fields that are times; an index has versions in the order of each."""

_INDEXED = {"source_run", "payload", *MOMENTS}
_BY_INDEX = {"=", "<", "<=", ">", ">=", "IN"}
_DOCUMENTS: dict[str, tuple[Any, ...]] = {
    "params": (VersionRow.hyperparameters, VersionRow.config),
    "tags": (VersionRow.tags, AdapterRow.tags),
    "version_tags": (VersionRow.tags,),
    "adapter_tags": (AdapterRow.tags,),
}


def condition_of(part: Filter) -> ColumnElement[bool]:
    """Return what a filter asks of a row of ``versions`` joined to its row of ``adapters``.

    Raises:
        InvalidQuery: There is no such field, or a value is of the wrong kind.
    """
    if isinstance(part, Not):
        return _negated(condition_of(part.part))
    if isinstance(part, Both):
        join = and_ if part.operator == "AND" else or_
        return join(*(condition_of(inner) for inner in part.parts))
    field = checked_field(part.field)
    found = _BY_KIND.get(field.kind, _by_text)(field, part)
    return _negated(found) if part.negated else found


def candidates_of(part: Comparison) -> Select[Any] | None:
    """Select the ids of the versions that meet a comparison, or more, by way of an index.

    Deleted versions are among them, NULL may be, and an id may come twice. None means that no
    index helps. They come in the index's order, so that a limit keeps databases from thinking that
    they are many and reading everything.
    """
    field = checked_field(part.field)
    if part.negated or part.operator == "IS NULL":
        return None
    if field.kind == "name" and part.operator == "=":
        owner = select(AdapterRow.id).where(_matches(AdapterRow.name, part, convert=str))
        own = select(VersionRow.id).where(VersionRow.adapter_id == owner.scalar_subquery())
        return own.order_by(VersionRow.adapter_id)
    if field.kind == "alias":
        named = select(AliasRow.version_id).where(_matches(AliasRow.alias, part, convert=str))
        return named.order_by(AliasRow.alias)
    if field.kind == "base_model":
        same = select(BaseModelRow.id).where(_is_base_model(part))
        trained = select(VersionRow.id).where(VersionRow.base_model_id.in_(same))
        return trained.order_by(VersionRow.base_model_id)
    return _by_value(field, part) if part.operator in _BY_INDEX else None


def _by_value(field: Field, part: Comparison) -> Select[Any] | None:
    if field.kind == "metrics":
        own = EvaluationRow.id == ScoreRow.evaluation_id
        evaluated = select(EvaluationRow.version_id).where(own)
        met = and_(ScoreRow.metric == field.key, _is_score(ScoreRow.value, field, part))
        scored = select(evaluated.correlate(ScoreRow).scalar_subquery())
        return scored.where(met).order_by(ScoreRow.value)
    if field.kind in _INDEXED:
        column = COLUMNS[field.kind]
        convert = moment if field.kind in MOMENTS else str
        found = select(VersionRow.id).where(_matches(column, part, convert=convert))
        return found.order_by(column)
    return None


def newest_score(metric: str) -> ColumnElement[float]:
    """Return the score that the newest evaluation with this metric gave a version, or NULL."""
    return (
        select(ScoreRow.value)
        .join(EvaluationRow, ScoreRow.evaluation_id == EvaluationRow.id)
        .where(EvaluationRow.version_id == VersionRow.id, unindexed(ScoreRow.metric) == metric)
        .order_by(EvaluationRow.id.desc())
        .limit(1)
        .correlate(VersionRow)
        .scalar_subquery()
    )


def checked_field(field: Field) -> Field:
    """Return the field if versions have it.

    Raises:
        InvalidQuery: They have not; the message lists those that they have.
    """
    if field.kind in _PLAIN and field.key is None:
        return field
    if field.kind in _KEYED and field.key and '"' not in field.key:
        return field
    shown = field.kind if field.key is None else f"{field.kind}.{field.key}"
    known = ", ".join([*sorted(_PLAIN), *(f"{kind}.NAME" for kind in sorted(_KEYED))])
    raise InvalidQuery(f"there is no field {shown!r} to search by; known are: {known}", value=shown)


def _negated(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    # In SQL, a comparison with what is missing is unknown, and so is its opposite.
    return not_(func.coalesce(condition, false()))


def _by_text(field: Field, part: Comparison) -> ColumnElement[bool]:
    column = COLUMNS[field.kind]
    return _matches(unindexed(column) if field.kind in _INDEXED else column, part, convert=str)


def _by_number(field: Field, part: Comparison) -> ColumnElement[bool]:
    refuse_pattern(field, part)
    # Else a bound 2.5 would become a whole number, as the column has only those.
    return _matches(type_coerce(VersionRow.number, Float(53)), part, convert=numeric(field))


def _by_moment(field: Field, part: Comparison) -> ColumnElement[bool]:
    refuse_pattern(field, part)
    return _matches(unindexed(COLUMNS[field.kind]), part, convert=moment)


def _by_alias(_field: Field, part: Comparison) -> ColumnElement[bool]:
    pointed = select(AliasRow.version_id).where(AliasRow.version_id == VersionRow.id)
    if part.operator != "IS NULL":
        pointed = pointed.where(_matches(AliasRow.alias, part, convert=str))
    return _there_is(pointed, part)


def _by_base_model(_field: Field, part: Comparison) -> ColumnElement[bool]:
    same = select(BaseModelRow.id).where(BaseModelRow.id == VersionRow.base_model_id)
    if part.operator != "IS NULL":
        same = same.where(_is_base_model(part))
    return _there_is(same, part)


def _is_base_model(part: Comparison) -> ColumnElement[bool]:
    if part.operator == "IN":
        values = [str(value) for value in part.value]
        return or_(BaseModelRow.fingerprint.in_(values), BaseModelRow.name.in_(values))
    is_fingerprint = str(part.value).startswith("sha256:")
    column = BaseModelRow.fingerprint if is_fingerprint else BaseModelRow.name
    return _matches(column, part, convert=str)


def _by_score(field: Field, part: Comparison) -> ColumnElement[bool]:
    # The way is from the version to its few scores, and not from all scores to the version.
    scored = (
        select(EvaluationRow.id)
        .join(ScoreRow, ScoreRow.evaluation_id == EvaluationRow.id)
        .where(EvaluationRow.version_id == VersionRow.id, unindexed(ScoreRow.metric) == field.key)
    )
    if part.operator != "IS NULL":
        scored = scored.where(_is_score(unindexed(ScoreRow.value), field, part))
    return _there_is(scored, part)


def _is_score(value: Any, field: Field, part: Comparison) -> ColumnElement[bool]:
    refuse_pattern(field, part)
    return _matches(value, part, convert=numeric(field))


def _there_is(query: Select[Any], part: Comparison) -> ColumnElement[bool]:
    found = query.limit(1).correlate(VersionRow).scalar_subquery()
    return found.is_(None) if part.operator == "IS NULL" else found.is_not(None)


def _by_json(field: Field, part: Comparison) -> ColumnElement[bool]:
    key = str(field.key)
    first, *others = _DOCUMENTS[field.kind]
    text: Any = json_text(first, key)
    number: Any = json_number(first, key)
    for other in others:  # what the first document does not have, the next may
        number = case((text.is_not(None), number), else_=json_number(other, key))
        text = func.coalesce(text, json_text(other, key))
    if part.operator == "IS NULL":
        return text.is_(None)  # type: ignore[no-any-return]  # of Any columns
    if part.operator != "IN":
        return _matches(text if isinstance(part.value, str) else number, part, convert=_of_json)
    texts = tuple(value for value in part.value if isinstance(value, str))
    numbers = tuple(float(value) for value in part.value if not isinstance(value, str))
    kinds = ((text, texts), (number, numbers))
    return or_(*(_matches(value, replace(part, value=some)) for value, some in kinds if some))


def _of_json(value: Any) -> str | float:
    return value if isinstance(value, str) else float(value)


def _matches(
    column: Any, part: Comparison, *, convert: Callable[[Any], Any] = lambda value: value
) -> ColumnElement[bool]:
    if part.operator == "IS NULL":
        return column.is_(None)  # type: ignore[no-any-return]  # of Any columns
    if part.operator == "IN":
        return column.in_([convert(value) for value in part.value])  # type: ignore[no-any-return]  # of Any columns
    if part.operator in ("LIKE", "ILIKE"):
        return (like if part.operator == "LIKE" else ilike)(column, part.value)
    value = literal(convert(part.value), column.type)
    return _COMPARE[part.operator](column, value)  # type: ignore[no-any-return]  # of Any columns


def unindexed(column: Any) -> ColumnElement[Any]:
    """Return a column so that no index is used for it: whether one helps is decided elsewhere."""
    return func.coalesce(column, column, type_=column.type)


_BY_KIND: dict[str, Callable[[Field, Comparison], ColumnElement[bool]]] = {
    "metrics": _by_score,
    "params": _by_json,
    "tags": _by_json,
    "version_tags": _by_json,
    "adapter_tags": _by_json,
    "alias": _by_alias,
    "base_model": _by_base_model,
    "created_at": _by_moment,
    "updated_at": _by_moment,
    "number": _by_number,
}
