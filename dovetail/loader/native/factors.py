"""Multiply a batch's rows with the vectors of their adapters."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dovetail.loader.native.delta import uneven


class Factors:
    """The vectors of all rows; rows without one have ones.

    Args:
        runs: Neighbouring rows with the same vector, as a number of rows and the vector, in order.
    """

    def __init__(self, runs: Sequence[tuple[int, torch.Tensor | None]]) -> None:
        self._rows = sum(count for count, _ in runs)
        one = next(vector for _, vector in runs if vector is not None)
        self._vectors = one.new_ones(self._rows, 1, len(one))
        row = 0
        for count, vector in runs:
            if vector is not None:
                self._vectors[row : row + count, 0] = vector
            row += count

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """Return a new tensor; ``x`` is ``[..., features]``, equally many tokens of each row."""
        self._check(x)
        product = x.reshape(self._rows, -1, x.shape[-1]) * self._vectors
        return product.to(x.dtype).view(x.shape)

    def scale_in_place(self, output: torch.Tensor) -> torch.Tensor:
        """Return the output multiplied, in place where that goes."""
        if not output.is_contiguous() or output.dtype != self._vectors.dtype:
            return self.scaled(output)
        self._check(output)
        output.view(self._rows, -1, output.shape[-1]).mul_(self._vectors)
        return output

    def _check(self, x: torch.Tensor) -> None:
        tokens = x.numel() // x.shape[-1]
        if tokens % self._rows:
            raise RuntimeError(uneven(tokens, self._rows))
