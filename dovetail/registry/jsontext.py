"""Strict JSON in, canonical JSON out, and the digest of a value.

Python's own parser takes the last of two equal keys, accepts ``NaN``, and can be driven into a
``RecursionError`` by a few kilobytes of brackets. Files from strangers are read here instead.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

from dovetail.errors import InvalidInput, InvalidPayload
from dovetail.registry.digests import digest_bytes

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 64
MAX_DIGITS = 400

# The closing quote is optional so that an unterminated string is consumed once, not once per
# escaped quote inside it, which would take quadratic time.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # its backslash not escaped
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_BRACKETS = bytes(code for code in range(256) if code not in b"[]{}")


def parse_json(
    data: bytes,
    *,
    what: str,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    allow_nonfinite: bool = False,
) -> Any:
    """Read JSON that a stranger wrote.

    Args:
        data: The bytes of the document, in UTF-8.
        what: What is being read, for the error message.
        max_bytes: Longest document accepted.
        max_depth: Deepest nesting accepted.
        allow_nonfinite: Accept ``NaN`` and ``Infinity``, which some published model
            configurations contain.

    Raises:
        InvalidPayload: It is not UTF-8, not JSON, too large or too deep, repeats a key, or holds a
            number that is not finite or has more than 400 digits.

    Examples:
        >>> parse_json(b'{"r": 8}', what="config")
        {'r': 8}
        >>> parse_json(b'{"r": 8, "r": 16}', what="config")
        Traceback (most recent call last):
        dovetail.errors.InvalidPayload: config has the key 'r' twice; remove one of them
    """
    if len(data) > max_bytes:
        _refuse(what, f"has {len(data):,} bytes; at most {max_bytes:,} are read")
    if _depth(data, max_depth) > max_depth:
        _refuse(what, f"is nested more than {max_depth} levels deep")
    rules = _Rules(what, allow_nonfinite)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=rules.table,
            parse_constant=rules.constant,
            parse_float=rules.real,
            parse_int=rules.whole,
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(what, f"is not UTF-8 text (byte {error.start}); save it as UTF-8")
    except UnicodeEncodeError:
        _refuse(what, "holds half of a surrogate pair, which is no character")
    except json.JSONDecodeError as error:
        _refuse(what, f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}")
    return value


def holds_nul(data: bytes) -> bool:
    """Tell whether a JSON document has a NUL character, which databases cannot keep."""
    return _NUL.search(data) is not None


@dataclass(frozen=True, slots=True)
class _Rules:
    what: str
    allow_nonfinite: bool

    def table(self, items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) != len(items):
            twice = Counter(key for key, _ in items).most_common(1)[0][0]
            _refuse(self.what, f"has the key {twice!a} twice; remove one of them")
        return value

    def constant(self, name: str) -> float:
        if not self.allow_nonfinite:
            _refuse(self.what, f"holds {name}, which is not a JSON number")
        return float(name)

    def real(self, digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value) and not self.allow_nonfinite:
            _refuse(self.what, f"holds the number {digits[:40]}, which no double can hold")
        return value

    def whole(self, digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            _refuse(
                self.what,
                f"holds a number of {len(digits):,} digits; at most {MAX_DIGITS} are read",
            )
        return int(digits)


def canonical_json(value: Any) -> bytes:
    """Write a value so that equal values give equal bytes: sorted keys, no spaces, UTF-8.

    Raises:
        InvalidInput: The value holds NaN, an infinity, or something JSON has no form for.

    Examples:
        >>> canonical_json({"b": 1, "a": [True, None]})
        b'{"a":[true,null],"b":1}'
    """
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"the value cannot be written as JSON: {error}") from error


def digest_json(value: Any) -> str:
    """Return ``sha256:`` and the hash of the value's canonical JSON."""
    return digest_bytes(canonical_json(value))


def _depth(data: bytes, limit: int) -> int:
    opened = data.count(b"[") + data.count(b"{")
    if opened <= limit:  # no need to look where they close
        return opened
    depth = deepest = 0
    for code in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        if code in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > limit:
                break
        else:
            depth -= 1
    return deepest


def _refuse(what: str, problem: str) -> NoReturn:
    raise InvalidPayload(f"{what} {problem}", what=what) from None
