"""What comes out of classification and embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from dovetail.loader.rows import AttachedAdapter, RouteName


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What a head said of one row.

    Attributes:
        index: Position of the row in the input, from 0.
        label: The label with the highest score; None for a regression and where there is an error.
        scores: Label to score, in the head's order: probabilities that sum to 1, independent
            probabilities for a head of several labels, plain values for a regression. Empty where
            there is an error.
        logits: The head's outputs as they are, in the order of ``scores``.
        adapter: The adapter that was used.
        error: Why the row could not be scored, or None.
        route: ``reference``: PEFT's own forward pass on the frozen base's weights; None where the
            row was not run.
    """

    index: int
    label: str | None
    scores: Mapping[str, float]
    logits: tuple[float, ...]
    adapter: AttachedAdapter
    error: str | None
    route: RouteName | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedding:
    """The vector of one row.

    Attributes:
        index: Position of the row in the input, from 0.
        vector: ``[hidden size]``; None where there is an error.
        adapter: The adapter that was used, or None for the bare base model.
        error: Why the row could not be embedded, or None.
        route: ``reference``, through PEFT; ``native`` without an adapter; None where the row was
            not run.
    """

    index: int
    vector: npt.NDArray[np.float32] | None
    adapter: AttachedAdapter | None
    error: str | None
    route: RouteName | None
