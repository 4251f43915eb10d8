"""Requirements: what an alias asks of a version, such as ``rougeL >= 0.40``.

A requirement compares a measured score with a number, or with the version that an alias points to
now (``rougeL >= production``), or with the bare base model (``rougeL > base + 0.05``). It may name
the dataset: ``rougeL >= 0.40 on samsum-test``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from dovetail.errors import InvalidQuery, InvalidReference
from dovetail.registry.reference import BARE_BASE, check_alias

if TYPE_CHECKING:
    from lark import Lark, Token

_GRAMMAR = r"""
    start: METRIC OP operand ["on" DATASET]
    ?operand: NUMBER -> number
        | ALIAS [MARGIN] -> alias
    METRIC: /[A-Za-z][A-Za-z0-9_.\/-]*/
    OP: ">=" | ">"
    ALIAS.2: /[A-Za-z][A-Za-z0-9._-]*/
    MARGIN: /[+-]\s*([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?/
    NUMBER: /[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?/
    DATASET: /[^\s'"]+/ | /'[^']*'/ | /"[^"]*"/
    %ignore /\s+/
"""

MAX_LENGTH = 1_000
_LIKE_A_MARGIN = re.compile(r"-\.?[0-9.]+([eE]-?[0-9]+)?$")
_NO_NUMBERS = {"nan", "inf", "infinity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One condition that a version must meet.

    Attributes:
        text: As it was written.
        metric: The metric that is compared.
        operator: ``>=`` or ``>``.
        threshold: The number to compare with, or None.
        alias: The alias to compare with (``base``: the bare base model), or None.
        margin: Added to what the alias's version scores.
        dataset: Name, or beginning of the digest, of the dataset to look at, or None.
    """

    text: str
    metric: str
    operator: Literal[">=", ">"]
    threshold: float | None = None
    alias: str | None = None
    margin: float = 0.0
    dataset: str | None = None

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a requirement.

        Raises:
            InvalidQuery: The text is no requirement.

        Examples:
            >>> Requirement.parse("rougeL >= production - 0.01").margin
            -0.01
        """
        from lark.exceptions import UnexpectedInput

        _check_text(text)
        try:
            metric, operator, operand, dataset = _parser().parse(text).children
        except UnexpectedInput as error:
            stopped = f"at character {error.column}" if error.column > 0 else "to its end"
            raise InvalidQuery(
                f"requirement {text!r} cannot be understood {stopped}; write "
                "METRIC >= NUMBER or METRIC >= ALIAS, such as 'rougeL >= 0.40' or "
                "'rougeL > production'",
                value=text,
            ) from error
        named: Any = operand
        where = _unquoted(str(dataset)) if dataset else None
        kind: Any = str(operator)
        if named.data == "number":
            threshold = _finite(text, named.children[0])
            return cls(
                text=text, metric=str(metric), operator=kind, threshold=threshold, dataset=where
            )
        alias, margin = named.children
        return cls(
            text=text,
            metric=str(metric),
            operator=kind,
            alias=_operand_alias(text, alias),
            margin=_finite(text, "".join(margin.split())) if margin else 0.0,
            dataset=where,
        )


def _unquoted(dataset: str) -> str:
    return dataset[1:-1] if dataset[0] in "'\"" else dataset


def _check_text(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise InvalidQuery(
            f"the requirement has {len(text):,} characters; the limit is {MAX_LENGTH}", value=text
        )
    if "\0" in text or not _is_utf8(text):
        raise InvalidQuery(f"requirement {text!a} is not UTF-8 text", value=text)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _finite(text: str, number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise InvalidQuery(f"requirement {text!r}: {number} is too large a number", value=text)
    return value


def _operand_alias(text: str, alias: Token) -> str:
    if alias == BARE_BASE:
        return BARE_BASE
    if _LIKE_A_MARGIN.search(alias) or alias.lower() in _NO_NUMBERS:
        # An alias that is not set demands nothing, so a margin must not be read as part of one.
        raise InvalidQuery(
            f"requirement {text!r}: {str(alias)!r} is read as an alias; write a margin with "
            "spaces, such as 'production - 0.01', and a number with digits",
            value=text,
        )
    try:
        return check_alias(str(alias))
    except InvalidReference as error:
        raise InvalidQuery(f"requirement {text!r}: {error}", value=text) from error


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(_GRAMMAR, maybe_placeholders=True)
