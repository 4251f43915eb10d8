"""Add the low-rank products of many adapters to a layer's output: ``y += scale * up @ (down @ x)``.

What takes time is reading the matrices, so all tokens of an adapter that one thread takes are
multiplied while its matrices are in the processor's caches, and nothing else is read for them.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

from dovetail.loader.kernels.loop import Loop
from dovetail.loader.kernels.memory import (
    Numbers,
    bfloat16s,
    doubles,
    float16s,
    float32s,
    integers,
    next_ticket,
    read,
    room_for,
    write,
)

TOKENS = 4
"""Neighbouring tokens of one adapter that are multiplied at once, if there are so many."""
_AT_ONCE = 4  # ranks of a tile of products
_RANKS = 256  # of a matrix that are multiplied before their products are added up
_OUTPUTS = 512  # whose sums are kept at hand
_SUMS = {"contract", "reassoc", "nsz"}  # sums may be added up in any order


_INTEGERS = ("x", "y", "spans", "pairs", "count", "inputs", "outputs", "ticket")
_X, _Y, _SPANS, _PAIRS, _COUNT, _INPUTS, _OUTPUT_WIDTH, _TICKET = range(8)


class Arguments(ctypes.Structure):
    """What the loop is given; all pointers are addresses.

    Attributes:
        x: Of ``[tokens, inputs]``, row by row.
        y: Of ``[tokens, outputs]``, likewise.
        spans: Of ``[count, 3]`` integers: first token, number of tokens, number of their pair.
        pairs: Of one `PAIR` for each pair.
        count: Number of spans.
        inputs: Features of a token.
        outputs: Features of a token's output.
        ticket: 0; counts the spans that threads have taken.
    """

    _fields_ = tuple((name, ctypes.c_int64) for name in _INTEGERS)


PAIR = "=qqqd"
"""A pair of matrices as `struct` packs it: the addresses of ``down``, ``[rank, inputs]``, and of
``up``, ``[rank, outputs]``; the rank, 0 for no pair; the scale."""
PAIR_BYTES = struct.calcsize(PAIR)
_DOWN, _UP, _RANK, _SCALE = range(4)

_low = room_for(TOKENS * _RANKS)
_sums = room_for(TOKENS * _OUTPUTS)
_tile = room_for(TOKENS * _AT_ONCE)
_places = room_for(_AT_ONCE, types.int64)


@njit(error_model="numpy")
def _find(places: Numbers, at: int, q: int, rank: int, length: int) -> None:
    """Note where some ranks of a matrix begin; the last stands for those that it does not have."""
    for i in range(_AT_ONCE):
        places[i] = at + min(q + i, rank - 1) * length


@njit(error_model="numpy")
def _put(y: Numbers, y0: int, sums: Numbers, at: int, width: int) -> None:
    """Add sums to an output."""
    for j in range(width):
        write(y, y0 + j, read(y, y0 + j) + sums[at + j])


def _multiplying_down(tokens: int) -> Any:
    """Make the first product for so many neighbouring tokens; their loops are unrolled."""

    @njit(fastmath=_SUMS, error_model="numpy")
    def multiply(
        x: Numbers, x0: int, down: Numbers, d0: int, low: Numbers, inputs: int, rank: int,
        scale: float,
    ) -> None:  # fmt: skip
        """``low = scale * down @ x``, ``[rank, tokens]``, filled up with zeros."""
        tile, places = _tile(), _places()
        for q in range(0, rank, _AT_ONCE):
            _find(places, d0, q, rank, inputs)
            for i in range(_AT_ONCE * tokens):
                tile[i] = np.float32(0)
            for k in range(inputs):
                for i in range(_AT_ONCE):
                    factor = read(down, places[i] + k)
                    for t in range(tokens):
                        tile[i * tokens + t] += factor * read(x, x0 + t * inputs + k)
            for i in range(_AT_ONCE * tokens):
                low[q * tokens + i] = tile[i] * scale
        for i in range(rank * tokens, -(-rank // _AT_ONCE) * _AT_ONCE * tokens):
            low[i] = np.float32(0)

    return multiply


def _adding_up(tokens: int) -> Any:
    """Make the second product likewise."""

    @njit(fastmath=_SUMS, error_model="numpy")
    def add(
        y: Numbers, y0: int, up: Numbers, u0: int, low: Numbers, outputs: int, rank: int,
        sums: Numbers,
    ) -> None:  # fmt: skip
        """``y += up.T @ low``, rounded once."""
        tile, places = _tile(), _places()
        for start in range(0, outputs, _OUTPUTS):
            width = min(_OUTPUTS, outputs - start)
            for j in range(tokens * _OUTPUTS):
                sums[j] = np.float32(0)
            for q in range(0, rank, _AT_ONCE):
                _find(places, u0 + start, q, rank, outputs)
                for i in range(_AT_ONCE * tokens):
                    tile[i] = low[q * tokens + i]
                for j in range(width):
                    for t in range(tokens):
                        total = np.float32(0)
                        for i in range(_AT_ONCE):
                            total += tile[i * tokens + t] * read(up, places[i] + j)
                        sums[t * _OUTPUTS + j] += total
            for t in range(tokens):
                _put(y, y0 + t * outputs + start, sums, t * _OUTPUTS, width)

    return add


_down_one, _up_one = _multiplying_down(1), _adding_up(1)
_down_many, _up_many = _multiplying_down(TOKENS), _adding_up(TOKENS)


@njit(error_model="numpy")
def _add(address: int, numbers: Callable[[int], Numbers]) -> None:
    """Take spans until none is left; ``numbers`` makes a pointer to the layer's type."""
    given = integers(address)
    x, y = numbers(given[_X]), numbers(given[_Y])
    spans, pairs = integers(given[_SPANS]), given[_PAIRS]
    count, inputs, outputs = given[_COUNT], given[_INPUTS], given[_OUTPUT_WIDTH]
    low, sums = _low(), _sums()
    while True:
        taken = next_ticket(address + 8 * _TICKET)
        if taken >= count:
            return
        first, tokens = spans[3 * taken], spans[3 * taken + 1]
        at = pairs + spans[3 * taken + 2] * PAIR_BYTES
        pair = integers(at)
        scale = np.float32(doubles(at)[_SCALE])
        down, up = numbers(pair[_DOWN]), numbers(pair[_UP])
        for q in range(0, pair[_RANK], _RANKS):
            ranks = min(_RANKS, pair[_RANK] - q)
            d, u = q * inputs, q * outputs
            whole = first + tokens // TOKENS * TOKENS
            for token in range(first, whole, TOKENS):
                _down_many(x, token * inputs, down, d, low, inputs, ranks, scale)
                _up_many(y, token * outputs, up, u, low, outputs, ranks, sums)
            for token in range(whole, first + tokens):
                _down_one(x, token * inputs, down, d, low, inputs, ranks, scale)
                _up_one(y, token * outputs, up, u, low, outputs, ranks, sums)


def _float32(address: int) -> None:
    _add(address, float32s)


def _bfloat16(address: int) -> None:
    _add(address, bfloat16s)


def _float16(address: int) -> None:
    _add(address, float16s)


LOOP = Loop(_float32, _bfloat16, _float16)
"""Takes `Arguments`."""
