"""Forward passes of decoder-only models: rows enter a running batch, and the batch takes a step."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import DynamicCache

from dovetail.loader.engine.attention import OneQuery
from dovetail.loader.engine.cache import SLACK, RowCache, States
from dovetail.loader.engine.head import Head
from dovetail.loader.engine.masks import Masks
from dovetail.loader.engine.memory import affordable_slots, release
from dovetail.loader.engine.packing import Pack, Stretch
from dovetail.loader.engine.pasts import Pasts
from dovetail.loader.engine.task import Task
from dovetail.loader.native.hooks import Mix, ModuleHooks


class DecoderOnly:
    """Runs the rows of a decoder-only model.

    Args:
        model: The frozen model.
        hooks: Apply the rows' LoRA and IA3 adapters.
        head: The hook before the output embedding.
        one_query: The attention of steps and packs.
        pasts: What soft prompts leave in the cache.
        prefill_tokens: Tokens in one pass of entering rows, at most.
        packed: Rows enter packed, without padding; needs a model that takes any mask.
    """

    def __init__(
        self,
        model: Any,
        *,
        hooks: ModuleHooks,
        head: Head,
        one_query: OneQuery,
        pasts: Pasts,
        prefill_tokens: int,
        packed: bool,
    ) -> None:
        self._model, self._hooks, self._head, self._pasts = model, hooks, head, pasts
        self._budget = prefill_tokens
        self._packed = packed
        config = model.config.get_text_config()
        self._layers = config.num_hidden_layers
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._masks = Masks(config)
        self._one_query = one_query
        self._mixed = Mix([])
        self._cache = self._make_cache(0)

    def length(self, task: Task) -> int:
        """Return how many columns a task can come to need."""
        return task.lane.virtual_tokens + len(task.ids) + task.limit

    def affordable(self, columns: int) -> int:
        """Return how many rows of so many columns fit into memory."""
        return affordable_slots(self._model, columns + SLACK)

    def reset(self, slots: int) -> None:
        """Forget all rows, and have so many slots."""
        # The old one goes first: where memory ran out, there is no room for two.
        self._cache.release()
        release(self._model.device)
        self._cache = self._make_cache(slots)

    def _make_cache(self, slots: int) -> RowCache:
        model = self._model
        return RowCache(layers=self._layers, slots=slots, device=model.device, dtype=model.dtype)

    def reserve(self, columns: int) -> None:
        """Make room for rows of so many columns."""
        self._cache.reserve(columns)

    def enter(self, tasks: Sequence[Task], slots: Sequence[int]) -> torch.Tensor:
        """Run the prompts of new rows and give them their slots.

        Returns:
            Logits of the first new token, ``[tasks, vocabulary]``.
        """
        pasts = self._pasts.of([task.lane for task in tasks])
        run = self._enter_packed if self._packed else self._enter_padded
        logits, states = run(tasks, pasts)
        for slot, past, own in zip(slots, pasts, states, strict=True):
            self._cache.place(slot, [*([past] if past else []), *own])
        return logits

    def compose(self, tasks: Sequence[Task | None]) -> None:
        """Say which task is in which of the first slots; None is an empty slot."""
        self._mixed = Mix([task.lane.modules if task else None for task in tasks])
        self._cache.settle([slot for slot, task in enumerate(tasks) if task])

    def move(self, source: int, target: int) -> None:
        """Give a row another slot."""
        self._cache.move(source, target)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Run the newest token of each of the first slots.

        Returns:
            Logits of the next token, ``[slots in use, vocabulary]``.
        """
        cache, rows = self._cache, len(tokens)
        ids = torch.tensor(tokens, device=self._model.device)[:, None]
        if self._packed:
            mask = self._masks.of_step(cache.hidden(rows))
        else:
            mask = (cache.hidden(rows)[:, 0, 0] == 0).long()
        with self._hooks.rows(self._mixed), self._one_query.attention():
            output = self._forward(
                {"input_ids": ids}, mask=mask, positions=cache.positions(rows), cache=cache
            )
        cache.advance()
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _enter_packed(
        self, tasks: Sequence[Task], pasts: Sequence[States | None]
    ) -> tuple[torch.Tensor, list[list[States]]]:
        """Fill packs up to the budget; a prompt that is cut goes on behind its own beginning."""
        logits: list[torch.Tensor] = []
        states: list[list[States]] = [[] for _ in tasks]
        chunk: list[tuple[int, int, int]] = []
        room = self._budget
        for number, task in enumerate(tasks):
            at = 0
            while at < len(task.ids):
                after = min(len(task.ids), at + room)
                chunk.append((number, at, after))
                room -= after - at
                at = after
                if room == 0:
                    logits += self._run_chunk(chunk, tasks, pasts, states)
                    chunk, room = [], self._budget
        if chunk:
            logits += self._run_chunk(chunk, tasks, pasts, states)
        return torch.cat(logits), states

    def _run_chunk(
        self,
        chunk: Sequence[tuple[int, int, int]],
        tasks: Sequence[Task],
        pasts: Sequence[States | None],
        states: list[list[States]],
    ) -> list[torch.Tensor]:
        """Run one pack; return the logits of the prompts that end in it."""
        stretches: list[Stretch] = []
        ids: list[int] = []
        ends: list[int] = []
        mix, end_mix = [], []
        for number, at, after in chunk:
            lane = tasks[number].lane
            stretches.append(Stretch(after - at, joined(pasts[number], states[number])))
            ids += tasks[number].ids[at:after]
            mix += [lane.modules] * (after - at)
            if after == len(tasks[number].ids):
                ends.append(len(ids) - 1)
                end_mix.append(lane.modules)
        device = self._model.device
        pack = Pack(stretches, layers=self._layers, device=device, dtype=self._model.dtype)
        wanted = torch.tensor(ends or [0], device=device)
        with (
            self._hooks.rows(Mix(mix), head=Mix(end_mix or mix[:1])),
            self._head.only(wanted),
            self._one_query.attention() if pack.sparse else nullcontext(),
        ):
            output = self._forward(
                {"input_ids": torch.tensor([ids], device=device)},
                mask=self._masks.of_pack(pack),
                positions=pack.positions,
                cache=pack,
            )
        for (number, _, _), found in zip(chunk, pack.states(), strict=True):
            states[number].append(found)
        return [output.logits[0]] if ends else []

    def _enter_padded(
        self, tasks: Sequence[Task], pasts: Sequence[States | None]
    ) -> tuple[torch.Tensor, list[list[States]]]:
        """Run rows with prefixes of one length together: ``prefix | padding | prompt``."""
        logits: list[Any] = [None] * len(tasks)
        states: list[list[States]] = [[] for _ in tasks]
        groups: dict[int, list[int]] = {}
        for number, past in enumerate(pasts):
            groups.setdefault(past.length if past else 0, []).append(number)
        for group in groups.values():
            group.sort(key=lambda number: len(tasks[number].ids))
            for part in self._parts(group, tasks):
                found = self._run_padded(part, tasks, pasts, states)
                for number, row in zip(part, found, strict=True):
                    logits[number] = row
        return torch.stack(logits), states

    def _parts(self, group: Sequence[int], tasks: Sequence[Task]) -> list[list[int]]:
        parts: list[list[int]] = [[]]
        for number in group:
            if parts[-1] and (len(parts[-1]) + 1) * len(tasks[number].ids) > self._budget:
                parts.append([])
            parts[-1].append(number)
        return parts

    def _run_padded(
        self,
        part: Sequence[int],
        tasks: Sequence[Task],
        pasts: Sequence[States | None],
        states: list[list[States]],
    ) -> torch.Tensor:
        device = self._model.device
        width = max(len(tasks[number].ids) for number in part)
        ids, seen = [], []
        before = past.length if (past := pasts[part[0]]) else 0
        for number in part:
            own = tasks[number].ids
            ids.append([own[0]] * (width - len(own)) + list(own))
            seen.append([1] * before + [0] * (width - len(own)) + [1] * len(own))
        cache = DynamicCache()
        if before:
            for layer in range(self._layers):
                given = [past for number in part if (past := pasts[number])]
                cache.update(
                    torch.stack([each.keys[layer] for each in given]),
                    torch.stack([each.values[layer] for each in given]),
                    layer,
                )
        inputs, mask = torch.tensor(ids, device=device), torch.tensor(seen, device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        step = max(1, self._budget // len(part))
        with self._hooks.rows(Mix([tasks[number].lane.modules for number in part])):
            for at in range(0, width, step):
                after = min(width, at + step)
                output = self._forward(
                    {"input_ids": inputs[:, at:after]},
                    mask=mask[:, : before + after],
                    positions=positions[:, before + at : before + after],
                    cache=cache,
                )
        for row, number in enumerate(part):
            real = slice(before + width - len(tasks[number].ids), before + width)
            layers: list[Any] = cache.layers
            states[number].append(
                States(
                    tuple(layer.keys[row, :, real] for layer in layers),
                    tuple(layer.values[row, :, real] for layer in layers),
                )
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _forward(
        self, inputs: dict[str, torch.Tensor], *, mask: Any, positions: torch.Tensor, cache: Any
    ) -> Any:
        if self._takes_positions:
            inputs["position_ids"] = positions
        return self._model(
            **inputs, attention_mask=mask, past_key_values=cache, use_cache=True, return_dict=True
        )


def joined(past: States | None, own: Sequence[States]) -> States | None:
    """Return the states of stretches that follow each other as those of one."""
    parts = [*([past] if past else []), *own]
    if len(parts) < 2:  # noqa: PLR2004 (nothing to join)
        return parts[0] if parts else None
    return States(
        tuple(torch.cat(each, dim=1) for each in zip(*(p.keys for p in parts), strict=True)),
        tuple(torch.cat(each, dim=1) for each in zip(*(p.values for p in parts), strict=True)),
    )
