"""PEFT's table of patterns to values, such as ``rank_pattern``, for the names of modules.

The first pattern that matches the end of a name, from its start or a dot, decides. Most patterns
are plain names, which are compared as text: a payload made per layer has hundreds of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from dovetail.errors import InvalidPayload

Value = TypeVar("Value")
_PLAIN = re.compile(r"[\w.]+")


class Patterns(Generic[Value]):
    r"""A table of patterns, ready to be asked.

    Args:
        table: Pattern to value, in the order in which they are tried.
        default: The value of names that no pattern matches.
        key: What the table is called in ``adapter_config.json``.

    Raises:
        InvalidPayload: A pattern is not a regular expression.

    Examples:
        >>> ranks = Patterns({"q_proj": 4, r"layers\.[01]\..*": 2}, default=8, key="rank_pattern")
        >>> [ranks[name] for name in ("layers.0.q_proj", "layers.0.k_proj", "layers.2.k_proj")]
        [4, 2, 8]
    """

    def __init__(self, table: Mapping[str, Value] | None, *, default: Value, key: str) -> None:
        self._default = default
        self._tests = [(_test(text, key), value) for text, value in (table or {}).items()]

    def __getitem__(self, name: str) -> Value:
        for matches, value in self._tests:
            if matches(name):
                return value
        return self._default


def _test(text: str, key: str) -> Callable[[str], object]:
    if _PLAIN.fullmatch(text):
        return lambda name: _ends_with(name, text)
    try:
        return re.compile(rf"(.*\.)?({text})$").match
    except re.error as error:
        raise InvalidPayload(
            f"{key} in adapter_config.json has {text!r}, which is no regular expression: {error}",
            key=key,
        ) from error


def _ends_with(name: str, text: str) -> bool:
    """Compare as the regular expression would, in which a dot stands for any character."""
    start = len(name) - len(text)
    if start < 0 or (start > 0 and name[start - 1] != "."):
        return False
    tail = name[start:]
    return tail == text or all(
        wanted in {".", found} for wanted, found in zip(text, tail, strict=True)
    )
