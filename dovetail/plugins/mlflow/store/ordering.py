"""MLflow's ``order_by`` as an order of Dovetail's, and of what MLflow's own store returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mlflow.utils.search_utils import SearchModelVersionUtils, SearchUtils

from dovetail.plugins.mlflow.problems import refusal
from dovetail.registry.catalogue import terms_of_adapters
from dovetail.registry.ordering import Term, terms_of

_VERSIONS = {
    "name": ("name", "name"),
    "version_number": ("number", "version"),
    "creation_timestamp": ("created_at", "creation_timestamp"),
    "last_updated_timestamp": ("updated_at", "last_updated_timestamp"),
}
_NEWEST_FIRST = ("last_updated_timestamp DESC", "name ASC", "version_number DESC")
_SCORES = ("metrics.", "metric.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order that both stores know.

    Attributes:
        terms: As Dovetail has it.
        keys: The attributes of MLflow's entities to compare, and whether the highest comes first.
        adapters_first: Whether it begins with a score, which only adapters have.
        theirs: The same for MLflow's store.
    """

    terms: tuple[Term, ...]
    keys: tuple[tuple[str, bool], ...]
    adapters_first: bool = False
    theirs: tuple[str, ...] = ()

    def comes_first(self, one: Any, other: Any) -> bool:
        """Tell whether an adapter's entity comes before another entity."""
        if self.adapters_first:
            return True
        for key, descending in self.keys:
            first, second = getattr(one, key), getattr(other, key)
            if first != second:
                return bool((first > second) is descending)
        return True


def order_of_versions(order_by: Sequence[str] | None) -> Order:
    """Read the order of a search of model versions; the newest come first without one.

    Raises:
        MlflowException: It cannot be understood; status 400.
    """
    return _order_of_versions(tuple(order_by or ()))


def order_of_models(order_by: Sequence[str] | None) -> Order:
    """Read the order of a search of registered models; the name decides the rest.

    Raises:
        MlflowException: It cannot be understood; status 400.
    """
    return _order_of_models(tuple(order_by or ()))


@lru_cache(maxsize=64)
def _order_of_versions(order_by: tuple[str, ...]) -> Order:
    fields: list[str] = []
    keys: list[tuple[str, bool]] = []
    theirs: list[str] = []
    for text in order_by or _NEWEST_FIRST:
        if text.strip().startswith(_SCORES):
            fields.append("metrics." + text.strip().partition(".")[2])
            continue
        _, key, ascending = _parsed(
            SearchModelVersionUtils.parse_order_by_for_search_model_versions, text
        )
        if key not in _VERSIONS:
            raise refusal(f"{key!r} is nothing to order by; known are: {', '.join(_VERSIONS)}")
        field, attribute = _VERSIONS[key]
        fields.append(field if ascending else f"{field} DESC")
        keys.append((attribute, not ascending))
        theirs.append(text)
    _check_once([field.split()[0] for field in fields], order_by)
    have = {key for key, _ in keys}
    rest = [rest for rest in (("name", False), ("version", True)) if rest[0] not in have]
    return Order(
        terms=terms_of(fields),
        keys=(*keys, *rest),
        adapters_first=fields[0].startswith("metrics."),
        theirs=tuple(theirs),
    )


@lru_cache(maxsize=64)
def _order_of_models(order_by: tuple[str, ...]) -> Order:
    parse = SearchUtils.parse_order_by_for_search_registered_models
    read = [_parsed(parse, text) for text in order_by]
    fields = [("name" if key == "name" else "updated_at", not up) for key, up in read]
    _check_once([field for field, _ in fields], order_by)
    keys = [
        (field if field == "name" else "last_updated_timestamp", descending)
        for field, descending in fields
    ]
    rest = () if any(key == "name" for key, _ in keys) else (("name", False),)
    return Order(terms=terms_of_adapters(fields), keys=(*keys, *rest), theirs=order_by)


def _parsed(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:  # a quote that is not closed
        raise refusal(f"order_by {text!r} cannot be understood: {error}") from error


def _check_once(fields: Sequence[str], order_by: Sequence[str]) -> None:
    if len(set(fields)) < len(fields):
        raise refusal(f"`order_by` contains duplicate fields: {list(order_by)}")
