"""The next token of each row: the likeliest, or drawn by the row's own source of chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from dovetail.loader.engine.task import Running

# In the order in which transformers applies them; each with the value that turns it off.
_WARPERS: tuple[tuple[str, Any, Callable[[Any, Any], Any]], ...] = (
    ("temperature", 1.0, lambda value, _: TemperatureLogitsWarper(value)),
    ("top_k", 0, lambda value, _: TopKLogitsWarper(value)),
    ("top_p", 1.0, lambda value, _: TopPLogitsWarper(value)),
    ("min_p", 0.0, lambda value, _: MinPLogitsWarper(value)),
    ("typical_p", 1.0, lambda value, _: TypicalLogitsWarper(value)),
    ("epsilon_cutoff", 0.0, lambda value, _: EpsilonLogitsWarper(value)),
    ("eta_cutoff", 0.0, lambda value, device: EtaLogitsWarper(value, device=device)),
)


def make_warpers(options: Mapping[str, Any], *, device: Any) -> LogitsProcessorList:
    """Make what turns logits into those that tokens are drawn from.

    Raises:
        ValueError: A value is out of range.
    """
    return LogitsProcessorList(
        make(options[name], device)
        for name, off, make in _WARPERS
        if options.get(name) is not None and options[name] != off
    )


def choose(logits: torch.Tensor, rows: Sequence[Running | None]) -> list[int]:
    """Return the next token of each row.

    A row's draws depend on its own source of chance and its own logits, so they are the same
    whatever else is in the batch.

    Args:
        logits: ``[rows, vocabulary]``.
        rows: What is in each row; None gets a token that means nothing.
    """
    # Looking in half precision would take several times as long as turning all into float32.
    tokens: list[int] = logits.float().argmax(dim=-1).tolist()
    drawn: dict[int, list[int]] = {}
    for at, row in enumerate(rows):
        if row is not None and row.random is not None:
            drawn.setdefault(id(row.task.lane.plan), []).append(at)
    for places in drawn.values():
        found = _draw(logits[places], [rows[at] for at in places])
        for at, token in zip(places, found, strict=True):
            tokens[at] = token
    for at, row in enumerate(rows):
        if row is not None:
            tokens[at] = _forced(row, tokens[at])
    return tokens


def _draw(logits: torch.Tensor, rows: Sequence[Any]) -> list[int]:
    """Invert the cumulative distribution at one uniform number per row."""
    warpers = rows[0].task.lane.plan.warpers
    scores = warpers(None, logits.float()) if warpers else logits.float()
    heights = scores.softmax(dim=-1).double().cumsum(dim=-1)
    chances = [torch.rand((), generator=row.random, dtype=torch.float64) for row in rows]
    at = torch.stack(chances).to(heights.device)[:, None] * heights[:, -1:]
    found: list[int] = torch.searchsorted(heights, at, right=True)[:, 0].tolist()
    return found


def _forced(row: Running, token: int) -> int:
    """Put the token in that a model asks for at the beginning or the end."""
    plan = row.task.lane.plan
    if plan.forced_last is not None and len(row.tokens) == row.task.limit - 1:
        return plan.forced_last
    if plan.forced_first is not None and not row.tokens:
        return plan.forced_first
    return token
