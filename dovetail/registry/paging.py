"""Page tokens: where the next page of a search begins, and of which search."""

from __future__ import annotations

import base64
import binascii
import json

from dovetail.errors import InvalidQuery

_MAX_TOKEN_LENGTH = 100
_MAX_OFFSET = 2**62


def next_token(offset: int, asked: str) -> str:
    """Return the token for the page that begins at an offset of the search with this digest."""
    return base64.urlsafe_b64encode(json.dumps([offset, asked[-16:]]).encode()).decode()


def offset_of(token: str | None, asked: str) -> int:
    """Return the offset at which a page begins; no token means the first page.

    Raises:
        InvalidQuery: The token is damaged or comes from another search.
    """
    if token is None:
        return 0
    try:
        offset, of = json.loads(base64.urlsafe_b64decode(token[:_MAX_TOKEN_LENGTH].encode()))
        if of == asked[-16:] and isinstance(offset, int) and 0 <= offset <= _MAX_OFFSET:
            return offset
    except (ValueError, TypeError, binascii.Error):
        pass
    raise InvalidQuery(
        f"page token {token!r} does not belong to this search; start again without it", value=token
    )
