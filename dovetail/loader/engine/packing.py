"""Many prompts in one row of tokens, without padding, each seeing only itself.

::

    keys      [ prefix p | prefix q | a a a a | b b | c c c ]
    queries                         [ a a a a | b b | c c c ]     a and c begin with p, b with q

Every token keeps its own position, and the mask keeps stretches apart. A prefix is what a soft
prompt or an earlier chunk of the same row has left behind; rows that share one share its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from dovetail.loader.engine.cache import States

_SPARSE = 2  # one part in so many


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Tokens of one row that run in one pack.

    Attributes:
        length: Number of tokens.
        past: What comes before them, or None.
    """

    length: int
    past: States | None

    @property
    def position(self) -> int:
        """Position of the first token among those of its row."""
        return self.past.length if self.past else 0


class _Layer(CacheLayerMixin):
    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor | None, values: torch.Tensor | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self._before = None if keys is None or values is None else (keys, values)
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: there is nothing to make."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the new keys and values; return them behind those of the prefixes."""
        self.keys, self.values = key_states, value_states
        if self._before is None:
            return key_states, value_states
        keys, values = self._before
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns, and where they begin."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of columns that the prefixes take."""
        return 0 if self._before is None else self._before[0].shape[2]

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1


class Pack(Cache):
    """The cache, the positions and the mask of one packed forward pass.

    Args:
        stretches: What runs, in order.
        layers: Number of attention layers.
        device: Where the model is.
        dtype: Of the additive mask, the model's own.
    """

    def __init__(
        self,
        stretches: Sequence[Stretch],
        *,
        layers: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        pasts = {id(s.past): s.past for s in stretches if s.past is not None}
        self._pasts = list(pasts.values())
        self._stretches = stretches
        self._device, self._dtype = device, dtype
        self._parts = [_Layer(*self._before(index)) for index in range(layers)]
        super().__init__(layers=list(self._parts))
        self._keys, self._queries = self._label(list(pasts))

    @property
    def positions(self) -> torch.Tensor:
        """Position of each token among those of its row, ``[1, tokens]``."""
        return self._queries[1][None]

    @property
    def sparse(self) -> bool:
        """Whether a token sees but a small part of the columns, those of its own row."""
        columns = sum(past.length for past in self._pasts) + len(self._queries[0])
        own = (s.length * (s.position + s.length) for s in self._stretches)
        return sum(own) * _SPARSE < columns * len(self._queries[0])

    def hidden(self, window: int | None = None) -> torch.Tensor:
        """Return the additive mask, ``[1, 1, tokens, columns]``.

        Args:
            window: Number of positions that a token sees, itself included; all if None.
        """
        (owner, position, past), (own, here, before) = self._keys, self._queries
        distance = here[:, None] - position[None]
        seen = (own[:, None] == owner[None]) & (distance >= 0)
        seen |= before[:, None] == past[None]
        if window is not None:
            seen &= distance < window
        hidden = torch.zeros(seen.shape, dtype=self._dtype, device=self._device)
        return hidden.masked_fill_(~seen, -torch.inf)[None, None]

    def states(self) -> list[States]:
        """Return the keys and values of each stretch, without those of its prefix."""
        found, at = [], 0
        for stretch in self._stretches:
            part = slice(at, at + stretch.length)
            found.append(
                States(
                    tuple(layer.keys[0, :, part] for layer in self._parts),
                    tuple(layer.values[0, :, part] for layer in self._parts),
                )
            )
            at += stretch.length
        return found

    def _before(self, index: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if not self._pasts:
            return None, None
        return (
            torch.cat([past.keys[index] for past in self._pasts], dim=1)[None],
            torch.cat([past.values[index] for past in self._pasts], dim=1)[None],
        )

    def _label(self, pasts: list[int]) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Say of each column and each token: its stretch, its position, its prefix."""
        columns: list[tuple[int, int, int]] = []
        for number, past in enumerate(self._pasts):
            columns += [(-1, at, number) for at in range(past.length)]
        tokens: list[tuple[int, int, int]] = []
        for number, stretch in enumerate(self._stretches):
            before = pasts.index(id(stretch.past)) if stretch.past is not None else -2
            tokens += [(number, stretch.position + at, before) for at in range(stretch.length)]
        # No token is in another's prefix.
        columns += [(number, position, -1) for number, position, _ in tokens]
        return self._columns(columns), self._columns(tokens)

    def _columns(self, rows: list[tuple[int, int, int]]) -> tuple[torch.Tensor, ...]:
        return torch.tensor(rows, device=self._device).T.contiguous().unbind()
