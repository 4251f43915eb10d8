"""Searching versions: filters become SQL, every value a bound parameter."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    String,
    and_,
    cast,
    false,
    func,
    not_,
    or_,
    select,
)

from dovetail.errors import InvalidQuery
from dovetail.registry.filters import (
    Both,
    Comparison,
    Field,
    Filter,
    Not,
    make_field,
    parse_filter,
)
from dovetail.registry.jsontext import digest_json
from dovetail.registry.paging import next_token, offset_of
from dovetail.registry.reading import load_versions_by_id
from dovetail.registry.records import AdapterVersion
from dovetail.registry.schema import (
    AdapterRow,
    AliasRow,
    BaseModelRow,
    EvaluationRow,
    ScoreRow,
    VersionRow,
)

MAX_PAGE = 10_000

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXT_COLUMNS: dict[str, Any] = {
    "name": AdapterRow.name,
    "task": AdapterRow.task,
    "peft_type": VersionRow.peft_type,
    "created_by": VersionRow.created_by,
    "source_run": VersionRow.source_run,
    "payload": VersionRow.payload_digest,
}
_PLAIN = {*_TEXT_COLUMNS, "number", "base_model", "alias", "created_at"}
_KEYED = {"metrics", "params", "tags"}


_FOUND = (
    select(VersionRow.id)
    .join(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
    .join(BaseModelRow, VersionRow.base_model_id == BaseModelRow.id)
    .where(VersionRow.deleted_at.is_(None))
)
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
    asked = digest_json([text, list(order_by)])
    offset = offset_of(page_token, asked)
    query = _FOUND
    parsed = _parsed(text)
    if parsed is not None:
        query = query.where(_condition(parsed))
    query = query.order_by(
        *(_order(term) for term in order_by), AdapterRow.name, VersionRow.number.desc()
    )
    # The ids are put in order first: sorting whole rows would take the database longer.
    found = connection.execute(query.limit(limit + 1).offset(offset)).scalars().all()
    more = len(found) > limit
    return Page(
        versions=tuple(load_versions_by_id(connection, found[:limit])),
        next_page_token=next_token(offset + limit, asked) if more else None,
    )


def _condition(part: Filter) -> ColumnElement[bool]:
    if isinstance(part, Not):
        return _negated(_condition(part.part))
    if isinstance(part, Both):
        join = and_ if part.operator == "AND" else or_
        return join(*(_condition(inner) for inner in part.parts))
    found = _comparison(part)
    return _negated(found) if part.negated else found


def _negated(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    # In SQL, a comparison with what is missing is unknown, and so is its opposite.
    return not_(func.coalesce(condition, false()))


def _comparison(part: Comparison) -> ColumnElement[bool]:
    field = _checked(part.field)
    return _BY_KIND.get(field.kind, _by_column)(field, part)


def _by_column(field: Field, part: Comparison) -> ColumnElement[bool]:
    return _matches(_TEXT_COLUMNS[field.kind], part, convert=str)


def _by_number(field: Field, part: Comparison) -> ColumnElement[bool]:
    return _matches(VersionRow.number, part, convert=_numeric(field))


def _by_moment(_field: Field, part: Comparison) -> ColumnElement[bool]:
    return _matches(VersionRow.created_at, part, convert=_moment)


def _by_alias(_field: Field, part: Comparison) -> ColumnElement[bool]:
    pointed = select(AliasRow.version_id)
    if part.operator != "IS NULL":
        pointed = pointed.where(_matches(AliasRow.alias, part))
    return _among(pointed, part)


def _by_base_model(_field: Field, part: Comparison) -> ColumnElement[bool]:
    if part.operator == "IN":
        values = [str(value) for value in part.value]
        return or_(BaseModelRow.fingerprint.in_(values), BaseModelRow.name.in_(values))
    is_fingerprint = str(part.value).startswith("sha256:")
    column = BaseModelRow.fingerprint if is_fingerprint else BaseModelRow.name
    return _matches(column, part, convert=str)


def _by_score(field: Field, part: Comparison) -> ColumnElement[bool]:
    scored = (
        select(EvaluationRow.version_id)
        .join(ScoreRow, ScoreRow.evaluation_id == EvaluationRow.id)
        .where(ScoreRow.metric == field.key, EvaluationRow.version_id.is_not(None))
    )
    if part.operator != "IS NULL":
        scored = scored.where(_matches(ScoreRow.value, part, convert=_numeric(field)))
    return _among(scored, part)


def _among(query: Any, part: Comparison) -> ColumnElement[bool]:
    inside = VersionRow.id.in_(query)
    return not_(inside) if part.operator == "IS NULL" else inside


def _by_json(field: Field, part: Comparison) -> ColumnElement[bool]:
    path = f"$.{json.dumps(field.key)}"  # the database keeps JSON as this module writes it
    if field.kind == "tags":
        value = func.json_extract(AdapterRow.tags, path)
    else:
        value = func.coalesce(
            func.json_extract(VersionRow.hyperparameters, path),
            func.json_extract(VersionRow.config, path),
        )
    if part.operator == "IS NULL":
        return value.is_(None)
    if part.operator == "IN":
        kinds = [
            tuple(item for item in part.value if isinstance(item, str) is text)
            for text in (True, False)
        ]
        return or_(*(_json_matches(value, replace(part, value=kind)) for kind in kinds if kind))
    return _json_matches(value, part)


def _json_matches(value: Any, part: Comparison) -> ColumnElement[bool]:
    """Compare with text, or with numbers; an ``IN`` has values of one sort here."""
    first = part.value[0] if isinstance(part.value, tuple) else part.value
    if isinstance(first, str):
        return _matches(cast(value, String), part)
    is_number = func.typeof(value).in_(("integer", "real"))
    return and_(is_number, _matches(cast(value, Float), part))


def _matches(
    column: Any, part: Comparison, *, convert: Callable[[Any], Any] = lambda value: value
) -> ColumnElement[bool]:
    if part.operator == "IS NULL":
        return column.is_(None)  # type: ignore[no-any-return]
    if part.operator == "IN":
        return column.in_([convert(value) for value in part.value])  # type: ignore[no-any-return]
    if part.operator in ("LIKE", "ILIKE"):
        text = cast(column, String)
        if part.operator == "ILIKE":
            return text.ilike(part.value)
        return text.op("GLOB", is_comparison=True)(_glob(part.value))
    return _COMPARE[part.operator](column, convert(part.value))  # type: ignore[no-any-return]


def _glob(pattern: str) -> str:
    """Write a ``LIKE`` pattern as SQLite's ``GLOB``, because its ``LIKE`` ignores case."""
    return pattern.translate(_TO_GLOB)


_TO_GLOB = str.maketrans({"*": "[*]", "?": "[?]", "[": "[[]", "%": "*", "_": "?"})
_BY_KIND: dict[str, Callable[[Field, Comparison], ColumnElement[bool]]] = {
    "metrics": _by_score,
    "params": _by_json,
    "tags": _by_json,
    "alias": _by_alias,
    "base_model": _by_base_model,
    "created_at": _by_moment,
    "number": _by_number,
}


def _order(term: str) -> ColumnElement[Any]:
    words = term.split()
    direction = words[-1].upper() if words else ""
    if direction in ("ASC", "DESC"):
        words.pop()
    if len(words) != 1:
        raise InvalidQuery(
            f"order {term!r} cannot be understood; write FIELD or FIELD DESC", value=term
        )
    field = _checked(make_field(words[0].replace("`", "")))
    expression: Any
    if field.kind == "metrics":
        expression = (
            select(ScoreRow.value)
            .join(EvaluationRow, ScoreRow.evaluation_id == EvaluationRow.id)
            .where(EvaluationRow.version_id == VersionRow.id, ScoreRow.metric == field.key)
            .order_by(EvaluationRow.id.desc())
            .limit(1)
            .scalar_subquery()
        )
    elif field.kind == "created_at":
        expression = VersionRow.created_at
    elif field.kind == "number":
        expression = VersionRow.number
    elif field.kind in _TEXT_COLUMNS:
        expression = _TEXT_COLUMNS[field.kind]
    else:
        raise InvalidQuery(f"results cannot be ordered by {field.kind!r}", value=term)
    ordered = expression.desc() if direction == "DESC" else expression.asc()
    return ordered.nulls_last()  # type: ignore[no-any-return]


def _checked(field: Field) -> Field:
    if field.kind in _PLAIN and field.key is None:
        return field
    if field.kind in _KEYED and field.key and '"' not in field.key:
        return field
    shown = field.kind if field.key is None else f"{field.kind}.{field.key}"
    known = ", ".join([*sorted(_PLAIN), *(f"{kind}.NAME" for kind in sorted(_KEYED))])
    raise InvalidQuery(f"there is no field {shown!r} to search by; known are: {known}", value=shown)


def _numeric(field: Field) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        try:
            return float(value)
        except ValueError:
            raise InvalidQuery(
                f"{field.kind} is compared with numbers, not {value!r}", value=value
            ) from None

    return convert


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidQuery(
            f"{value!r} is no date; write '2026-05-01' or '2026-05-01T12:30:00+00:00'", value=value
        ) from None
