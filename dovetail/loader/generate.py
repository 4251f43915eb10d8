"""Batches of rows: sort them by adapter and length, run them, hand them back in input order."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.loader.options import Plan, check_limit, make_plan
from dovetail.loader.quiet import generation_quiet
from dovetail.loader.routes import Batching, Route, run_plain
from dovetail.loader.rows import AttachedAdapter, Generation, Row

_WINDOW = 16

Find = Callable[[str], tuple[AttachedAdapter, Route]]


@dataclass(frozen=True, slots=True)
class _Lane:
    """What the rows of one adapter have in common."""

    adapter: AttachedAdapter | None
    route: Route | None
    plan: Plan

    @property
    def virtual_tokens(self) -> int:
        return self.route.virtual_tokens if self.route else 0

    @property
    def batching(self) -> Batching:
        return self.route.batching if self.route else "any"


@dataclass(frozen=True, slots=True)
class _Job:
    """One row, ready to run."""

    index: int
    ids: tuple[int, ...]
    limit: int
    lane: _Lane


class Generator:
    """Runs rows through one model.

    Args:
        model: The frozen transformers model.
        tokenizer: Its tokenizer.
        find: Gives the adapter and its route for a reference.
        batch_size: Rows in one forward pass, at most.
        seed: Makes sampling repeatable: row ``i`` draws with ``seed + i``, alone.
        on_done: Called for each row as soon as it is finished, in any order.
        options: Generation options of the call.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        find: Find,
        batch_size: int,
        seed: int | None,
        on_done: Callable[[Generation], None] | None,
        options: Mapping[str, Any],
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._find = find
        self._batch_size = batch_size
        self._seed = seed
        self._on_done = on_done
        self._options = options

    def run(self, rows: Iterable[Row]) -> Iterator[Generation]:
        """Yield one generation per row, in input order, reading a window of rows at a time."""
        numbered = iter(enumerate(rows))
        size = self._batch_size * _WINDOW
        while window := list(itertools.islice(numbered, size)):
            yield from self._run_window(window)

    def _run_window(self, window: list[tuple[int, Row]]) -> list[Generation]:
        lanes: dict[str | None, _Lane] = {}
        done: dict[int, Generation] = {}

        def finish(generation: Generation) -> None:
            done[generation.index] = generation
            if self._on_done is not None:
                self._on_done(generation)

        groups: dict[Any, list[_Job]] = defaultdict(list)
        for index, row in window:
            if row.adapter not in lanes:
                lanes[row.adapter] = self._lane(row.adapter)
            lane = lanes[row.adapter]
            try:
                job = self._prepare(index, row, lane)
            except InvalidRow as error:
                finish(_failed(index, lane, error))
            else:
                groups[_group_key(job)].append(job)
        for group in groups.values():
            group.sort(key=lambda job: len(job.ids), reverse=True)
            lane = group[0].lane
            single = lane.batching == "single" or self._seeded(lane)
            size = 1 if single else self._batch_size
            for start in range(0, len(group), size):
                for generation in self._run_batch(group[start : start + size]):
                    finish(generation)
        return [done[index] for index, _ in window]

    def _lane(self, reference: str | None) -> _Lane:
        adapter, route = self._find(reference) if reference is not None else (None, None)
        plan = make_plan(
            call=self._options,
            version=adapter.generation_config if adapter else {},
            model=self._model.generation_config,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return _Lane(adapter, route, plan)

    def _prepare(self, index: int, row: Row, lane: _Lane) -> _Job:
        """Tokenise one row and see that it fits.

        Raises:
            InvalidRow: It is empty or too long, or its limit is no whole number from 1.
        """
        if not isinstance(row.text, str):
            raise InvalidRow(f"the text is {type(row.text).__name__}, not a string")
        limit = lane.plan.max_new_tokens
        if row.max_new_tokens is not None:
            try:
                limit = check_limit(row.max_new_tokens, source="the row")
            except InvalidInput as error:
                raise InvalidRow(error.message) from error
        encoded = self._tokenizer(row.text, return_special_tokens_mask=True, verbose=False)
        if all(encoded["special_tokens_mask"]):
            raise InvalidRow(
                f"the text {row.text[:40]!r} is empty for this tokenizer; there is nothing to "
                "complete"
            )
        job = _Job(index, tuple(encoded["input_ids"]), limit, lane)
        self._check_length(job)
        return job

    def _check_length(self, job: _Job) -> None:
        config = self._model.config
        room = getattr(config.get_text_config(), "max_position_embeddings", None)
        if room is None:
            return
        virtual = job.lane.virtual_tokens
        taken = virtual + len(job.ids)
        if config.is_encoder_decoder:
            if job.limit >= room:
                raise InvalidRow(
                    f"too long: max_new_tokens {job.limit} and the start token do not fit into "
                    f"the model's {room} positions"
                )
            parts = ""
        else:
            taken += job.limit
            parts = f" + {job.limit} new tokens"
        if taken > room:
            raise InvalidRow(
                f"too long: {virtual} virtual tokens + {len(job.ids)} input tokens{parts} = "
                f"{taken}, but the model has {room} positions; shorten the text or lower "
                "max_new_tokens"
            )

    def _seeded(self, lane: _Lane) -> bool:
        return lane.plan.sampled and self._seed is not None

    def _run_batch(self, jobs: list[_Job]) -> Iterator[Generation]:
        lane = jobs[0].lane
        options = {**lane.plan.options, "max_new_tokens": max(job.limit for job in jobs)}
        run = lane.route.run if lane.route else run_plain
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with (
            torch.inference_mode(),
            generation_quiet(),
            torch.random.fork_rng(devices, enabled=self._seeded(lane)),
        ):
            if self._seeded(lane):
                torch.manual_seed(self._seed + jobs[0].index)  # type: ignore[operator]  # seeded
            output = run(self._model, [job.ids for job in jobs], options).tolist()
        for job, tokens in zip(jobs, output, strict=True):
            yield self._finish(job, tokens)

    def _finish(self, job: _Job, tokens: list[int]) -> Generation:
        eos = job.lane.plan.eos
        tokens = tokens[: job.limit]
        end = next((at for at, token in enumerate(tokens) if token in eos), None)
        return Generation(
            index=job.index,
            text=self._tokenizer.decode(tokens[:end], skip_special_tokens=True),
            token_ids=tuple(tokens[:end]),
            adapter=job.lane.adapter,
            error=None,
            finish_reason="length" if end is None else "stop",
        )


def _group_key(job: _Job) -> tuple[Any, ...]:
    """Rows with equal keys may run in one batch."""
    lane = job.lane
    same_length = lane.plan.same_length or lane.batching == "equal"
    return (
        lane.adapter.reference if lane.adapter else None,
        len(job.ids) if same_length else None,
        job.limit if lane.plan.same_limit else None,
    )


def _failed(index: int, lane: _Lane, error: InvalidRow) -> Generation:
    return Generation(
        index=index,
        text="",
        token_ids=(),
        adapter=lane.adapter,
        error=error.message,
        finish_reason="error",
    )
