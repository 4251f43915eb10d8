"""Keys and values of what the encoder made of each row's input.

They are made once, when a row enters, and never change. They begin in column 0::

    slot 0   a a a a a .
    slot 1   b b b b b b
    slot 2   c c . . . .      hidden
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import BaseModelOutput

from dovetail.loader.engine.cache import States

_STEP = 32
"""Columns are made by so many, because to make them anew costs as much as some steps."""


class _Layer(CacheLayerMixin):
    """Keys and values of what the encoder made, for one layer; ``keys`` is what is looked at."""

    is_sliding = False
    keys: Any  # tensors as soon as there are rows
    values: Any

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self.all_keys: Any = None
        self.all_values: Any = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: rows are placed."""

    def update(self, *_args: Any, **_options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Refuse: the encoder's keys and values are made when a row enters."""
        raise RuntimeError("the keys and values of an encoder's output are not changed")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 (the interface)
        """Return the number of columns, and where they begin."""
        return self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        """Return the number of columns."""
        return self.keys.shape[2] if self.keys is not None else 0

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1


class CrossCache(Cache):
    """Keys and values of what the encoder made of each slot's input, from column 0 on."""

    def __init__(
        self, *, layers: int, slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._parts = [_Layer() for _ in range(layers)]
        super().__init__(layers=list(self._parts))
        self._slots, self._columns = slots, 0
        self._device, self._dtype = device, dtype
        self._hidden = torch.empty(0)

    def release(self) -> None:
        """Give the memory back; the cache is of no use any more."""
        for layer in self._parts:
            layer.keys = layer.values = layer.all_keys = layer.all_values = None

    def place(self, slot: int, states: States) -> None:
        """Put a row's keys and values into a slot; what another row left there is wiped out."""
        if states.length > self._columns:
            self._grow(states)
        for layer, keys, values in zip(self._parts, states.keys, states.values, strict=True):
            for room, given in ((layer.all_keys[slot], keys), (layer.all_values[slot], values)):
                room.zero_()
                room[:, : states.length] = given

    def move(self, source: int, target: int) -> None:
        """Copy a row to another slot."""
        for layer in self._parts:
            layer.all_keys[target] = layer.all_keys[source]
            layer.all_values[target] = layer.all_values[source]

    def show(self, widths: Sequence[int]) -> None:
        """Let the model see so many columns of each of the first slots."""
        rows, columns = len(widths), max(widths, default=0)
        for layer in self._parts:
            layer.keys = layer.all_keys[:rows, :, :columns]
            layer.values = layer.all_values[:rows, :, :columns]
            layer.is_initialized = True
        given = torch.tensor(widths, device=self._device)[:, None]
        # An empty slot sees one column: it computes something, and nobody looks.
        seen = torch.arange(columns, device=self._device)[None] < given.clamp(min=1)
        hidden = torch.zeros(seen.shape, device=self._device, dtype=self._dtype)
        self._hidden = hidden.masked_fill_(~seen, -torch.inf)[:, None, None]

    def hidden(self, rows: int) -> torch.Tensor:
        """Return the additive mask, ``[rows, 1, 1, columns]``."""
        return self._hidden[:rows]

    def stand_in(self, rows: int) -> BaseModelOutput:
        """Return what stands for the encoder's output, of which only the shape is looked at."""
        one = torch.zeros(1, 1, 1, device=self._device, dtype=self._dtype)
        return BaseModelOutput(last_hidden_state=one.expand(rows, self._hidden.shape[-1], 1))

    def _grow(self, states: States) -> None:
        columns = -(-states.length // _STEP) * _STEP
        for layer, keys, values in zip(self._parts, states.keys, states.values, strict=True):
            for name, new in (("all_keys", keys), ("all_values", values)):
                room = new.new_zeros(self._slots, new.shape[0], columns, new.shape[2])
                if (old := getattr(layer, name)) is not None:
                    room[:, :, : self._columns] = old
                setattr(layer, name, room)
        self._columns = columns
