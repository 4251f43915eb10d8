"""Add the low-rank products of a batch's rows to a module's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch.nn import functional

from dovetail.loader.native.adapter import LowRank
from dovetail.loader.native.chunks import Chunk, cut_into_chunks
from dovetail.loader.native.groups import Groups
from dovetail.loader.native.stacks import Stack

_FULL = 4  # bytes
# Runs of so many tokens on average are multiplied in chunks; shorter ones by seats, all at once.
CHUNK_TOKENS = 8
# A product in half precision costs its start more than its size, so several runs share one.
CHUNK_RUNS = 4

Run = tuple[int, LowRank | None]


class Delta(Protocol):
    """What one module's adapters do to its output, for one composition of a batch."""

    def add(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the output with the rows' products added, in place where that goes."""


class LinearDelta:
    """Low-rank products on a linear layer.

    Args:
        runs: Neighbouring rows with the same pair, as a number of rows and the pair, in order;
            together all rows of the batch.
        stack: The module's matrices by seat.
        seats: Gives the seat of each run, None without a pair.
        groups: Gives the places of all tokens, for a number of tokens of each row.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        stack: Stack,
        seats: Callable[[], Sequence[int | None]],
        groups: Callable[[int], Groups],
    ) -> None:
        self._rows = sum(count for count, _ in runs)
        self._runs, self._stack, self._seats, self._groups = runs, stack, seats, groups
        down = next(pair.down for _, pair in runs if pair is not None)
        self._dtype = down.dtype
        alone = down.device.type == "cpu" and down.dtype.itemsize >= _FULL
        self._together = 1 if alone else CHUNK_RUNS
        self._chunks: list[tuple[int, Chunk | None]] = []
        self._downs_t = self._ups = torch.empty(0)  # as of the stack's change ``_seen``
        self._seen = -1

    def add(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the output with the rows' products added, in place where that goes.

        Args:
            x: ``[..., inputs]``, equally many tokens of each row, in the order of the rows.
            output: ``[..., outputs]``.
        """
        if x.dtype != self._dtype or output.dtype != self._dtype:
            wide = self.add(x.to(self._dtype), output.to(self._dtype))
            return wide.to(output.dtype)
        if not output.is_contiguous():
            output = output.contiguous()
        x2 = x.reshape(-1, x.shape[-1])
        tokens = x2.shape[0]
        if tokens % self._rows:
            raise RuntimeError(uneven(tokens, self._rows))
        out2 = output.view(-1, output.shape[-1])
        if len(self._runs) == 1 or tokens >= CHUNK_TOKENS * len(self._runs):
            self._add_chunks(x2, out2, tokens // self._rows)
        else:
            self._add_groups(x2, out2, self._groups(tokens // self._rows))
        return output

    def _add_chunks(self, x2: torch.Tensor, out2: torch.Tensor, each: int) -> None:
        if not self._chunks:
            self._chunks = cut_into_chunks(self._runs, most=self._together)
        sizes = [count * each for count, _ in self._chunks]
        for part, out, (_, chunk) in zip(
            x2.split_with_sizes(sizes), out2.split_with_sizes(sizes), self._chunks, strict=True
        ):
            if chunk is not None:
                chunk.add(part, out)

    def _add_groups(self, x2: torch.Tensor, out2: torch.Tensor, groups: Groups) -> None:
        if self._seen != self._stack.changes:
            # Another batch may have needed the seats since the last time.
            self._take_seats(groups.seats)
        placed = x2.index_select(0, groups.take).view(groups.seats, groups.width, -1)
        high = placed.bmm(self._downs_t).bmm(self._ups).view(-1, out2.shape[1])
        # Not added at ``groups.take``: that is several times slower.
        high = high.index_select(0, groups.back)
        if groups.bare is not None:
            high.masked_fill_(groups.bare, 0)
        out2.add_(high)

    def _take_seats(self, count: int) -> None:
        stack = self._stack
        seated = {
            seat: pair
            for seat, (_, pair) in zip(self._seats(), self._runs, strict=True)
            if seat is not None
        }
        stack.seat(seated, seats=count)
        self._downs_t, self._ups = stack.downs[:count].transpose(1, 2), stack.ups[:count]
        self._seen = stack.changes


class EmbeddingDelta:
    """Low-rank products on an embedding: columns of ``down`` are looked up.

    Args:
        runs: As for ``LinearDelta``.
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
