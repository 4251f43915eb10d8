"""Attention of one query to each row and head, as a step of decoding has it.

A head goes through its columns by blocks, each only once, and keeps the greatest score so far and
the sums relative to it (https://arxiv.org/abs/1805.02867). Columns that a row does not see are not
read at all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, types

from dovetail.loader.kernels.loop import Loop
from dovetail.loader.kernels.memory import (
    ROUNDER,
    Numbers,
    bfloat16s,
    doubles,
    flags,
    float16s,
    float32s,
    integers,
    next_ticket,
    power_of_two,
    read,
    room_for,
    write,
)
from dovetail.loader.kernels.threads import run

WIDEST = 512
"""Features of a head, at most."""
_BLOCK = 64  # columns whose scores are computed at once
_SEEN = 1024  # columns whose mask is read at once
_ROWS_EACH = 4  # of a thread, so that none waits long for another
_SUMS = {"contract", "reassoc", "nsz"}  # sums may be added up in any order
_NO_MASK, _ADDED, _FLAGS = range(3)

_INTEGERS = (
    *("query", "keys", "values", "out", "mask", "mask_kind", "bias"),
    *("rows", "heads", "shared", "together", "columns", "width", "value_width"),
    *("key_row", "key_head", "key_column", "value_row", "value_head", "value_column"),
    *("mask_row", "mask_head", "bias_row", "bias_head", "ticket"),
)
_QUERY, _KEYS, _VALUES, _OUT, _MASK, _MASK_KIND, _BIAS = range(7)
_ROWS, _HEADS, _SHARED, _TOGETHER, _COLUMNS, _WIDTH, _VALUE_WIDTH = range(7, 14)
_KEY_ROW, _KEY_HEAD, _KEY_COLUMN, _VALUE_ROW, _VALUE_HEAD, _VALUE_COLUMN = range(14, 20)
_MASK_ROW, _MASK_HEAD, _BIAS_ROW, _BIAS_HEAD, _TICKET = range(20, 25)
_SCALE = len(_INTEGERS)


class _Arguments(ctypes.Structure):
    """What the loop is given: addresses, sizes, and steps from one row, head or column on.

    Attributes:
        shared: Heads of queries to each head of keys.
        together: Heads of keys that a thread takes at once.
        mask_kind: Whether there is a mask, and whether it is added or tells what is seen.
        ticket: 0; counts what threads have taken.
    """

    _fields_ = (*((name, ctypes.c_int64) for name in _INTEGERS), ("scale", ctypes.c_double))


_wide = room_for(WIDEST)
_scores = room_for(_BLOCK)
_added = room_for(_SEEN)
_places = room_for(_SEEN, types.int64)


@njit(error_model="numpy")
def _exp(x: Any) -> Any:
    """Return ``e ** x`` for ``x`` up to 0, as exact as float32 gets but for the last bit.

    Cephes' polynomial; what is not a number stays so.
    """
    least = np.float32(-87)
    x = least if x < least else x  # noqa: FURB136 (max() need not keep NaN)
    rounded = x * np.float32(1.44269504) + np.float32(ROUNDER)
    n = rounded - np.float32(ROUNDER)
    f = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * f + np.float32(1.3981999507e-3)
    p = p * f + np.float32(8.3334519073e-3)
    p = p * f + np.float32(4.1665795894e-2)
    p = p * f + np.float32(1.6666665459e-1)
    p = p * f + np.float32(5.0000001201e-1)
    return (p * f * f + f + np.float32(1)) * power_of_two(rounded)


@njit(error_model="numpy")
def _find_seen(
    given: Numbers, numbers: Callable[[int], Numbers], size: int, row: int, head: int,
    start: int, after: int, places: Numbers, added: Numbers,
) -> int:  # fmt: skip
    """Note which columns are seen, and what is added to their scores; return how many."""
    at = row * given[_MASK_ROW] + head * given[_MASK_HEAD]
    mask, seen = numbers(given[_MASK] + at * size), flags(given[_MASK] + at)
    kind = given[_MASK_KIND]
    count = 0
    for column in range(start, after):
        number = np.float32(0)
        if kind == _ADDED:
            number = read(mask, column)
            if number == -np.inf:
                continue
        elif kind == _FLAGS and seen[column] == 0:
            continue
        places[count], added[count] = column, number
        count += 1
    return count


@njit(fastmath=_SUMS, error_model="numpy")
def _add_scores(
    query: Numbers, keys: Numbers, step: int, width: int, count: int,
    places: Numbers, first: int, scores: Numbers,
) -> None:  # fmt: skip
    """Add the products of the query with the keys, four columns at a time."""
    last = count - 1
    for i in range(0, count, 4):
        k0 = places[first + i] * step
        k1 = places[first + min(i + 1, last)] * step
        k2 = places[first + min(i + 2, last)] * step
        k3 = places[first + min(i + 3, last)] * step
        s0 = s1 = s2 = s3 = np.float32(0)
        for d in range(width):
            q = query[d]
            s0 += q * read(keys, k0 + d)
            s1 += q * read(keys, k1 + d)
            s2 += q * read(keys, k2 + d)
            s3 += q * read(keys, k3 + d)
        scores[i] += s0
        if i < last:
            scores[i + 1] += s1
        if i + 1 < last:
            scores[i + 2] += s2
        if i + 2 < last:
            scores[i + 3] += s3


@njit(fastmath=_SUMS, error_model="numpy")
def _add_values(
    values: Numbers, step: int, width: int, count: int,
    places: Numbers, first: int, weights: Numbers, sums: Numbers,
) -> None:  # fmt: skip
    """Add the values, each as often as it weighs, four columns at a time."""
    whole = count // 4 * 4
    for i in range(0, whole, 4):
        at = first + i
        v0, v1 = places[at] * step, places[at + 1] * step
        v2, v3 = places[at + 2] * step, places[at + 3] * step
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for d in range(width):
            sums[d] += (
                w0 * read(values, v0 + d)
                + w1 * read(values, v1 + d)
                + w2 * read(values, v2 + d)
                + w3 * read(values, v3 + d)
            )
    for i in range(whole, count):
        v0, w0 = places[first + i] * step, weights[i]
        for d in range(width):
            sums[d] += w0 * read(values, v0 + d)


@njit(error_model="numpy")
def _weigh(scores: Numbers, count: int, most: float, sums: Numbers, width: int) -> Any:
    """Turn scores into weights relative to the greatest so far.

    Returns:
        The greatest, and the factor by which older weights count less now; the sums do already.
    """
    before, factor = most, np.float32(1)
    for i in range(count):
        most = max(most, scores[i])
    if most > before:
        factor = _exp(before - most)
        for d in range(width):
            sums[d] *= factor
    for i in range(count):
        scores[i] = _exp(scores[i] - most)
    return most, factor


@njit(error_model="numpy")
def _attend_head(
    given: Numbers, numbers: Callable[[int], Numbers], size: int, row: int, head: int, again: bool,
    found: int, places: Numbers, added: Numbers, wide: Numbers, scores: Numbers, sums: Numbers,
) -> int:  # fmt: skip
    """Attend from one head; return how many columns it saw, of the last that were looked at.

    The mask is read again if that is asked for, or does not fit at once.
    """
    group, columns = head // given[_SHARED], given[_COLUMNS]
    keys = numbers(given[_KEYS] + (row * given[_KEY_ROW] + group * given[_KEY_HEAD]) * size)
    values = numbers(given[_VALUES] + (row * given[_VALUE_ROW] + group * given[_VALUE_HEAD]) * size)
    bias = numbers(given[_BIAS] + (row * given[_BIAS_ROW] + head * given[_BIAS_HEAD]) * size)
    most, weight = np.float32(-np.inf), np.float32(0)
    for start in range(0, columns, _SEEN):
        if again or columns > _SEEN:
            after = min(start + _SEEN, columns)
            found = _find_seen(given, numbers, size, row, head, start, after, places, added)
        for block in range(0, found, _BLOCK):
            count = min(_BLOCK, found - block)
            for i in range(count):
                scores[i] = added[block + i]
            if given[_BIAS] != 0:
                for i in range(count):
                    scores[i] += read(bias, places[block + i])
            _add_scores(wide, keys, given[_KEY_COLUMN], given[_WIDTH], count, places, block, scores)
            most, factor = _weigh(scores, count, most, sums, given[_VALUE_WIDTH])
            weight *= factor
            for i in range(count):
                weight += scores[i]
            _add_values(
                values,
                given[_VALUE_COLUMN],
                given[_VALUE_WIDTH],
                count,
                places,
                block,
                scores,
                sums,
            )
    one = np.float32(0) if weight == 0 else np.float32(1) / weight
    for d in range(given[_VALUE_WIDTH]):
        sums[d] *= one
    return found


@njit(error_model="numpy")
def _attend(address: int, numbers: Callable[[int], Numbers], size: int) -> None:
    """Take heads of keys until none is left; ``numbers`` makes a pointer to the model's type."""
    given = integers(address)
    scale = np.float32(doubles(address)[_SCALE])
    query, out = numbers(given[_QUERY]), numbers(given[_OUT])
    heads, together = given[_HEADS] * given[_SHARED], given[_TOGETHER] * given[_SHARED]
    width, value_width = given[_WIDTH], given[_VALUE_WIDTH]
    wide, sums, scores = _wide(), _wide(), _scores()
    places, added = _places(), _added()
    parts = (heads + together - 1) // together
    while True:
        taken = next_ticket(address + 8 * _TICKET)
        if taken >= given[_ROWS] * parts:
            return
        row, first = taken // parts, taken % parts * together
        found = 0
        for head in range(first, min(first + together, heads)):
            at = row * heads + head
            for d in range(width):
                wide[d] = read(query, at * width + d) * scale
            for d in range(value_width):
                sums[d] = np.float32(0)
            again = head == first or given[_MASK_HEAD] != 0
            found = _attend_head(
                given, numbers, size, row, head, again, found, places, added, wide, scores, sums
            )
            for d in range(value_width):
                write(out, at * value_width + d, sums[d])


def _float32(address: int) -> None:
    _attend(address, float32s, 4)


def _bfloat16(address: int) -> None:
    _attend(address, bfloat16s, 2)


def _float16(address: int) -> None:
    _attend(address, float16s, 2)


_LOOP = Loop(_float32, _bfloat16, _float16)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: float,
) -> torch.Tensor | None:
    """Attend from one query of each row and head.

    Args:
        query: ``[rows, heads, 1, width]``.
        keys: ``[rows, heads of keys, columns, width]``, of the same type.
        values: ``[rows, heads of keys, columns, width of values]``, likewise.
        mask: What is added to the scores, of the same type, or where a query may look,
            ``[rows or 1, heads or 1, 1, columns]``.
        bias: What is added, too.
        scale: What scores are multiplied with.

    Returns:
        ``[rows, 1, heads, width of values]``; zeros for a row that sees nothing. None where types
        or sizes are not what the loop takes.
    """
    rows, heads, _, width = query.shape
    _, shared, columns, value_width = values.shape
    added = [one for one in (mask, bias) if one is not None and one.dtype != torch.bool]
    if (
        max(width, value_width) > WIDEST
        or any(one.dtype != query.dtype for one in (keys, values, *added))
        or (bias is not None and bias.dtype == torch.bool)
        or keys.stride(3) != 1
        or values.stride(3) != 1
    ):
        return None
    query = query.contiguous()
    out = query.new_empty(rows, 1, heads, value_width)
    given = _Arguments(
        query=query.data_ptr(),
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        out=out.data_ptr(),
        rows=rows,
        heads=shared,
        shared=heads // shared,
        columns=columns,
        width=width,
        value_width=value_width,
        key_row=keys.stride(0),
        key_head=keys.stride(1),
        key_column=keys.stride(2),
        value_row=values.stride(0),
        value_head=values.stride(1),
        value_column=values.stride(2),
        # All heads at once read a row's mask once; where rows are few, threads share their heads.
        together=shared if rows >= _ROWS_EACH * torch.get_num_threads() else 1,
        scale=scale,
    )
    if mask is not None:
        mask = mask.expand(rows, heads, 1, columns)
        mask = mask if mask.stride(3) == 1 else mask.contiguous()
        given.mask_kind = _FLAGS if mask.dtype == torch.bool else _ADDED
        given.mask, given.mask_row, given.mask_head = mask.data_ptr(), *mask.stride()[:2]
    if bias is not None:
        bias = bias.expand(rows, heads, 1, columns)
        bias = bias if bias.stride(3) == 1 else bias.contiguous()
        given.bias, given.bias_row, given.bias_head = bias.data_ptr(), *bias.stride()[:2]
    run(_LOOP.address(query.dtype), given)
    return out
