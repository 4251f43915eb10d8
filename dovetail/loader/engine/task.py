"""One row on its way through the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from dovetail.loader.lane import Lane


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A row that is ready to run.

    Attributes:
        index: Its place in the input, from 0.
        ids: Its tokens.
        limit: New tokens at most.
        lane: What the rows of its adapters have in common.
    """

    index: int
    ids: tuple[int, ...]
    limit: int
    lane: Lane


@dataclass(slots=True, eq=False)
class Running:
    """A row that has a slot.

    Attributes:
        task: What was asked for.
        tokens: What was written so far.
        random: Source of the draws of this row alone, or None where tokens are chosen.
    """

    task: Task
    tokens: list[int] = field(default_factory=list)
    random: torch.Generator | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A row that is done.

    Attributes:
        task: What was asked for.
        tokens: What was written, without the end of the sequence.
        reason: ``stop`` or ``length``; ``error`` where it could not be run.
        error: Why, or None.
    """

    task: Task
    tokens: Sequence[int]
    reason: Literal["stop", "length", "error"]
    error: str | None = None
