"""Keys and values of the rows of a running batch, all on one clock.

The newest token of every row stands in the same column; a row begins where it begins::

    column      0  1  2  3  4  5  6  7  8  9
    slot 0                  a  a  a  a  a  a
    slot 1         b  b  b  b  b  b  b  b  b
    slot 2      .  .  .  .  .  .  .  c  c  c     <- entered later, in the place of a finished row
                   |                       |
                   begin                   end: the next token of every row goes here

To the model this is a batch padded on the left, whenever its rows entered. So what transformers
does for such batches holds: ALiBi, relative position biases and sliding windows count columns, and
the distance of two columns is that of their tokens. Where the columns run out, what is in use
is moved back to the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

SLACK = 32
"""Columns between two moves to the beginning; a move copies all that is in use."""


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """Keys and values of one stretch of tokens.

    Attributes:
        keys: One per layer, ``[heads, tokens, head size]``.
        values: One per layer, ``[heads, tokens, head size]``.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.keys[0].shape[1]

    @property
    def size(self) -> int:
        """Bytes of all keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class _Layer(CacheLayerMixin):
    """One layer's part of a `RowCache`."""

    is_sliding = False
    keys: Any  # tensors as soon as there are rows
    values: Any

    def __init__(self, cache: RowCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make room for all slots and columns.

        Zeros, since what is masked is still multiplied: by zero, which would not help if it were
        not a number.
        """
        slots, columns = self._cache.slots, self._cache.columns
        self.keys, self.values = (
            states.new_zeros(slots, states.shape[1], columns, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the newest token's keys and values down; return those of all columns in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self._cache
        rows, after = key_states.shape[0], cache.end + key_states.shape[2]
        self.keys[:rows, :, cache.end : after] = key_states
        self.values[:rows, :, cache.end : after] = value_states
        used = slice(cache.begin, after)
        return self.keys[:rows, :, used], self.values[:rows, :, used]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns that the queries see, and where they begin."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of columns in use."""
        return self._cache.end - self._cache.begin

    def get_max_length(self) -> int:
        """Return -1: there is always room, see `RowCache.reserve`."""
        return -1


class RowCache(Cache):
    """A cache whose rows come and go while it is in use.

    Args:
        layers: Number of attention layers.
        slots: Rows that have a place, at most.
        device: Where the model is.
        dtype: Of the additive mask, the model's own.
    """

    def __init__(
        self, *, layers: int, slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._parts = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self._parts))
        self.slots = slots
        self.columns = 0
        self.begin = self.end = 0
        self._starts = [0] * slots
        self._device, self._dtype = device, dtype
        self._hidden = torch.empty(0)
        self._starts_tensor: torch.Tensor | None = None

    def reserve(self, tokens: int) -> None:
        """See that a row of so many tokens, and one more, finds room before the clock's hand.

        To be called before a row enters, with the longest that it or any row in place can get.
        """
        if tokens >= self.columns:
            self._resize(tokens + 1 + SLACK)
        if self.end < tokens:
            self._shift(tokens)

    def place(self, slot: int, stretches: Sequence[States]) -> None:
        """Put a row's tokens into a slot so that the last one stands before the hand.

        What another row left there is wiped out: what is masked is still multiplied by zero, and
        that would not help against a NaN.
        """
        length = sum(states.length for states in stretches)
        at = self._starts[slot] = self.end - length
        self._wipe(slot)
        for states in stretches:
            after = at + states.length
            for layer, keys, values in zip(self._parts, states.keys, states.values, strict=True):
                if not layer.is_initialized:
                    layer.lazy_initialization(keys[None], values[None])
                layer.keys[slot, :, at:after] = keys
                layer.values[slot, :, at:after] = values
            at = after
        self._show(slot)

    def move(self, source: int, target: int) -> None:
        """Copy a row to another slot."""
        self._starts[target] = self._starts[source]
        used = slice(self._starts[source], self.end)
        self._wipe(target)
        for layer in self._parts:
            layer.keys[target, :, used] = layer.keys[source, :, used]
            layer.values[target, :, used] = layer.values[source, :, used]
        self._show(target)

    def settle(self, slots: Sequence[int]) -> None:
        """Let only the columns that these slots need be looked at."""
        self.begin = min((self._starts[slot] for slot in slots), default=self.end)

    def advance(self) -> None:
        """Move the hand over the token that was just put down in every row."""
        self.end += 1
        if self.end + 1 > self.columns:
            self._shift(self.end - self.begin)

    def positions(self, rows: int) -> torch.Tensor:
        """Return the position of each row's next token among its own, ``[rows, 1]``."""
        if self._starts_tensor is None:
            self._starts_tensor = torch.tensor(self._starts, device=self._device)
        return (self.end - self._starts_tensor[:rows])[:, None]

    def hidden(self, rows: int) -> torch.Tensor:
        """Return the additive mask of the next token, ``[rows, 1, 1, columns in use]``."""
        return self._hidden[:rows, None, None, self.begin : self.end + 1]

    def release(self) -> None:
        """Give the memory back; the cache is of no use any more."""
        for layer in self._parts:
            layer.keys = layer.values = None

    def _wipe(self, slot: int) -> None:
        """Forget what another row left."""
        for layer in self._parts:
            if layer.is_initialized:
                layer.keys[slot].zero_()
                layer.values[slot].zero_()

    def _show(self, slot: int) -> None:
        start = self._starts[slot]
        self._hidden[slot, :start] = -torch.inf
        self._hidden[slot, start:] = 0
        self._starts_tensor = None

    def _resize(self, columns: int) -> None:
        for layer in self._parts:
            if layer.is_initialized:
                layer.keys, layer.values = (
                    torch.cat(
                        [old, old.new_zeros(*old.shape[:2], columns - self.columns, old.shape[3])],
                        dim=2,
                    )
                    for old in (layer.keys, layer.values)
                )
        self.columns = columns
        self._hidden = torch.zeros(self.slots, columns, device=self._device, dtype=self._dtype)
        for slot in range(self.slots):
            self._show(slot)

    def _shift(self, end: int) -> None:
        """Move what is in use so that the hand stands at ``end``."""
        width, by = self.end - self.begin, end - self.end
        for layer in self._parts:
            if layer.is_initialized and width:
                for states in (layer.keys, layer.values):
                    states[:, :, end - width : end] = states[:, :, self.begin : self.end].clone()
        self._starts = [max(0, start + by) for start in self._starts]
        self.begin, self.end = end - width, end
        for slot in range(self.slots):
            self._show(slot)
