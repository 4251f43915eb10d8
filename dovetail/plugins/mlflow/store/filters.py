"""MLflow's filter strings as filters of Dovetail's own language.

MLflow's language is a small part of Dovetail's, with other names for some fields; so every filter
is read by Dovetail's grammar, and then its fields are renamed. What only adapters have
(``metrics.rougeL > 0.4``), and what MLflow's language cannot say (``OR``), is asked of adapters
alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from mlflow.prompt.constants import IS_PROMPT_TAG_KEY

from dovetail.errors import InvalidQuery
from dovetail.plugins.mlflow.store import entities
from dovetail.registry.filters import Both, Comparison, Field, Filter, Not, parse_filter

_KINDS = {
    "tag": "tags",
    "metric": "metrics",
    "param": "params",
    "parameter": "params",
    "parameters": "params",
}
_RENAMED = {"run_id": "source_run", "version_number": "number"}
_MIRRORED = {
    entities.BASE_MODEL: "base_model",
    entities.BASE_FINGERPRINT: "base_model",
    entities.PEFT_TYPE: "peft_type",
    entities.TASK: "task",
}
_TEXT = {("=", False), ("!=", False), ("LIKE", False), ("ILIKE", False)}
_LISTED = _TEXT | {("IN", False), ("IN", True)}
_NUMBERS = {(operator, False) for operator in ("=", "!=", "<", "<=", ">", ">=")}
_PLAIN_VERSIONS = {
    "name": _LISTED,
    "run_id": _LISTED,
    "source_path": _TEXT,
    "version_number": _NUMBERS,
    "tags": _TEXT,
}
_PLAIN_MODELS = {"name": _LISTED, "tags": _TEXT}
_OF_ADAPTERS = {"name", "task", "adapter_tags"}
_OWN_SOURCE = re.compile(r"dovetail://([^/]+)/([1-9][0-9]{0,9})")

_Rename = Callable[[Comparison], "Filter | bool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a filter asks.

    Attributes:
        nothing: Whether no adapter can meet it: it asks for prompts.
        about: What must hold of an adapter, in a search of models; None for anything.
        versions: What must hold of a version; None for anything.
        plain: Whether MLflow's own store understands it.
        name: The one name that it asks for, or None.
    """

    nothing: bool
    about: Filter | None
    versions: Filter | None
    plain: bool
    name: str | None


@lru_cache(maxsize=256)
def read_versions_filter(text: str) -> Query:
    """Read a filter of model versions.

    Raises:
        InvalidQuery: It cannot be understood.
    """
    parsed = _read(text)
    found = True if parsed is None else _renamed(parsed, _of_version)
    return Query(
        nothing=found is False,
        about=None,
        versions=None if isinstance(found, bool) else found,
        plain=all(_is_plain(part, _PLAIN_VERSIONS) for part in _all_of(parsed)),
        name=_name(parsed),
    )


@lru_cache(maxsize=256)
def read_models_filter(text: str) -> Query:
    """Read a filter of registered models; what it asks of versions, one version must meet.

    Raises:
        InvalidQuery: It cannot be understood.
    """
    parsed = _read(text)
    found = True if parsed is None else _renamed(parsed, _of_adapter)
    parts = [] if isinstance(found, bool) else _all_of(found)
    return Query(
        nothing=found is False,
        about=_and([part for part in parts if _fields(part) <= _OF_ADAPTERS]),
        versions=_and([part for part in parts if not _fields(part) <= _OF_ADAPTERS]),
        plain=all(_is_plain(part, _PLAIN_MODELS) for part in _all_of(parsed)),
        name=_name(parsed),
    )


def _read(text: str) -> Filter | None:
    if "\0" in text:
        raise InvalidQuery("a filter has a NUL character, which nothing that is kept has")
    parsed = parse_filter(text)
    return None if parsed is None else _spelled(parsed)


def _spelled(part: Filter) -> Filter:
    """Give every field the one spelling of those that MLflow takes."""
    if isinstance(part, Not):
        return Not(_spelled(part.part))
    if isinstance(part, Both):
        return Both(part.operator, tuple(_spelled(inner) for inner in part.parts))
    kind, key = part.field.kind, part.field.key
    if kind in ("attribute", "attributes") and key is not None:
        kind, _, key = key.partition(".")
    return replace(part, field=Field(_KINDS.get(kind, kind), key or None))


def _renamed(part: Filter, rename: _Rename) -> Filter | bool:
    """Rename all fields; what holds of every adapter, or of none, becomes True or False."""
    if isinstance(part, Not):
        inner = _renamed(part.part, rename)
        return (not inner) if isinstance(inner, bool) else Not(inner)
    if isinstance(part, Comparison):
        return rename(part)
    decides = part.operator == "OR"  # one True decides an OR, one False an AND
    rest: list[Filter] = []
    for one in part.parts:
        found = _renamed(one, rename)
        if not isinstance(found, bool):
            rest.append(found)
        elif found is decides:
            return decides
    return not decides if not rest else _join(part.operator, rest)


def _of_version(part: Comparison) -> Filter | bool:
    kind, key = part.field.kind, part.field.key
    if kind == "tags":
        return _of_tag(part, "version_tags")
    if kind == "params":
        return _of_parameter(part)
    if kind == "source_path":
        return _of_source(part)
    renamed = replace(part, field=Field(_RENAMED.get(kind, kind), key))
    if kind == "run_id" and part.negated:  # MLflow finds no version without a run
        return _join("AND", [renamed, Comparison(renamed.field, "IS NULL", None, negated=True)])
    return renamed


def _of_adapter(part: Comparison) -> Filter | bool:
    return _of_tag(part, "adapter_tags") if part.field.kind == "tags" else _of_version(part)


def _of_tag(part: Comparison, kind: str) -> Filter | bool:
    key = str(part.field.key)
    if key == IS_PROMPT_TAG_KEY:  # adapters do not have it, and are no prompts
        return _holds_of_no_prompt(part)
    if key.startswith(entities.MIRRORED) and key not in _MIRRORED:
        metric = key.removeprefix(entities.MIRRORED)
        raise InvalidQuery(
            f"tags.`{key}` is for reading; search with a number: metrics.{metric} > 0.4", value=key
        )
    if key == entities.BASE_FINGERPRINT and not str(part.value).startswith("sha256:"):
        raise InvalidQuery(
            f"tags.`{key}` is compared with {part.value!r}; a fingerprint begins with 'sha256:'",
            value=part.value,
        )
    field = Field(_MIRRORED[key]) if key in _MIRRORED else Field(kind, key)
    return replace(part, field=field)


def _holds_of_no_prompt(part: Comparison) -> bool:
    """Tell whether a condition on the tag that marks prompts holds of what does not have it."""
    if part.operator == "IS NULL":
        return not part.negated
    if part.operator == "IN":
        return part.negated is not any(str(value).lower() == "false" for value in part.value)
    # MLflow's own store looks at nothing else than whether prompts are asked for.
    return (part.operator, str(part.value).lower()) not in {("=", "true"), ("!=", "false")}


def _of_parameter(part: Comparison) -> Filter:
    """Compare a parameter with what is in quotes as text and, if it is one, as a number.

    MLflow's own parameters are text, Dovetail's are what they are.
    """
    if part.operator in ("LIKE", "ILIKE", "IS NULL"):
        return part
    if part.operator == "IN":
        both = [*part.value, *(value for text in part.value for value in _meanings(text))]
        return replace(part, value=tuple(both))
    if part.operator == "!=":  # to compare text with a number would be unknown, and not True
        equal = _of_parameter(replace(part, operator="="))
        return _join("AND", [Comparison(part.field, "IS NULL", None, negated=True), Not(equal)])
    meanings = [replace(part, value=value) for value in _meanings(part.value)]
    if part.operator == "=":
        return _join("OR", [part, *meanings])
    return meanings[0] if meanings else part


def _meanings(text: Any) -> list[Any]:
    """Return what else a text can mean: a number, or the ``True`` of Python."""
    if not isinstance(text, str):
        return []
    if text in ("True", "False", "None"):
        return [text.lower()]
    try:
        return [float(text)]
    except ValueError:
        return []


def _of_source(part: Comparison) -> Filter:
    """Compare where a version came from; one that MLflow did not register has its own URI."""
    kept = Field("version_tags", entities.SOURCE_TAG)
    recorded = replace(part, field=kept)
    unrecorded = Comparison(kept, "IS NULL", None)
    own = _OWN_SOURCE.fullmatch(str(part.value))
    if part.operator not in ("=", "!=") or (own is None and part.operator == "="):
        return recorded
    if own is None:
        return _join("OR", [recorded, unrecorded])
    name, number = own.groups()
    this: Filter = _join(
        "AND", [Comparison(Field("name"), "=", name), Comparison(Field("number"), "=", int(number))]
    )
    other = this if part.operator == "=" else Not(this)
    return _join("OR", [recorded, _join("AND", [unrecorded, other])])


def _is_plain(part: Filter, allowed: dict[str, set[tuple[str, bool]]]) -> bool:
    if not isinstance(part, Comparison):
        return False
    if (part.operator, part.negated) not in allowed.get(part.field.kind, ()):
        return False
    values = part.value if part.operator == "IN" else (part.value,)
    is_number = part.field.kind == "version_number"
    return is_number or all(isinstance(value, str) for value in values)


def _name(parsed: Filter | None) -> str | None:
    """Return the name that a filter asks for, if it asks for one."""
    for part in _all_of(parsed):
        if isinstance(part, Comparison) and part.field.kind == "name" and part.operator == "=":
            return str(part.value)
    return None


def _all_of(part: Filter | None) -> list[Filter]:
    """Return the parts that must all hold."""
    if part is None:
        return []
    return list(part.parts) if isinstance(part, Both) and part.operator == "AND" else [part]


def _fields(part: Filter) -> set[str]:
    if isinstance(part, Comparison):
        return {part.field.kind}
    if isinstance(part, Not):
        return _fields(part.part)
    return set().union(*(_fields(inner) for inner in part.parts))


def _and(parts: list[Filter]) -> Filter | None:
    return _join("AND", parts) if parts else None


def _join(operator: str, parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else Both(operator, tuple(parts))
