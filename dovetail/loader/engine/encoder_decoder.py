"""Forward passes of encoder-decoder models: rows enter a running batch, and it takes a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from dovetail.loader.engine.attention import OneQuery
from dovetail.loader.engine.cache import SLACK, RowCache, States
from dovetail.loader.engine.cross import CrossCache
from dovetail.loader.engine.memory import affordable_slots, release
from dovetail.loader.engine.task import Task
from dovetail.loader.native.hooks import Mix, ModuleHooks

# So many times what the encoder sees at once, the decoder begins with in one pass: that is of one
# token for each row, but what the cross-attention keeps of the rows is there twice meanwhile.
_PARTS = 8


class EncoderDecoder:
    """Runs the rows of an encoder-decoder model.

    The encoder sees ``virtual tokens | input | padding`` once, when a row enters. From then on the
    decoder's rows come and go as those of a decoder-only model do.

    Args:
        model: The frozen model.
        hooks: Apply the rows' LoRA and IA3 adapters.
        one_query: The attention of a step.
        encoder_tokens: Tokens in one pass of the encoder, at most, padding included.
    """

    def __init__(
        self, model: Any, *, hooks: ModuleHooks, one_query: OneQuery, encoder_tokens: int
    ) -> None:
        self._model, self._hooks = model, hooks
        self._budget = encoder_tokens
        config = model.config
        self._layers = getattr(config, "decoder_layers", None) or config.num_decoder_layers
        self._embed = model.get_encoder().get_input_embeddings()
        self._positions = _Positions(model)
        self._one_query = one_query
        self._mixed = Mix([])
        self._cache, self._cross = self._caches(0)

    def length(self, task: Task) -> int:
        """Return how many columns a task can come to need."""
        return _before(task) + 1 + task.limit

    def affordable(self, columns: int) -> int:
        """Return how many rows of so many columns fit into memory.

        The encoder's keys and values are counted as if its input had no more columns.
        """
        return affordable_slots(self._model, 2 * columns + SLACK)

    def reset(self, slots: int) -> None:
        """Forget all rows, and have so many slots."""
        # The old ones go first: where memory ran out, there is no room for two.
        self._cache.release()
        self._cross.release()
        release(self._model.device)
        self._cache, self._cross = self._caches(slots)

    def _caches(self, slots: int) -> tuple[RowCache, CrossCache]:
        options = {
            "layers": self._layers,
            "slots": slots,
            "device": self._model.device,
            "dtype": self._model.dtype,
        }
        return RowCache(**options), CrossCache(**options)

    def reserve(self, columns: int) -> None:
        """Make room for rows of so many columns."""
        self._cache.reserve(columns)

    def enter(self, tasks: Sequence[Task], slots: Sequence[int]) -> torch.Tensor:
        """Run the encoder and the decoder's first token for new rows, and give them their slots.

        Returns:
            Logits of the first new token, ``[tasks, vocabulary]``.
        """
        found: dict[Task, torch.Tensor] = {}
        places = dict(zip(tasks, slots, strict=True))
        for group in _groups(tasks):
            for part in _parts(group, _PARTS * self._budget):
                logits = self._begin(part, self._encode(part), [places[task] for task in part])
                found |= dict(zip(part, logits, strict=True))
        return torch.stack([found[task] for task in tasks])

    def compose(self, tasks: Sequence[Task | None]) -> None:
        """Say which task is in which of the first slots; None is an empty slot."""
        self._mixed = Mix([task.lane.modules if task else None for task in tasks])
        self._cache.settle([slot for slot, task in enumerate(tasks) if task])
        widths = [_width(task) if task else 0 for task in tasks]
        self._cross.show(widths)

    def move(self, source: int, target: int) -> None:
        """Give a row another slot."""
        self._cache.move(source, target)
        self._cross.move(source, target)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Run the newest token of each of the first slots.

        Returns:
            Logits of the next token, ``[slots in use, vocabulary]``.
        """
        cache, rows = self._cache, len(tokens)
        ids = torch.tensor(tokens, device=self._model.device)[:, None]
        with (
            self._hooks.rows(self._mixed),
            self._positions.given(cache.positions(rows)),
            self._one_query.attention(),
        ):
            output = self._model(
                encoder_outputs=self._cross.stand_in(rows),
                attention_mask=self._cross.hidden(rows),
                decoder_input_ids=ids,
                decoder_attention_mask=cache.hidden(rows),
                past_key_values=EncoderDecoderCache(cache, self._cross),
                use_cache=True,
                return_dict=True,
            )
        cache.advance()
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _encode(self, tasks: Sequence[Task]) -> torch.Tensor:
        """Return what the encoder makes of rows, the widest first, ``[rows, columns, size]``."""
        encoder = self._model.get_encoder()
        made: list[torch.Tensor] = []
        for part in _parts(tasks, self._budget):
            inputs, mask = self._encoder_inputs(part)
            with self._hooks.rows(Mix([task.lane.modules for task in part])):
                if "input_ids" not in inputs:
                    inputs = {"inputs_embeds": self._with_prompts(part, inputs["ids"])}
                output = encoder(**inputs, attention_mask=mask, return_dict=True)
            made.append(output.last_hidden_state)
        if len(made) == 1:
            return made[0]
        first = made[0]
        encoded = first.new_zeros(len(tasks), *first.shape[1:])
        at = 0
        for states in made:
            encoded[at : at + len(states), : states.shape[1]] = states
            at += len(states)
        return encoded

    def _begin(
        self, tasks: Sequence[Task], encoded: torch.Tensor, slots: Sequence[int]
    ) -> torch.Tensor:
        """Run the decoder's first token, and put what it leaves into slots; return the logits."""
        device = self._model.device
        starts = [[task.lane.plan.decoder_start] for task in tasks]
        cache = EncoderDecoderCache(self._prefixes(tasks), DynamicCache())
        mix = Mix([task.lane.modules for task in tasks])
        with self._hooks.rows(mix), self._one_query.attention():
            output = self._model(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
                attention_mask=_mask(tasks, device),
                decoder_input_ids=torch.tensor(starts, device=device),
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
            )
        for row, (task, slot) in enumerate(zip(tasks, slots, strict=True)):
            width = _width(task)
            self._cache.place(slot, [_row(cache.self_attention_cache, row, _before(task) + 1)])
            self._cross.place(slot, _row(cache.cross_attention_cache, row, width))
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _prefixes(self, tasks: Sequence[Task]) -> DynamicCache:
        """Return a cache with the given keys and values, equally many for each task."""
        cache = DynamicCache()
        prefixes = [soft.prefix for task in tasks if (soft := task.lane.soft) and soft.prefix]
        if prefixes:
            for layer in range(self._layers):
                keys = torch.stack([prefix.keys[layer] for prefix in prefixes])
                values = torch.stack([prefix.values[layer] for prefix in prefixes])
                cache.update(keys, values, layer)
        return cache

    def _encoder_inputs(
        self, tasks: Sequence[Task]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return ids under ``ids`` where virtual tokens come before them, and the mask."""
        device = self._model.device
        longest = max(len(task.ids) for task in tasks)
        padded = [[*task.ids, *[task.ids[-1]] * (longest - len(task.ids))] for task in tasks]
        soft = any(_width(task) > len(task.ids) for task in tasks)
        name = "ids" if soft else "input_ids"
        return {name: torch.tensor(padded, device=device)}, _mask(tasks, device)

    def _with_prompts(self, tasks: Sequence[Task], ids: torch.Tensor) -> torch.Tensor:
        """Return embeddings of ``virtual tokens | input | padding``."""
        embedded: torch.Tensor = self._embed(ids)
        width = max(_width(task) for task in tasks)
        joined = embedded.new_zeros(len(tasks), width, embedded.shape[2])
        for row, task in enumerate(tasks):
            at, own = 0, embedded[row, : len(task.ids)]
            if task.lane.soft and task.lane.soft.prompt is not None:
                at = task.lane.soft.prompt.shape[0]
                joined[row, :at] = task.lane.soft.prompt
            joined[row, at : at + len(own)] = own
        return joined


class _Positions:
    """Gives a decoder with learned or sinusoidal positions those of each row."""

    def __init__(self, model: Any) -> None:
        self._module = getattr(model.get_decoder(), "embed_positions", None)

    @contextmanager
    def given(self, positions: torch.Tensor) -> Iterator[None]:
        """Use these positions, ``[rows, 1]``, while in the block."""
        if self._module is None:
            yield
            return

        def look_up(module: Any, args: tuple[Any, ...], options: dict[str, Any], _: Any) -> Any:
            # It numbers all rows alike; asked for the rows' positions as if they were one row's,
            # it gives one embedding each.
            options = {**options, "position_ids": positions[:, 0]}
            embedded: torch.Tensor = module.forward(*args, **options)
            return embedded.reshape(len(positions), 1, -1)

        handle = self._module.register_forward_hook(look_up, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _width(task: Task) -> int:
    """Return the tokens that the encoder sees of a row."""
    soft = task.lane.soft
    return len(task.ids) + (len(soft.prompt) if soft and soft.prompt is not None else 0)


def _mask(tasks: Sequence[Task], device: torch.device) -> torch.Tensor:
    """Return 1 where a row has a token, ``[rows, columns]``."""
    widths = torch.tensor([_width(task) for task in tasks], device=device)
    columns = torch.arange(int(widths.max()), device=device)
    return (columns[None] < widths[:, None]).long()


def _groups(tasks: Sequence[Task]) -> list[list[Task]]:
    """Return rows whose decoders begin in the same column together, the widest first.

    With the widest first there is room for all others.
    """
    groups: dict[int, list[Task]] = {}
    for task in tasks:
        groups.setdefault(_before(task), []).append(task)
    return [sorted(group, key=_width, reverse=True) for group in groups.values()]


def _parts(tasks: Sequence[Task], budget: int) -> Iterator[list[Task]]:
    """Yield rows, the widest first, so that no part has more tokens, padding included."""
    part: list[Task] = []
    for task in tasks:
        if part and (len(part) + 1) * _width(part[0]) > budget:
            yield part
            part = []
        part.append(task)
    yield part


def _before(task: Task) -> int:
    """Return the columns that come before the decoder's first token."""
    soft = task.lane.soft
    return soft.virtual_tokens if soft and soft.prefix is not None else 0


def _row(cache: Any, row: int, length: int) -> States:
    return States(
        tuple(layer.keys[row, :, :length] for layer in cache.layers),
        tuple(layer.values[row, :, :length] for layer in cache.layers),
    )
