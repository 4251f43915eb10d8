"""Requirements: what an alias asks of a version, such as ``rougeL >= 0.40``.

A requirement compares a measured score with a number, or with the version that an alias points to
now (``rougeL >= production``), or with the bare base model (``rougeL > base + 0.05``). It may name
the dataset: ``rougeL >= 0.40 on samsum-test``.
"""

from __future__ import annotations

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
    MARGIN: /[+-]\s*[0-9]+(\.[0-9]+)?/
    NUMBER: /[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?/
    DATASET: /[^\s'"]+/ | /'[^']*'/ | /"[^"]*"/
    %ignore /\s+/
"""


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

        try:
            metric, operator, operand, dataset = _parser().parse(text).children
        except UnexpectedInput as error:
            raise InvalidQuery(
                f"requirement {text!r} cannot be understood at character {error.column}; write "
                "METRIC >= NUMBER or METRIC >= ALIAS, such as 'rougeL >= 0.40' or "
                "'rougeL > production'",
                value=text,
            ) from error
        named: Any = operand
        where = str(dataset).strip("'\"") if dataset else None
        kind: Any = str(operator)
        if named.data == "number":
            threshold = float(named.children[0])
            return cls(
                text=text, metric=str(metric), operator=kind, threshold=threshold, dataset=where
            )
        alias, margin = named.children
        return cls(
            text=text,
            metric=str(metric),
            operator=kind,
            alias=_operand_alias(text, alias),
            margin=float("".join(margin.split())) if margin else 0.0,
            dataset=where,
        )


def _operand_alias(text: str, alias: Token) -> str:
    if alias == BARE_BASE:
        return BARE_BASE
    try:
        return check_alias(str(alias))
    except InvalidReference as error:
        raise InvalidQuery(f"requirement {text!r}: {error}", value=text) from error


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(_GRAMMAR, maybe_placeholders=True)
