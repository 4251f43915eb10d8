"""What soft prompts leave in the cache, computed once per adapter and kept.

In a decoder-only model a soft prompt comes first, so its keys and values are the same for every
row; those of prefix tuning are given.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from dovetail.loader.engine.cache import States
from dovetail.loader.native.hooks import Mix, ModuleHooks

if TYPE_CHECKING:
    from dovetail.loader.engine.head import Head
    from dovetail.loader.lane import Lane, Mixture

_KEPT = 2**30  # bytes


class Pasts:
    """Keys and values of soft prompts.

    Args:
        model: The frozen model.
        hooks: Apply the LoRA and IA3 adapters that a prompt is combined with.
        head: The hook before the output embedding.
        kept: Bytes that may stay in memory between uses.
    """

    def __init__(self, model: Any, *, hooks: ModuleHooks, head: Head, kept: int = _KEPT) -> None:
        self._model, self._hooks, self._head, self._kept = model, hooks, head, kept
        self._states: OrderedDict[Mixture, States] = OrderedDict()

    def of(self, lanes: Sequence[Lane]) -> list[States | None]:
        """Return what comes before the rows of each lane, or None where nothing does."""
        wanted = {key: lane for lane in lanes if (key := lane.past_key)}
        found = {key: self._states[key] for key in wanted if key in self._states}
        groups: dict[int, dict[Mixture, Lane]] = {}
        for key, lane in wanted.items():
            if key in found or lane.soft is None:
                continue
            if (prefix := lane.soft.prefix) is not None:
                found[key] = States(prefix.keys, prefix.values)
            else:
                groups.setdefault(lane.soft.virtual_tokens, {})[key] = lane
        for group in groups.values():
            found |= zip(group, self._run(list(group.values())), strict=True)
        for key, states in found.items():
            self._states[key] = states
            self._states.move_to_end(key)
        self._shrink()
        return [found[key] if (key := lane.past_key) else None for lane in lanes]

    def forget(self, digest: str) -> None:
        """Let go of what was made with an adapter."""
        for key in [key for key in self._states if digest in key]:
            del self._states[key]

    def clear(self) -> None:
        """Let go of everything."""
        self._states.clear()

    def _shrink(self) -> None:
        size = sum(states.size for states in self._states.values())
        while size > self._kept:
            _, oldest = self._states.popitem(last=False)
            size -= oldest.size

    def _run(self, lanes: Sequence[Lane]) -> Iterator[States]:
        """Run prompts of one length through the model, each with its row's other adapters."""
        prompts = torch.stack(
            [soft.prompt for lane in lanes if (soft := lane.soft) and soft.prompt is not None]
        )
        cache = DynamicCache()
        last = torch.tensor([prompts.shape[1] - 1], device=prompts.device)
        with self._hooks.rows(Mix([lane.modules for lane in lanes])), self._head.only(last):
            self._model(inputs_embeds=prompts, past_key_values=cache, use_cache=True)
        layers: list[Any] = cache.layers
        for row in range(len(lanes)):
            # Copies: the rows of one pass live and go one by one.
            yield States(
                tuple(layer.keys[row].clone() for layer in layers),
                tuple(layer.values[row].clone() for layer in layers),
            )
