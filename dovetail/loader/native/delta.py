"""What adapters of rank ``r`` do to a module's output, whoever multiplies their matrices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, TypeAlias

import torch
from torch.nn import functional

from dovetail.loader.native.adapter import LowRank, NativeAdapter

Run: TypeAlias = tuple[int, LowRank | None]
"""Neighbouring rows with the same pair: how many, and the pair, if any."""
Runs: TypeAlias = Sequence[tuple[int, NativeAdapter | None]]
"""Neighbouring rows with the same adapter: how many, and it, if any; in order, together all."""


class Delta(Protocol):
    """What one module's adapters do to its output, for one composition of a batch."""

    def add(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the output with the rows' products added, in place where that goes.

        Args:
            x: ``[..., inputs]``, equally many tokens of each row, in the order of the rows; token
                ids for an embedding.
            output: ``[..., outputs]``.

        Raises:
            RuntimeError: The number of tokens is no multiple of the number of rows.
        """


class Composition(Protocol):
    """Who is where in a batch, for all linear layers."""

    def delta(self, name: str) -> Delta:
        """Return what the rows do to a layer that any of their adapters sits on."""


class Products(Protocol):
    """A way to multiply low-rank matrices, and what it keeps of them from batch to batch."""

    def add_layer(self, name: str) -> None:
        """Be ready for adapters on a linear layer."""

    def drop_layer(self, name: str) -> None:
        """Forget a layer."""

    def leave(self, adapter: NativeAdapter) -> None:
        """Forget an adapter, if it is known."""

    def compose(self, runs: Runs, *, idle: Collection[int]) -> Composition:
        """Work out who is where.

        Args:
            runs: The rows.
            idle: Rows that nobody looks at, so that it does not matter what they get.
        """


class EmbeddingDelta:
    """Low-rank products on an embedding: columns of ``down`` are looked up.

    Args:
        runs: Neighbouring rows with the same pair, in order; together all rows of the batch.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._rows = sum(count for count, _ in runs)

    def add(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the output with the rows' products added, in place where that goes.

        Args:
            x: Token ids, equally many of each row, in the order of the rows.
            output: ``[..., outputs]``.
        """
        if x.numel() % self._rows:
            raise RuntimeError(uneven(x.numel(), self._rows))
        each = x.numel() // self._rows
        sizes = [count * each for count, _ in self._runs]
        outputs = output.view(-1, output.shape[-1]).split_with_sizes(sizes)
        for ids, out, (_, pair) in zip(
            x.reshape(-1).split_with_sizes(sizes), outputs, self._runs, strict=True
        ):
            if pair is not None:
                looked_up = functional.embedding(ids, pair.down_t)
                out.add_(looked_up @ pair.up_t, alpha=pair.scale)
        return output


def uneven(found: int, rows: int) -> str:
    """Say that a batch does not consist of the rows that were announced."""
    return (
        f"a module got {found} tokens, which is no multiple of the {rows} rows that its adapters "
        "were chosen for; give rows() a mix of the rows that run"
    )
