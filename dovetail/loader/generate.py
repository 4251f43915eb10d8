"""Jobs of many rows: tokenise them, run each by the way that its adapters need, hand them back."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.loader.engine.memory import is_out_of_memory, release
from dovetail.loader.engine.running import RunningBatch
from dovetail.loader.engine.stopping import StopTexts
from dovetail.loader.engine.task import Finished, Running, Task
from dovetail.loader.engine.whole import run_whole
from dovetail.loader.lane import Lane
from dovetail.loader.options import check_limit, make_plan
from dovetail.loader.quiet import generation_quiet
from dovetail.loader.rows import Generation, Row

if TYPE_CHECKING:
    from dovetail.loader.bank import Mounted
    from dovetail.loader.engine.core import Core

logger = logging.getLogger(__name__)

_WINDOW = 16


class Generator:
    """Runs rows through one model.

    Rows whose adapters the bank applies itself and whose options allow it run in one batch that
    rows enter and leave at any step. The others run in batches of their own: in transformers' loop
    with the bank applied, or through PEFT.

    Args:
        core: What runs batches on the model.
        tokenizer: The model's tokenizer.
        find: Gives the adapters of a row, ready to run.
        batch_size: Rows in one forward pass, at most.
        seed: Row ``i`` draws with ``seed + i``; None draws anew every time.
        ordered: Yield in input order, or as rows finish.
        on_done: Called for each row as soon as it is finished, in any order.
        options: Generation options of the call.
        prefill_tokens: Tokens in one pass of entering rows, at most.
        lock: Held during each pass, so that adapters are not changed under it.
    """

    def __init__(
        self,
        *,
        core: Core,
        tokenizer: Any,
        find: Callable[[str | tuple[str, ...] | None], Mounted],
        batch_size: int,
        seed: int | None,
        ordered: bool,
        on_done: Callable[[Generation], None] | None,
        options: Mapping[str, Any],
        prefill_tokens: int,
        lock: threading.RLock,
    ) -> None:
        self._core, self._model, self._tokenizer = core, core.model, tokenizer
        self._find, self._options = find, options
        self._together, self._seed = batch_size, seed
        self._ordered, self._on_done, self._lock = ordered, on_done, lock
        self._stop = StopTexts(tokenizer)
        self._window = batch_size * _WINDOW
        self._newest = 0
        runner = core.runner(prefill_tokens)
        self._batch = runner and RunningBatch(
            runner,
            slots=batch_size,
            seed=int(torch.randint(2**62, ())) if seed is None else seed,
            stops=self._stop.ends,
            patience=self._window,
        )
        self._groups: dict[Any, list[Task]] = defaultdict(list)
        self._lanes: dict[Any, Lane] = {}
        self._done: list[Generation] = []
        self._pending = 0

    def run(self, rows: Iterable[Row]) -> Iterator[Generation]:
        """Yield one generation per row, reading a window of rows ahead."""
        try:
            yield from self._run(enumerate(rows))
        finally:
            self._let_go()

    def _run(self, source: Iterator[tuple[int, Row]]) -> Iterator[Generation]:
        early: dict[int, Generation] = {}
        next_index, more = 0, True
        while more or self._pending or early:
            while more and self._pending + len(early) < self._window:
                more = self._take(source)
            done, self._done = self._done, []
            self._pending -= len(done)
            for generation in done:
                if self._on_done is not None:
                    self._on_done(generation)
                if self._ordered:
                    early[generation.index] = generation
                else:
                    yield generation
            while next_index in early:
                yield early.pop(next_index)
                next_index += 1
            if self._pending:
                self._advance()

    def _take(self, source: Iterator[tuple[int, Row]]) -> bool:
        """Read one row; return False at the end."""
        index, row = next(source, (-1, None))
        if row is None:
            return False
        self._pending, self._newest = self._pending + 1, index
        if row.adapter not in self._lanes:
            self._lanes[row.adapter] = self._lane(row)
        lane = self._lanes[row.adapter]
        try:
            task = self._prepare(index, row, lane)
        except InvalidRow as error:
            failed = Finished(Task(index, (), 0, lane), (), "error", error.message)
            self._done.append(self._generation(failed))
            return True
        if self._batch and lane.route is None and lane.plan.stepwise:
            self._batch.add(task)
        else:
            self._groups[self._group_key(task)].append(task)
        return True

    def _advance(self) -> None:
        """Make one step of the running batch; where nothing runs, run a group of rows whole."""
        with self._lock, torch.inference_mode():
            if self._batch and self._batch.unfinished and not self._overdue():
                finished = self._batch.step()
            else:
                finished = self._run_group()
        self._done += map(self._generation, finished)

    def _overdue(self) -> bool:
        """Tell whether rows that do not run in the running batch have waited long enough."""
        oldest = (group[0].index for group in self._groups.values())
        return self._newest - min(oldest, default=self._newest) > self._window

    def _run_group(self) -> list[Finished]:
        if self._overdue():
            key = min(self._groups, key=lambda key: self._groups[key][0].index)
        else:
            key = max(self._groups, key=lambda key: len(self._groups[key]))
        group = sorted(self._groups.pop(key), key=lambda task: len(task.ids), reverse=True)
        lane = group[0].lane
        single = (lane.route or self._core).batching == "single" or (
            lane.plan.sampled and self._seed is not None
        )
        size = 1 if single else self._together
        tasks, rest = group[:size], group[size:]
        done: list[Finished] = []
        try:
            done += self._run_whole(tasks)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not done:
            done = self._halve(tasks)
            rest += () if done else tasks
        if rest:
            self._groups[key] = sorted(rest, key=lambda task: task.index)
        return done

    def _halve(self, tasks: Sequence[Task]) -> list[Finished]:
        """Let half as many rows be together; one alone that memory has no room for has failed."""
        release(self._model.device)
        if len(tasks) == 1:
            (task,) = tasks
            reason = (
                "there is not enough memory for this row alone, of "
                f"{task.lane.virtual_tokens + len(task.ids)} tokens and up to {task.limit} new "
                "ones; lower max_new_tokens or num_beams"
            )
            return [Finished(task, (), "error", reason)]
        self._together = len(tasks) // 2
        logger.warning("out of memory: going on with %d rows at once", self._together)
        return []

    def _run_whole(self, tasks: Sequence[Task]) -> Iterator[Finished]:
        lane = tasks[0].lane
        seeded = lane.plan.sampled and self._seed is not None
        options = {**lane.plan.options, "max_new_tokens": max(task.limit for task in tasks)}
        if lane.plan.stop_strings:
            options["stop_strings"] = None
            options["stopping_criteria"] = [self._stop.criterion(lane.plan.stop_strings)]
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with generation_quiet(), torch.random.fork_rng(devices, enabled=seeded):
            if seeded:
                torch.manual_seed(self._seed + tasks[0].index)  # type: ignore[operator]  # seeded
            if lane.route is not None:
                output = lane.route.run(self._model, [task.ids for task in tasks], options)
            else:
                output = run_whole(self._model, tasks, options, hooks=self._core.hooks)
        for task, tokens in zip(tasks, output.tolist(), strict=True):
            yield self._cut(task, tokens)

    def _cut(self, task: Task, tokens: list[int]) -> Finished:
        """Leave out what stands behind the end of a row in a batch that stayed together."""
        plan = task.lane.plan
        row = Running(task)
        for token in tokens[: task.limit]:
            if token in plan.eos:
                return Finished(task, row.tokens, "stop")
            row.tokens.append(token)
            if plan.stop_strings and self._stop.ends(row):
                return Finished(task, row.tokens, "stop")
        return Finished(task, row.tokens, "length")

    def _lane(self, row: Row) -> Lane:
        mounted = self._find(row.adapter)
        version: dict[str, Any] = {}
        for adapter in mounted.adapters:
            version |= adapter.generation_config
        plan = make_plan(
            call=self._options,
            version=version,
            model=self._model,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        stays = self._batch is None or not plan.stepwise
        if stays and any(native.prefix for native in mounted.natives):
            return Lane(mounted.adapters, (), mounted.reference(), plan)
        with self._lock:
            # An adapter that is detached meanwhile goes on acting on this job's rows.
            for native in mounted.natives:
                self._core.hooks.watch(native)
        return Lane(mounted.adapters, mounted.natives, mounted.route, plan)

    def _let_go(self) -> None:
        with self._lock:
            for lane in self._lanes.values():
                for native in lane.natives:
                    self._core.hooks.unwatch(native)
        self._lanes.clear()

    def _prepare(self, index: int, row: Row, lane: Lane) -> Task:
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
        task = Task(index, tuple(encoded["input_ids"]), limit, lane)
        self._check_length(task)
        return task

    def _check_length(self, task: Task) -> None:
        config = self._model.config
        room = getattr(config.get_text_config(), "max_position_embeddings", None)
        if room is None or room < 1:
            return
        virtual = task.lane.virtual_tokens
        taken = virtual + len(task.ids)
        if config.is_encoder_decoder:
            if task.limit >= room:
                raise InvalidRow(
                    f"too long: max_new_tokens {task.limit} and the start token do not fit into "
                    f"the model's {room} positions"
                )
            parts = ""
        else:
            taken += task.limit
            parts = f" + {task.limit} new tokens"
        if taken > room:
            raise InvalidRow(
                f"too long: {virtual} virtual tokens + {len(task.ids)} input tokens{parts} = "
                f"{taken}, but the model has {room} positions; shorten the text or lower "
                "max_new_tokens"
            )

    def _group_key(self, task: Task) -> tuple[Any, ...]:
        """Rows with equal keys may run in one batch that stays together."""
        lane = task.lane
        same_length = lane.plan.same_length or (lane.route or self._core).batching != "any"
        return (
            tuple(adapter.reference for adapter in lane.adapters) if lane.route else None,
            (len(task.ids), lane.virtual_tokens) if same_length else None,
            task.limit if lane.plan.same_limit else None,
            repr(sorted(lane.plan.options.items())),
        )

    def _generation(self, finished: Finished) -> Generation:
        lane = finished.task.lane
        tokens = tuple(finished.tokens)
        return Generation(
            index=finished.task.index,
            text=self._tokenizer.decode(tokens, skip_special_tokens=True) if tokens else "",
            token_ids=tokens,
            adapters=lane.adapters,
            route=None if finished.error else ("reference" if lane.route else "native"),
            error=finished.error,
            finish_reason=finished.reason,
        )
