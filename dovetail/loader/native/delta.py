"""Add the low-rank products of a batch's rows to a module's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional

from dovetail.loader.native.adapter import LowRank

# Up to so many runs are multiplied one after the other. With more, and few tokens in a row, all
# are multiplied at once, from matrices gathered for the batch. Gathering reads and writes every
# adapter once, which on the CPU takes as long as some steps without it, so it waits for as many:
# fewer in half precision, whose products of single rows are slow. On an accelerator a few launches
# cost more than gathering.
LOOP_RUNS = 4
GATHER_TOKENS = 8
GATHER_AFTER_CPU = 6
GATHER_AFTER_CPU_HALF = 1
GATHER_AFTER_DEVICE = 0

_HALF = 2  # bytes

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
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._pairs = [
            None if pair is None else (pair.down_t, pair.up_t, pair.scale) for _, pair in runs
        ]
        self._rows = sum(count for count, _ in runs)
        self._only = self._pairs[0] if len(self._pairs) == 1 else None
        down = next(pair.down for _, pair in runs if pair is not None)
        self._dtype = down.dtype
        self._sizes: dict[int, list[int]] = {}
        few = sum(pair is not None for pair in self._pairs) <= LOOP_RUNS
        self._calls_left = -1 if few else _calls_before_gathering(down)
        self._gathered: _Gathered | None = None

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
        if x2.shape[0] % self._rows:
            raise RuntimeError(uneven(x2.shape[0], self._rows))
        out2 = output.view(-1, output.shape[-1])
        if self._only is not None:
            down_t, up_t, scale = self._only
            out2.addmm_(x2.mm(down_t), up_t, alpha=scale)
            return output
        each = x2.shape[0] // self._rows
        if self._calls_left >= 0 and each <= GATHER_TOKENS:
            if self._calls_left == 0:
                self._add_gathered(x2, out2)
                return output
            self._calls_left -= 1
        sizes = self._sizes.get(each)
        if sizes is None:
            sizes = self._sizes[each] = [count * each for count, _ in self._runs]
        for part, out, pair in zip(
            x2.split_with_sizes(sizes), out2.split_with_sizes(sizes), self._pairs, strict=True
        ):
            if pair is not None:
                out.addmm_(part.mm(pair[0]), pair[1], alpha=pair[2])
        return output

    def _add_gathered(self, x2: torch.Tensor, out2: torch.Tensor) -> None:
        if self._gathered is None:
            self._gathered = _Gathered(self._runs, x2.device)
        self._gathered.add(
            x2.view(self._rows, -1, x2.shape[-1]), out2.view(self._rows, -1, out2.shape[-1])
        )


def _calls_before_gathering(tensor: torch.Tensor) -> int:
    if tensor.device.type != "cpu":
        return GATHER_AFTER_DEVICE
    return GATHER_AFTER_CPU_HALF if tensor.dtype.itemsize == _HALF else GATHER_AFTER_CPU


class _Gathered:
    """The pairs of all rows in two tensors, the ranks filled up with zeros.

    Args:
        runs: As for ``LinearDelta``.
        device: Where the products are made.
    """

    def __init__(self, runs: Sequence[Run], device: torch.device) -> None:
        pairs: list[LowRank] = []
        places: list[int] = []
        row = 0
        for count, pair in runs:
            if pair is not None:
                pairs += [pair] * count
                places += range(row, row + count)
            row += count
        self._places = None if len(places) == row else torch.tensor(places, device=device)
        rank = max(len(pair.down) for pair in pairs)
        self._downs = torch.stack([_filled(pair.down, rank) for pair in pairs]).transpose(1, 2)
        self._ups = torch.stack([_filled(pair.up_t, rank) for pair in pairs])
        scales = [[[pair.scale]] for pair in pairs]
        self._scales = torch.tensor(scales, device=device, dtype=self._ups.dtype)

    def add(self, x: torch.Tensor, output: torch.Tensor) -> None:
        """Add to ``output`` of ``[rows, tokens, outputs]`` in place."""
        if self._places is None:
            output.baddbmm_(x.bmm(self._downs).mul_(self._scales), self._ups)
        else:
            low = x.index_select(0, self._places).bmm(self._downs).mul_(self._scales)
            output.index_add_(0, self._places, low.bmm(self._ups))


def _filled(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """Add lines of zeros up to a rank."""
    missing = rank - matrix.shape[0]
    return functional.pad(matrix, (0, 0, 0, missing)) if missing else matrix


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
