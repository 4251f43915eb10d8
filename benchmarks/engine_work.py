"""The job that every contestant does: prompts, budgets, adapters; and the work that is in it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.engine_shapes import FIRST_WORD

Tokens = dict[int, tuple[int, ...]]
"""The new tokens of rows, by the row's number."""

PROMPT_TOKENS = (8, 48)
BUDGETS: dict[str, Sequence[int]] = {
    "skewed": (4, 8, 12, 16, 24, 64),
    "uniform": range(4, 65),
    "brief": (2, 3),
}
"""What budgets are drawn from, by the name of the distribution; ``brief`` is for warming up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Rows to complete.

    Attributes:
        prompts: Token ids of each row.
        budgets: New tokens of each row; no row ends earlier.
        owners: The number of each row's adapter.
        batch_size: Rows that run at once.
    """

    prompts: tuple[tuple[int, ...], ...]
    budgets: tuple[int, ...]
    owners: tuple[int, ...]
    batch_size: int

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.prompts)

    def text(self, row: int) -> str:
        """Return a row's prompt as text, with a word for each token."""
        return " ".join(f"w{token}" for token in self.prompts[row])

    def batches(self) -> list[list[int]]:
        """Cut the rows, sorted by the length of their prompts, into static batches."""
        order = sorted(range(self.rows), key=lambda row: len(self.prompts[row]))
        return [order[at : at + self.batch_size] for at in range(0, self.rows, self.batch_size)]

    def some_batches(self, rows: int, turn: int) -> list[list[int]]:
        """Return batches with about so many rows, other ones in each turn.

        For each batch of short prompts there is one of long prompts, so that they are on average
        what all batches are.
        """
        batches = self.batches()
        pairs = max(1, rows // (2 * self.batch_size))
        if 2 * pairs >= len(batches):
            return batches
        starts = [(turn * pairs + step) % (len(batches) // 2) for step in range(pairs)]
        return [batches[at] for start in starts for at in (start, len(batches) - 1 - start)]

    def groups(self) -> list[list[int]]:
        """Return the rows of each adapter."""
        adapters = max(self.owners) + 1
        return [
            [row for row in range(self.rows) if self.owners[row] == adapter]
            for adapter in range(adapters)
        ]


def make_work(
    *, rows: int, adapters: int, batch_size: int, vocabulary: int, distribution: str
) -> Work:
    """Draw rows; the same ones for the same arguments.

    Args:
        rows: How many.
        adapters: How many adapters take turns.
        batch_size: Rows that run at once.
        vocabulary: Tokens of the model.
        distribution: How budgets are drawn, a key of ``BUDGETS``.
    """
    draw = random.Random(5)  # noqa: S311 (the same rows each time)
    lengths = [draw.randint(*PROMPT_TOKENS) for _ in range(rows)]
    return Work(
        prompts=tuple(
            tuple(draw.randrange(FIRST_WORD, vocabulary) for _ in range(length))
            for length in lengths
        ),
        budgets=tuple(draw.choice(BUDGETS[distribution]) for _ in range(rows)),
        owners=tuple(row % adapters for row in range(rows)),
        batch_size=batch_size,
    )


def useful_flops(model: Any, work: Work, *, adapter: Any = None) -> float:
    """Count the operations in matrix products that the job cannot do without.

    Two for each weight and token: the body sees the prompt and all new tokens but the last, the
    output layer sees one position for each new token. Attention's own products are left out.

    Args:
        model: The transformers model.
        work: The job.
        adapter: Pairs of a LoRA's name and shape of each tensor, or None for the bare base.
    """
    prompt = sum(len(ids) for ids in work.prompts)
    new = sum(work.budgets)
    stages = dict.fromkeys(("encoder", "cross", "body", "head"), 0)
    shapes = list(_weights(model)) if adapter is None else list(_low_rank(adapter))
    encoder_decoder = model.config.is_encoder_decoder
    for name, size in shapes:
        stages[_stage(name, encoder_decoder=encoder_decoder)] += size
    if encoder_decoder:
        seen = {"encoder": prompt, "cross": prompt, "body": new, "head": new}
    else:
        seen = {"encoder": 0, "cross": 0, "body": prompt + new - work.rows, "head": new}
    return float(sum(2 * size * seen[stage] for stage, size in stages.items()))


def _weights(model: Any) -> Iterator[tuple[str, int]]:
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield "lm_head" if module is head else name, module.weight.numel()


def _low_rank(adapter: Sequence[tuple[str, Sequence[int]]]) -> Iterator[tuple[str, int]]:
    for name, shape in adapter:
        yield name.removeprefix("base_model.model."), shape[0] * shape[1]


def _stage(name: str, *, encoder_decoder: bool) -> str:
    if name == "lm_head":
        return "head"
    if not encoder_decoder:
        return "body"
    if name.startswith("encoder."):
        return "encoder"
    return "cross" if "EncDecAttention.k" in name or "EncDecAttention.v" in name else "body"
