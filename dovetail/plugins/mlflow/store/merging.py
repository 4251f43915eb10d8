"""One search over two stores: adapters, and what MLflow's own store keeps, in one order.

Each store is read in order from where the page before left it, and the two are joined like two
halves of a zip. A page's token says where both were left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.search_utils import SearchUtils

from dovetail.plugins.mlflow.problems import refusal
from dovetail.plugins.mlflow.store.ordering import Order
from dovetail.registry.ordering import Term, read_place
from dovetail.registry.paging import read_token, write_token

_MOST = 2**62


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins.

    Attributes:
        behind: What the last adapter or version of the page before was ordered by, as
            `dovetail.registry.ordering.write_place` writes it, or None.
        offset: How many of MLflow's own came before.
    """

    behind: list[Any] | None = None
    offset: int = 0

    @classmethod
    def of(cls, token: str | bytes | None) -> Place:
        """Read a token; without one, a search begins at its beginning.

        Raises:
            MlflowException: It is none of ours; status 400.
        """
        if not token:
            return cls()
        try:
            behind, offset = read_token(token)
        except (TypeError, ValueError):
            raise cls.foreign() from None
        if not _is_count(offset) or not (behind is None or isinstance(behind, list)):
            raise cls.foreign()
        return cls(behind, offset)

    @staticmethod
    def foreign() -> MlflowException:
        """Return the error for a token that is not of the search it is used for."""
        return refusal("the page token does not belong to this search; start without it")

    def within(self, terms: Sequence[Term]) -> tuple[Any, ...] | None:
        """Return what comes before in an order; None at the beginning.

        Raises:
            MlflowException: It is no place in this order; status 400.
        """
        if self.behind is None:
            return None
        place = read_place(terms, self.behind)
        if place is None:
            raise self.foreign()
        return place

    @property
    def token(self) -> str:
        """What is handed out for the next page."""
        return write_token([self.behind, self.offset])

    @property
    def their_token(self) -> bytes | None:
        """The token for MLflow's own store."""
        made: bytes | None = SearchUtils.create_page_token(self.offset) if self.offset else None
        return made


@dataclass(frozen=True, slots=True)
class Part:
    """What one store has for a page: entities in order, and whether it has more."""

    items: Sequence[Any]
    more: bool = False


def merge(
    ours: Part,
    theirs: Part,
    *,
    order: Order,
    limit: int,
    place: Place,
    is_shadowed: Callable[[Any], bool] = lambda _: False,
) -> PagedList[Any]:
    """Join two parts to one page, which is a short one where many of theirs are shadowed.

    Args:
        ours: Pairs of place and entity; as many as the page may have.
        theirs: Entities; as many as the page may have.
        order: The order of both.
        limit: Most entities on the page.
        place: Where it begins.
        is_shadowed: Whether one of theirs has a name that an adapter took since.
    """
    page: list[Any] = []
    mine = other = 0
    while len(page) < limit and (mine < len(ours.items) or other < len(theirs.items)):
        if (mine == len(ours.items) and ours.more) or (other == len(theirs.items) and theirs.more):
            break  # what comes next may be among what is not on hand
        rival = theirs.items[other] if other < len(theirs.items) else None
        if rival is not None and is_shadowed(rival):
            other += 1
        elif mine < len(ours.items) and (
            rival is None or order.comes_first(ours.items[mine][1], rival)
        ):
            page.append(ours.items[mine][1])
            mine += 1
        else:
            page.append(rival)
            other += 1
    is_last = mine == len(ours.items) and other == len(theirs.items)
    behind = ours.items[mine - 1][0] if mine else place.behind
    following = Place(behind, place.offset + other)
    return PagedList(page, None if is_last and not (ours.more or theirs.more) else following.token)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
