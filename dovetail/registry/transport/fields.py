"""Read a JSON object that a stranger wrote, field by field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeVar

from dovetail.errors import InvalidPayload
from dovetail.registry.checks import check_json, check_text
from dovetail.registry.digests import is_digest

MAX_INT = 2**31 - 1
MAX_BIG = 2**63 - 1

T = TypeVar("T")


class Fields:
    """An object whose fields are asked for by name and kind.

    Args:
        value: What was read.
        what: What it is, for messages.
        names: The fields that it must have; no others.

    Raises:
        InvalidPayload: It is no object, or has other fields.
    """

    def __init__(self, value: Any, what: str, names: Iterable[str]) -> None:
        self.what = what
        expected = set(names)
        if not isinstance(value, dict) or set(value) != expected:
            found = sorted(set(value) ^ expected)[:3] if isinstance(value, dict) else [value]
            refuse(f"{what} has not the fields that it should: {ascii(found)[:80]}")
        self._fields: dict[str, Any] = value

    def raw(self, name: str) -> Any:
        """Return a field as it is."""
        return self._fields[name]

    def text(self, name: str) -> str:
        """Return text that a database can keep."""
        value = self._fields[name]
        if not isinstance(value, str):
            self._refuse(name, "text")
        check_text(value, what=f"{name} of {self.what}")
        return value

    def digest(self, name: str) -> str:
        """Return a digest."""
        value = self._fields[name]
        if not is_digest(value):
            self._refuse(name, "a digest")
        return str(value)

    def number(self, name: str, *, least: int = 0, most: int = MAX_INT) -> int:
        """Return a whole number."""
        value = self._fields[name]
        if type(value) is not int or not least <= value <= most:
            self._refuse(name, f"a whole number from {least:,} to {most:,}")
        return value

    def time(self, name: str) -> datetime:
        """Return a moment, written in UTC as Python writes it."""
        try:
            value = datetime.fromisoformat(self._fields[name])
        except (TypeError, ValueError):
            self._refuse(name, "a time")
        if value.utcoffset() != timedelta(0) or value.isoformat() != self._fields[name]:
            self._refuse(name, "a time in UTC")
        return value

    def json(self, name: str) -> dict[str, Any]:
        """Return an object that a database can keep."""
        value = self._fields[name]
        if not isinstance(value, dict):
            self._refuse(name, "an object")
        return check_json(value, what=f"{name} of {self.what}")

    def table(self, name: str) -> dict[str, Any]:
        """Return an object, to be looked into further."""
        value = self._fields[name]
        if not isinstance(value, dict):
            self._refuse(name, "an object")
        return value

    def items(self, name: str) -> list[Any]:
        """Return a list."""
        value = self._fields[name]
        if not isinstance(value, list):
            self._refuse(name, "a list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts."""
        items = self.items(name)
        if not all(isinstance(item, str) for item in items):
            self._refuse(name, "a list of texts")
        for item in items:
            check_text(item, what=f"{name} of {self.what}")
        return tuple(items)

    def maybe(self, read: Callable[[str], T], name: str) -> T | None:
        """Return a field that may be null."""
        return None if self._fields[name] is None else read(name)

    def _refuse(self, name: str, kind: str) -> NoReturn:
        refuse(f"{name} of {self.what} is {ascii(self._fields[name])[:60]}, not {kind}")


def refuse(problem: str) -> NoReturn:
    """Say what is wrong with a bundle, or with a base model's document."""
    raise InvalidPayload(f"{problem}; it is damaged or was not written by dovetail")
