"""The order of search results, and the place in it after which a page begins.

A place is what the last version of the page before was ordered by, as it was then: whatever is
edited or deleted in between, the next page goes on from there. Nothing is counted off, so the last
page is as quick as the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, false, literal, or_

from dovetail.errors import InvalidQuery
from dovetail.registry.conditions import COLUMNS, MOMENTS, checked_field, newest_score
from dovetail.registry.filters import Field, make_field

MAX_TERMS = 10
_MOST = 2**31 - 1
_UNFIT = re.compile("[\0\ud800-\udfff]")
_KINDS: dict[str, type] = {"number": int, "metrics": float}  # all others are texts
_FITS: dict[type, Callable[[Any], bool]] = {
    int: lambda number: -_MOST <= number <= _MOST,
    float: math.isfinite,
    str: lambda text: not _UNFIT.search(text),
}
_NULLABLE = {"task", "source_run", "metrics"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One thing that results are ordered by; what is missing comes last in either direction.

    Attributes:
        field: As the language has it.
        expression: Its value for a version.
        descending: Whether the highest comes first.
        nullable: Whether a version may have none.
    """

    field: Field
    expression: Any
    descending: bool
    nullable: bool

    @property
    def clause(self) -> ColumnElement[Any]:
        """What stands in ``ORDER BY``."""
        ordered = self.expression.desc() if self.descending else self.expression.asc()
        # Said of what is never missing, it would keep databases from using an index.
        return ordered.nulls_last() if self.nullable else ordered  # type: ignore[no-any-return]

    def is_at(self, value: Any) -> ColumnElement[bool]:
        """Whether a version has this value."""
        if value is None:
            return self.expression.is_(None)  # type: ignore[no-any-return]
        return self.expression == self._bound(value)  # type: ignore[no-any-return]

    def is_beyond(self, value: Any) -> ColumnElement[bool]:
        """Whether a version comes after those with this value."""
        if value is None:
            return false()
        bound = self._bound(value)
        further = self.expression < bound if self.descending else self.expression > bound
        return or_(further, self.expression.is_(None)) if self.nullable else further

    def _bound(self, value: Any) -> ColumnElement[Any]:
        return literal(value, self.expression.type)


def terms_of(order_by: Sequence[str]) -> tuple[Term, ...]:
    """Read an order such as ``["metrics.rougeL DESC"]``; name and number decide the rest.

    Raises:
        InvalidQuery: It cannot be understood.
    """
    if len(order_by) > MAX_TERMS:
        raise InvalidQuery(
            f"results are ordered by {len(order_by)} fields; at most {MAX_TERMS} are possible",
            value=len(order_by),
        )
    terms = [_term(text) for text in (*order_by, "name", "number DESC")]
    first = {term.field: term for term in reversed(terms)}  # said twice, the first counts
    return tuple(term for term in terms if first[term.field] is term)


def write_place(place: Sequence[Any]) -> list[Any]:
    """Return a place as JSON values, for `read_place`."""
    return [value.isoformat() if isinstance(value, datetime) else value for value in place]


def read_place(terms: Sequence[Term], written: object) -> tuple[Any, ...] | None:
    """Return the place that was written, or None if it is none in this order."""
    if not isinstance(written, list) or len(written) != len(terms):
        return None
    try:
        return tuple(_read_value(term, value) for term, value in zip(terms, written, strict=True))
    except (TypeError, ValueError):
        return None


def _read_value(term: Term, value: Any) -> Any:
    """Return a value of a place; from a stranger it could be anything.

    Raises:
        TypeError: It is no text where a moment is written as one.
        ValueError: It is of another kind than the term's, or a database cannot compare with it.
    """
    if value is None and term.nullable:
        return None
    if term.field.kind in MOMENTS:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("a moment without its zone")
        return moment
    kind = _KINDS.get(term.field.kind, str)
    if type(value) is not kind or not _FITS[kind](value):
        raise ValueError(f"{value!r} for {term.field.kind}")
    return value


def after(terms: Sequence[Term], values: Sequence[Any]) -> ColumnElement[bool]:
    """Whether a version comes after the place with these values, one for each term."""
    condition: ColumnElement[bool] = false()
    for term, value in zip(reversed(terms), reversed(values), strict=True):
        condition = or_(term.is_beyond(value), and_(term.is_at(value), condition))
    first, value = terms[0], values[0]
    # The same said so that an index can be entered at the place.
    return condition if first.nullable else and_(not_before(first, value), condition)


def not_before(term: Term, value: Any) -> ColumnElement[bool]:
    """Whether a version has this value or comes after it, of a term that is never missing."""
    bound = literal(value, term.expression.type)
    return term.expression <= bound if term.descending else term.expression >= bound  # type: ignore[no-any-return]


def _term(text: str) -> Term:
    words = text.split()
    direction = words[-1].upper() if words else ""
    if direction in ("ASC", "DESC"):
        words.pop()
    if len(words) != 1:
        raise InvalidQuery(
            f"order {text!r} cannot be understood; write FIELD or FIELD DESC", value=text
        )
    field = checked_field(make_field(words[0].replace("`", "")))
    if field.kind != "metrics" and field.kind not in COLUMNS:
        raise InvalidQuery(f"results cannot be ordered by {field.kind!r}", value=text)
    return Term(
        field=field,
        expression=newest_score(str(field.key)) if field.key else COLUMNS[field.kind],
        descending=direction == "DESC",
        nullable=field.kind in _NULLABLE,
    )
