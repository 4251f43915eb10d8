"""Input templates: ``Summarise: {dialogue}``.

A template comes with a registered adapter, so it is data that somebody else wrote. It is filled in
by plain replacement of whole column names: no attribute, index, conversion or format specification
is understood, so that it can reach nothing but the row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dovetail.errors import InvalidInput, InvalidRow

__all__ = ["InputTemplate", "text_of"]

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_SPECIAL = re.compile(r"[.\[\]!:]")


@dataclass(frozen=True, slots=True)
class InputTemplate:
    """A text with places for columns.

    Attributes:
        text: The template as it was written.
        parts: Literal text and column names by turns, starting with a literal.
    """

    text: str
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a template; ``{{`` and ``}}`` stand for braces.

        Raises:
            InvalidInput: A brace is unmatched, a name is empty or not a plain column name, or the
                template names no column.

        Examples:
            >>> InputTemplate.parse("Summarise: {dialogue}").fields
            ('dialogue',)
        """
        parts = [""]
        for token in _TOKEN.finditer(text):
            match token[0]:
                case "{{" | "}}":
                    parts[-1] += token[0][0]
                case "{" | "}":
                    raise _bad(text, f"an unmatched {token[0]!r}; write {token[0] * 2!r} for one")
                case _ if token[1] is not None:
                    parts += [_check_field(text, token[1]), ""]
                case _:
                    parts[-1] += token[0]
        if len(parts) == 1:
            raise _bad(text, "no column; write one in braces, such as {text}")
        return cls(text, tuple(parts))

    @classmethod
    def of_column(cls, name: str) -> Self:
        """Return the template that is one column and nothing else, whatever its name."""
        escaped = name.replace("{", "{{").replace("}", "}}")
        return cls(f"{{{escaped}}}", ("", name, ""))

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that the template names, each once, in order."""
        return tuple(dict.fromkeys(self.parts[1::2]))

    def render(self, row: Mapping[str, Any]) -> str:
        """Fill in a row.

        Raises:
            InvalidRow: A column is missing, null or no text, or all of them are blank.

        Examples:
            >>> InputTemplate.parse("Summarise: {dialogue}").render({"dialogue": "Hi {x}"})
            'Summarise: Hi {x}'
        """
        values = {field: text_of(row.get(field), column=field) for field in self.fields}
        if not any(value.strip() for value in values.values()):
            raise InvalidRow(f"{', '.join(map(repr, self.fields))}: nothing but white space")
        return "".join(values[part] if index % 2 else part for index, part in enumerate(self.parts))


def text_of(value: Any, *, column: str) -> str:
    """Return a cell as text: text as it is, numbers as Python writes them.

    Raises:
        InvalidRow: It is null, a list, an object or bytes.
    """
    match value:
        case str():
            return value
        case None:
            raise InvalidRow(f"column {column!r} is missing or null", column=column)
        case list() | tuple() | dict() | bytes():
            raise InvalidRow(
                f"column {column!r} holds {type(value).__name__}, not text", column=column
            )
    return str(value)


def _check_field(template: str, name: str) -> str:
    if not name.strip() or name != name.strip():
        raise _bad(template, f"{{{name}}}, which is no column name; write it without white space")
    if special := _SPECIAL.search(name):
        raise _bad(
            template,
            f"{{{name}}}, but only plain column names are filled in, without {special[0]!r}",
        )
    return name


def _bad(template: str, why: str) -> InvalidInput:
    shown = template if len(template) <= 80 else template[:77] + "..."  # noqa: PLR2004 - a line
    return InvalidInput(f"template {shown!r} has {why}", value=template)
