"""What a filter compares with, as the kind of value that a field has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dovetail.errors import InvalidQuery
from dovetail.registry.filters import Comparison, Field


def refuse_pattern(field: Field, part: Comparison) -> None:
    """Refuse to match what is no text with a pattern."""
    if part.operator in ("LIKE", "ILIKE"):
        raise InvalidQuery(
            f"{field.kind} is no text, so {part.operator} does not fit; compare with < and >",
            value=part.value,
        )


def numeric(field: Field) -> Callable[[Any], float]:
    """Return what makes a number of a value, or refuses it for the field."""

    def convert(value: Any) -> float:
        try:
            return float(value)
        except ValueError:
            raise InvalidQuery(
                f"{field.kind} is compared with numbers, not {value!r}", value=value
            ) from None

    return convert


def moment(value: Any) -> datetime:
    """Return the time that ISO text tells; without a zone, it is UTC."""
    try:
        told = datetime.fromisoformat(str(value))
        return told.astimezone(UTC) if told.tzinfo else told.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidQuery(
            f"{value!r} is no date; write '2026-05-01' or '2026-05-01T12:30:00+00:00'", value=value
        ) from None
