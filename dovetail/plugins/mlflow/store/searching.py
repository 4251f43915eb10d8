"""Searching adapters and what MLflow's own store keeps at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry import (
    SEARCH_MODEL_VERSION_MAX_RESULTS_THRESHOLD,
    SEARCH_REGISTERED_MODEL_MAX_RESULTS_THRESHOLD,
)
from sqlalchemy import Connection

from dovetail.plugins.mlflow.problems import refusal
from dovetail.plugins.mlflow.store.adapters import Adapters
from dovetail.plugins.mlflow.store.entities import model_version, registered_model
from dovetail.plugins.mlflow.store.filters import Query, read_models_filter, read_versions_filter
from dovetail.plugins.mlflow.store.merging import Part, Place, merge
from dovetail.plugins.mlflow.store.ordering import Order, order_of_models, order_of_versions
from dovetail.plugins.mlflow.store.others import Others
from dovetail.registry import catalogue
from dovetail.registry.catalogue import is_adapter, list_adapters, list_versions_by_id
from dovetail.registry.database import Database
from dovetail.registry.ordering import Term, write_place
from dovetail.registry.search import find_ids, find_places

_Behind: TypeAlias = "tuple[Any, ...] | None"
_Find: TypeAlias = Callable[[Connection, Query, Order, _Behind, int], Part]
_Locate: TypeAlias = Callable[
    [Connection, Sequence[Term], Sequence[int]], dict[int, tuple[Any, ...]]
]


class Search:
    """Searches of models and of versions, over both stores.

    Args:
        database: Dovetail's.
        adapters: Tells which names are adapters'.
        others: MLflow's own store.
    """

    def __init__(self, database: Database, adapters: Adapters, others: Others) -> None:
        self._database = database
        self._adapters = adapters
        self._others = others

    def models(
        self,
        filter_string: str | None,
        max_results: int,
        order_by: Sequence[str] | None,
        page_token: str | None,
    ) -> PagedList[Any]:
        """Find registered models: adapters and others."""
        _check_limit(max_results, SEARCH_REGISTERED_MODEL_MAX_RESULTS_THRESHOLD)
        query, order = read_models_filter(filter_string or ""), order_of_models(order_by)
        return self._page(
            query,
            order,
            Place.of(page_token),
            max_results,
            find=_find_adapters,
            locate=catalogue.find_places,
            ask=lambda options: self._others.store.search_registered_models(
                filter_string, **options
            ),
        )

    def versions(
        self,
        filter_string: str | None,
        max_results: int,
        order_by: Sequence[str] | None,
        page_token: str | None,
    ) -> PagedList[Any]:
        """Find model versions: adapters' and others'."""
        _check_limit(max_results, SEARCH_MODEL_VERSION_MAX_RESULTS_THRESHOLD)
        query, order = read_versions_filter(filter_string or ""), order_of_versions(order_by)
        return self._page(
            query,
            order,
            Place.of(page_token),
            max_results,
            find=_find_versions,
            locate=find_places,
            ask=lambda options: self._others.store.search_model_versions(filter_string, **options),
        )

    def _page(
        self,
        query: Query,
        order: Order,
        place: Place,
        limit: int,
        *,
        find: _Find,
        locate: _Locate,
        ask: Callable[[dict[str, Any]], PagedList[Any]],
    ) -> PagedList[Any]:
        behind = place.within(order.terms)
        with self._database.reading() as connection:
            ours = Part([]) if query.nothing else find(connection, query, order, behind, limit)
            # A name is either an adapter's or not.
            is_ours = query.name is not None and (
                bool(ours.items) or is_adapter(connection, query.name)
            )
            ask_theirs = query.plain and not is_ours and self._others.hold_any(connection)
            # Only with another store's beside them may a page end before the last of them.
            last = slice(None) if ask_theirs else slice(-1, None)
            ids = [one for one, _ in ours.items[last]] if ours.more or ask_theirs else []
            places = locate(connection, order.terms, ids) if ids else {}
            ours = replace(
                ours, items=[(write_place(places.get(one, ())), made) for one, made in ours.items]
            )
        theirs = Part([])
        if ask_theirs:
            found = ask(
                {
                    "max_results": limit,
                    "order_by": list(order.theirs),
                    "page_token": place.their_token,
                }
            )
            theirs = Part(found, more=bool(found.token))
        shadowed = self._adapters.among(list({one.name for one in theirs.items}))
        return merge(
            ours,
            theirs,
            order=order,
            limit=limit,
            place=place,
            is_shadowed=lambda one: one.name in shadowed,
        )


def _find_versions(
    connection: Connection, query: Query, order: Order, behind: _Behind, limit: int
) -> Part:
    ids = find_ids(connection, query.versions, order.terms, place=behind, limit=limit + 1)
    listed = list_versions_by_id(connection, ids[:limit])
    return Part([(one.id, model_version(one)) for one in listed], more=len(ids) > limit)


def _find_adapters(
    connection: Connection, query: Query, order: Order, behind: _Behind, limit: int
) -> Part:
    found = list_adapters(
        connection,
        about=query.about,
        versions=query.versions,
        terms=order.terms,
        place=behind,
        limit=limit + 1,
    )
    return Part([(one.id, registered_model(one)) for one in found[:limit]], more=len(found) > limit)


def _check_limit(limit: Any, most: int) -> None:
    if not isinstance(limit, int) or not 1 <= limit <= most:
        raise refusal(
            f"Invalid value for request parameter max_results. It must be from 1 to {most}, but "
            f"got value {limit}"
        )
