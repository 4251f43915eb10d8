"""Searching versions: filters become SQL, every value a bound parameter."""

from __future__ import annotations

import base64
import binascii
import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    String,
    and_,
    cast,
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
from dovetail.registry.reading import VERSIONS, load_versions
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
    offset = _offset_of(page_token, asked)
    query = VERSIONS.where(VersionRow.deleted_at.is_(None))
    parsed = parse_filter(text)
    if parsed is not None:
        query = query.where(_condition(parsed))
    query = query.order_by(
        *(_order(term) for term in order_by), AdapterRow.name, VersionRow.number.desc()
    )
    found = load_versions(connection, query.limit(limit + 1).offset(offset))
    more = len(found) > limit
    return Page(
        versions=tuple(found[:limit]),
        next_page_token=_token(offset + limit, asked) if more else None,
    )


def _condition(part: Filter) -> ColumnElement[bool]:
    if isinstance(part, Not):
        return not_(_condition(part.part))
    if isinstance(part, Both):
        join = and_ if part.operator == "AND" else or_
        return join(*(_condition(inner) for inner in part.parts))
    found = _comparison(part)
    return not_(found) if part.negated else found


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
    is_fingerprint = str(part.value).startswith("sha256:")
    return _matches(BaseModelRow.fingerprint if is_fingerprint else BaseModelRow.name, part)


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
    path = f'$."{field.key}"'
    if field.kind == "tags":
        value = func.json_extract(AdapterRow.tags, path)
    else:
        value = func.coalesce(
            func.json_extract(VersionRow.hyperparameters, path),
            func.json_extract(VersionRow.config, path),
        )
    if part.operator == "IS NULL":
        return value.is_(None)
    if isinstance(part.value, int | float):
        is_number = func.typeof(value).in_(("integer", "real"))
        return and_(is_number, _matches(cast(value, Float), part))
    return _matches(cast(value, String), part, convert=str)


def _matches(
    column: Any, part: Comparison, *, convert: Callable[[Any], Any] = lambda value: value
) -> ColumnElement[bool]:
    if part.operator == "IS NULL":
        return column.is_(None)  # type: ignore[no-any-return]
    if part.operator == "IN":
        return column.in_([convert(value) for value in part.value])  # type: ignore[no-any-return]
    if part.operator in ("LIKE", "ILIKE"):
        text = cast(column, String)
        return text.ilike(part.value) if part.operator == "ILIKE" else text.like(part.value)
    return _COMPARE[part.operator](column, convert(part.value))  # type: ignore[no-any-return]


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
    except ValueError:
        raise InvalidQuery(
            f"{value!r} is no date; write '2026-05-01' or '2026-05-01T12:30:00+00:00'", value=value
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _token(offset: int, asked: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([offset, asked[-16:]]).encode()).decode()


def _offset_of(token: str | None, asked: str) -> int:
    if token is None:
        return 0
    try:
        offset, of = json.loads(base64.urlsafe_b64decode(token.encode()))
        if of == asked[-16:] and isinstance(offset, int) and offset >= 0:
            return offset
    except (ValueError, TypeError, binascii.Error):
        pass
    raise InvalidQuery(
        f"page token {token!r} does not belong to this search; start again without it", value=token
    )
