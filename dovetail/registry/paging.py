"""Pages: how many are asked for, and after what the next one begins."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from dovetail.errors import InvalidInput, InvalidQuery
from dovetail.registry.ordering import Term, read_place, write_place

_SHOWN = 100
_MAX_ID = 2**63 - 1
_MAX_LIMIT = 2**31 - 1


def write_token(value: Any) -> str:
    """Return JSON values as a page token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def read_token(token: str | bytes) -> Any:
    """Return the values in a page token, which may be a stranger's; None if it is none."""
    try:
        return json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, RecursionError):
        return None


def next_token(place: Sequence[Any], asked: str) -> str:
    """Return the token for the page after a place, of the search with this digest."""
    return write_token([asked[-16:], *write_place(place)])


def place_of(token: str, terms: Sequence[Term], asked: str) -> tuple[Any, ...]:
    """Return the place after which a page begins.

    Raises:
        InvalidQuery: The token is damaged or comes from another search.
    """
    found = read_token(token)
    if isinstance(found, list) and found[:1] == [asked[-16:]]:
        place = read_place(terms, found[1:])
        if place is not None:
            return place
    raise InvalidQuery(
        f"page token {token[:_SHOWN]!r} does not belong to this search; start again without it",
        value=token,
    )


def checked_limit(limit: int | None) -> int | None:
    """Return how many are asked for, None for all.

    Raises:
        InvalidInput: It is none, or more than a database can count.
    """
    if limit is None or 1 <= limit <= _MAX_LIMIT:
        return limit
    raise InvalidInput(f"limit is {limit:,}; it must be from 1 to {_MAX_LIMIT:,}", value=limit)


def within_reach(number: int) -> int:
    """Return a number to compare with, or the nearest that a database can hold."""
    return max(-1, min(number, _MAX_ID))
