"""Names, aliases and references: ``name@alias``, ``name/7``, ``name@latest``.

A name is what people type, put into file names and read aloud, so it is letters, digits, dots,
hyphens and underscores of ASCII, 1 to 128 of them, starting with a letter or digit. Unicode
look-alikes, such as a Cyrillic a, cannot occur; what is typed in a compatibility form is refused
with the plain form in the message.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from dovetail.errors import InvalidReference

LATEST = "latest"
BARE_BASE = "base"
RESERVED_ALIASES = frozenset({LATEST, BARE_BASE})
MAX_NAME_LENGTH = 128

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_SHOWN = 40
_ALLOWED = (
    f"use 1 to {MAX_NAME_LENGTH} of the letters A-Z a-z, digits, '.', '-' and '_', "
    "starting with a letter or digit"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """Names one version: by number, or by an alias that is looked up when it is resolved.

    Attributes:
        name: Adapter name.
        number: Version number, or None.
        alias: Alias, ``latest`` included, or None. Exactly one of the two is set.
    """

    name: str
    number: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference.

        Raises:
            InvalidReference: The text is no reference, or a bare name.

        Examples:
            >>> Reference.parse("dialogue-summary@production")
            Reference(name='dialogue-summary', number=None, alias='production')
            >>> str(Reference.parse("dialogue-summary/7"))
            'dialogue-summary/7'
        """
        if "@" in text:
            name, _, alias = text.partition("@")
            checked = alias if alias == LATEST else check_alias(alias)
            return cls(name=check_name(name), alias=checked)
        if "/" in text:
            name, _, number = text.partition("/")
            if not _NUMBER.fullmatch(number):
                raise InvalidReference(
                    f"{_shown(text)} is no reference: {_shown(number)} is no version number; "
                    "write name/7, name@alias or name@latest",
                    value=text,
                )
            return cls(name=check_name(name), number=int(number))
        check_name(text)
        raise InvalidReference(
            f"{_shown(text)} names an adapter, not a version; "
            f"write {text}@latest, {text}@ALIAS or {text}/NUMBER",
            value=text,
        )

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}/{self.number}"


def check_name(name: str) -> str:
    """Return the name if it is allowed.

    Raises:
        InvalidReference: It is not; the message says why and what is allowed.
    """
    return _check(name, "adapter name")


def check_alias(alias: str) -> str:
    """Return the alias if people may set it: a name that is no number and not reserved.

    Raises:
        InvalidReference: It is malformed, ``latest``, ``base``, or looks like a version number.
    """
    _check(alias, "alias")
    if alias.lower() in RESERVED_ALIASES:
        raise InvalidReference(
            f"alias {alias!r} is reserved: 'latest' is always the highest version and 'base' the "
            "bare base model; choose another",
            value=alias,
        )
    if re.fullmatch(r"v?[0-9]+", alias, re.IGNORECASE):
        raise InvalidReference(
            f"alias {alias!r} looks like a version number; choose a word such as 'production'",
            value=alias,
        )
    return alias


def _check(text: str, what: str) -> str:
    if len(text) <= MAX_NAME_LENGTH and _NAME.fullmatch(text):
        return text
    if len(text) > MAX_NAME_LENGTH:
        raise InvalidReference(
            f"{what} {_shown(text)} has {len(text):,} characters; {_ALLOWED}", value=text
        )
    plain = unicodedata.normalize("NFKC", text)
    hint = f" (did you mean {plain!r}?)" if plain != text and _NAME.fullmatch(plain) else ""
    bad = next((char for char in text if not re.fullmatch(r"[A-Za-z0-9._-]", char)), None)
    found = f": it contains {bad!a} ({_character(bad)})" if bad is not None else ""
    raise InvalidReference(
        f"{what} {_shown(text)} is not allowed{found}{hint}; {_ALLOWED}", value=text
    )


def _character(char: str) -> str:
    return unicodedata.name(char, f"U+{ord(char):04X}")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")
