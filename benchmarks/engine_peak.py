"""What the machine can do at most: matrix products without anything around them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_BYTES = 128 * 2**20
"""Weights that a skinny product goes through: more than caches hold, as a model's are."""


def square_peak(side: int, *, dtype: torch.dtype, device: str, turns: int = 7) -> float:
    """Return operations per second of the product of two large square matrices, the best turn."""
    left, right = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    return 2.0 * side**3 / _best(lambda: torch.mm(left, right), device, turns)


def skinny_peak(
    rows: int, width: int, *, dtype: torch.dtype, device: str, turns: int = 7, small: bool = False
) -> float:
    """Return operations per second of ``[rows, width] x [width, 4 width]``, the best turn.

    That is what a step of decoding does. Each product has a weight of its own, read from memory.
    The better one of both layouts of the weight counts.
    """
    one = 4 * width * width * dtype.itemsize
    count = 2 if small else max(2, _BYTES // one)
    left = torch.randn(rows, width).to(device, dtype)
    best = 0.0
    for transposed in (False, True):
        shape = (4 * width, width) if transposed else (width, 4 * width)
        weights = [torch.randn(*shape).to(device, dtype) for _ in range(count)]
        views = [weight.T if transposed else weight for weight in weights]

        def sweep(views: list[torch.Tensor] = views) -> None:
            for weight in views:
                torch.mm(left, weight)

        work = 2.0 * rows * 4 * width * width * count
        best = max(best, work / _best(sweep, device, turns))
    return best


def _best(run: Callable[[], object], device: str, turns: int) -> float:
    times = []
    for _ in range(turns + 1):
        _finish(device)
        start = time.perf_counter()
        run()
        _finish(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
