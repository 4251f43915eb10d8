"""Low-rank products of neighbouring runs, several adapters in one pair of matrix products.

::

    low       a a . . . .      rows of the first adapter: its ranks; all else is multiplied by zero
              . . b b b b      rows of the second
              . . b b b b

What is computed in vain is the other adapters' ranks, which costs less than to start products for
each adapter, where there are few of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dovetail.loader.native.adapter import LowRank


class Chunk:
    """The products of neighbouring rows.

    Args:
        runs: Numbers of rows and their pairs, in order, at least one.

    Attributes:
        rows: Number of rows.
    """

    def __init__(self, runs: Sequence[tuple[int, LowRank]]) -> None:
        self.rows = sum(count for count, _ in runs)
        pairs = [pair for _, pair in runs]
        self._scale, self._factors = 1.0, None
        if len(pairs) == 1:
            # Views of the adapter's own weights.
            self._down_t, self._up_t, self._scale = pairs[0].down_t, pairs[0].up_t, pairs[0].scale
            return
        self._down_t = torch.cat([pair.down for pair in pairs]).t()
        self._up_t = torch.cat([pair.up for pair in pairs], dim=1).t()
        self._factors = self._down_t.new_zeros(self.rows, 1, self._down_t.shape[1])
        row = rank = 0
        for count, pair in runs:
            ranks = len(pair.down)
            self._factors[row : row + count, 0, rank : rank + ranks] = pair.scale
            row, rank = row + count, rank + ranks

    def add(self, x: torch.Tensor, output: torch.Tensor) -> None:
        """Add the products in place.

        Args:
            x: ``[tokens, inputs]``, equally many tokens of each row.
            output: ``[tokens, outputs]``.
        """
        low = x.mm(self._down_t)
        if self._factors is not None:
            low.view(self.rows, -1, low.shape[1]).mul_(self._factors)
        output.addmm_(low, self._up_t, alpha=self._scale)


def cut_into_chunks(
    runs: Sequence[tuple[int, LowRank | None]], *, most: int
) -> list[tuple[int, Chunk | None]]:
    """Put neighbouring runs together.

    Args:
        runs: Numbers of rows and their pairs, in order.
        most: Runs in a chunk, at most.

    Returns:
        In order, a number of rows and their chunk, None for rows without a pair.
    """
    found: list[tuple[int, Chunk | None]] = []
    together: list[tuple[int, LowRank]] = []

    def finish() -> None:
        if together:
            chunk = Chunk(together)
            found.append((chunk.rows, chunk))
            together.clear()

    for count, pair in runs:
        if pair is None:
            finish()
            found.append((count, None))
            continue
        together.append((count, pair))
        if len(together) == most:
            finish()
    finish()
    return found
