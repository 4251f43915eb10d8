"""The search language: ``metrics.rougeL > 0.4 AND params.r = 16 AND tags.team = 'support'``.

========================  ====================================================================
field                     meaning
========================  ====================================================================
``name``                  adapter name
``number``                version number
``task``                  the adapter's task
``peft_type``             ``LORA``, ``PROMPT_TUNING``, ...
``base_model``            the base model's name, or its fingerprint (``sha256:…``)
``alias``                 an alias that points to the version
``created_by``            who registered it
``created_at``            when, as ISO text: ``'2026-05-01'``
``updated_at``            when its description was last edited, or else it was registered
``source_run``            the training run
``payload``               the payload's digest
``metrics.NAME``          a score of any of its evaluations, measured or reported
``params.NAME``           a hyperparameter, or else a value of ``adapter_config.json``
``tags.NAME``             a tag of the version, or else of the adapter
``version_tags.NAME``     a tag of the version
``adapter_tags.NAME``     a tag of the adapter
========================  ====================================================================

Operators: ``= != < <= > >=``, ``[NOT] LIKE``, ``[NOT] ILIKE``, ``[NOT] IN (…)``, ``IS [NOT] NULL``,
joined by ``AND``, ``OR``, ``NOT`` and brackets. Values are numbers, text in quotes, ``true`` and
``false``. ``LIKE`` minds upper and lower case, ``ILIKE`` does not. A comparison with what a version
does not have does not hold, so its ``NOT`` does. A name with other characters than letters, digits,
``_ . - /`` stands in backticks: ``tags.`my tag` ``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidQuery

if TYPE_CHECKING:
    from lark import Lark

MAX_FILTER_LENGTH = 100_000
MAX_COMPARISONS = 500
MAX_DEPTH = 20
_MAX_INT_DIGITS = 18

_GRAMMAR = r"""
    start: or_
    ?or_: and_ ("OR"i and_)*
    ?and_: not_ ("AND"i not_)*
    ?not_: "NOT"i not_ -> not_
        | "(" or_ ")"
        | comparison
    comparison: field OP value -> compare
        | field [NOT] PATTERN STRING -> like
        | field [NOT] "IN"i "(" value ("," value)* ")" -> in_
        | field "IS"i [NOT] "NULL"i -> is_null
    field: WORD ["." (WORD | QUOTED)]
    ?value: NUMBER | STRING | BOOLEAN
    NOT.3: /NOT\b/i
    PATTERN.3: /I?LIKE\b/i
    BOOLEAN.3: /(true|false)\b/i
    OP: "<=" | ">=" | "!=" | "=" | "<" | ">"
    WORD: /[^\W\d][\w\/-]*(\.[\w\/-]+)*/
    QUOTED: /`[^`]+`|"[^"]+"/
    NUMBER: /[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?/
    STRING: /'([^']|'')*'/ | /"([^"]|"")*"/
    %ignore /\s+/
"""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the language: ``name``, or ``metrics`` with a key."""

    kind: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """``field operator value``; the operators are upper case and ``NOT`` stands apart."""

    field: Field
    operator: str
    value: Any
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Both:
    """All parts hold (``AND``) or any does (``OR``)."""

    operator: str
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Filter


Filter = Comparison | Both | Not


def parse_filter(text: str) -> Filter | None:
    """Read a filter; an empty one is None.

    Raises:
        InvalidQuery: It is no filter; the message says where reading stopped.

    Examples:
        >>> parse_filter("metrics.rougeL > 0.4").field
        Field(kind='metrics', key='rougeL')
    """
    from lark.exceptions import UnexpectedInput, VisitError

    if not text.strip():
        return None
    if len(text) > MAX_FILTER_LENGTH:
        raise InvalidQuery(
            f"the filter has {len(text):,} characters; the limit is {MAX_FILTER_LENGTH:,}"
        )
    try:
        found: Filter = _builder().transform(_parser().parse(text))
    except UnexpectedInput as error:
        raise InvalidQuery(
            f"filter {text!r} cannot be understood at character {error.column}; write "
            "comparisons such as \"metrics.rougeL > 0.4 AND tags.team = 'support'\"",
            value=text,
            column=error.column,
        ) from error
    except (VisitError, RecursionError) as error:
        raise InvalidQuery(f"filter {text!r} is nested too deeply", value=text) from error
    _check_size(found, text)
    return found


def _check_size(part: Filter, text: str) -> None:
    """Refuse what SQL databases would refuse, or answer slowly."""
    comparisons, rest = 0, [(part, 1)]
    while rest:
        inner, depth = rest.pop()
        if depth > MAX_DEPTH:
            raise InvalidQuery(
                f"filter {text!r} is nested more than {MAX_DEPTH} levels deep", value=text
            )
        if isinstance(inner, Both):
            rest += [(item, depth + 1) for item in inner.parts]
        elif isinstance(inner, Not):
            rest.append((inner.part, depth + 1))
        else:
            comparisons += 1
    if comparisons > MAX_COMPARISONS:
        raise InvalidQuery(
            f"the filter has {comparisons:,} comparisons; the limit is {MAX_COMPARISONS}; "
            "write 'FIELD IN (…)' for many values of one field",
            value=text,
        )


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(_GRAMMAR, parser="lalr", maybe_placeholders=True)


@cache
def _builder() -> Any:
    from lark import Transformer, v_args

    @v_args(inline=True)
    class Builder(Transformer[Any, Any]):
        """Turns the parse tree into filter objects; the method names are the grammar's rules."""

        NUMBER = staticmethod(_number)
        BOOLEAN = staticmethod(lambda token: token.lower() == "true")
        STRING = staticmethod(lambda token: token[1:-1].replace(token[0] * 2, token[0]))

        def start(self, part: Filter) -> Filter:
            return part

        def or_(self, *parts: Filter) -> Filter:
            return Both("OR", parts)

        def and_(self, *parts: Filter) -> Filter:
            return Both("AND", parts)

        def not_(self, part: Filter) -> Filter:
            return Not(part)

        def compare(self, field: Field, operator: str, value: Any) -> Filter:
            return Comparison(field, str(operator), value)

        def like(self, field: Field, negated: Any, operator: str, value: str) -> Filter:
            return Comparison(field, operator.upper(), value, negated is not None)

        def in_(self, field: Field, negated: Any, *values: Any) -> Filter:
            return Comparison(field, "IN", values, negated is not None)

        def is_null(self, field: Field, negated: Any) -> Filter:
            return Comparison(field, "IS NULL", None, negated is not None)

        def field(self, word: str, key: str | None) -> Field:
            return make_field(str(word), key and str(key).strip('`"'))

    return Builder()


def make_field(word: str, key: str | None = None) -> Field:
    """Split ``metrics.rougeL`` at its first dot."""
    kind, dot, rest = word.partition(".")
    return Field(kind, key if key is not None else (rest if dot else None))


def _number(text: str) -> int | float:
    digits = text.lstrip("+-")
    return int(text) if digits.isdigit() and len(digits) <= _MAX_INT_DIGITS else float(text)
