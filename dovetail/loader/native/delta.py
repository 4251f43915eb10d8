"""Add the low-rank products of a batch's rows to a module's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch.nn import functional

from dovetail.loader.native.adapter import LowRank
from dovetail.loader.native.groups import Groups
from dovetail.loader.native.stacks import Stack

_FULL = 4  # bytes
# Runs of so many tokens on average are multiplied one after the other, where single products are
# cheap to start: in full precision on the CPU.
LOOP_TOKENS = 16

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
        seats: The seat of each run, None without a pair.
        groups: Gives the places of all tokens, for a number of tokens of each row.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        stack: Stack,
        seats: Sequence[int | None],
        groups: Callable[[int], Groups],
    ) -> None:
        self._rows = sum(count for count, _ in runs)
        self._runs, self._stack, self._groups = runs, stack, groups
        self._pairs = [
            None if pair is None else (pair.down_t, pair.up_t, pair.scale) for _, pair in runs
        ]
        self._only = self._pairs[0] if len(self._pairs) == 1 else None
        self._seated = {
            seat: pair
            for seat, (_, pair) in zip(seats, runs, strict=True)
            if seat is not None and pair is not None
        }
        down = next(iter(self._seated.values())).down
        self._dtype = down.dtype
        self._loops = down.device.type == "cpu" and down.dtype.itemsize >= _FULL
        self._sizes: dict[int, list[int]] = {}
        self._factors: dict[int, torch.Tensor] = {}
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
        if self._only is not None:
            down_t, up_t, scale = self._only
            out2.addmm_(x2.mm(down_t), up_t, alpha=scale)
        elif self._loops and tokens >= LOOP_TOKENS * len(self._runs):
            self._add_runs(x2, out2, tokens // self._rows)
        else:
            self._add_groups(x2, out2, self._groups(tokens // self._rows))
        return output

    def _add_runs(self, x2: torch.Tensor, out2: torch.Tensor, each: int) -> None:
        sizes = self._sizes.get(each)
        if sizes is None:
            sizes = self._sizes[each] = [count * each for count, _ in self._runs]
        for part, out, pair in zip(
            x2.split_with_sizes(sizes), out2.split_with_sizes(sizes), self._pairs, strict=True
        ):
            if pair is not None:
                out.addmm_(part.mm(pair[0]), pair[1], alpha=pair[2])

    def _add_groups(self, x2: torch.Tensor, out2: torch.Tensor, groups: Groups) -> None:
        stack, seats = self._stack, groups.seats
        if self._seen != stack.changes:
            # Another batch may have needed the seats since the last time.
            stack.seat(self._seated, seats=seats)
            self._seen = stack.changes
        factors = self._factors.get(groups.width)
        if factors is None:
            pairs = [self._seated.get(seat) for seat in range(seats)]
            scales = [0.0 if pair is None else pair.scale for pair in pairs]
            factors = self._factors[groups.width] = groups.factors(scales, self._dtype)
        placed = x2.index_select(0, groups.take).view(seats, groups.width, -1)
        low = placed.bmm(stack.downs[:seats].transpose(1, 2)).mul_(factors)
        high = low.bmm(stack.ups[:seats].transpose(1, 2))
        out2.index_add_(0, groups.take, high.view(-1, out2.shape[1]))


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
