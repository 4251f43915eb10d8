"""Pages: how many are asked for, and after what the next one begins."""

from __future__ import annotations

import base64
import binascii
import json

from dovetail.errors import InvalidInput, InvalidQuery

_MAX_TOKEN_LENGTH = 100
_MAX_ID = 2**63 - 1
_MAX_LIMIT = 2**31 - 1


def next_token(version_id: int, asked: str) -> str:
    """Return the token for the page after a version, of the search with this digest."""
    return base64.urlsafe_b64encode(json.dumps([version_id, asked[-16:]]).encode()).decode()


def version_before(token: str, asked: str) -> int:
    """Return the row id of the version after which a page begins.

    Raises:
        InvalidQuery: The token is damaged or comes from another search.
    """
    try:
        version_id, of = json.loads(base64.urlsafe_b64decode(token[:_MAX_TOKEN_LENGTH].encode()))
        if of == asked[-16:] and isinstance(version_id, int) and 0 <= version_id <= _MAX_ID:
            return version_id
    except (ValueError, TypeError, binascii.Error):
        pass
    raise foreign_token(token)


def foreign_token(token: str) -> InvalidQuery:
    """Return the error for a token that is not of the search it is used for."""
    return InvalidQuery(
        f"page token {token!r} does not belong to this search; start again without it", value=token
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
