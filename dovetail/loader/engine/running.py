"""Continuous batching: finished rows leave, waiting rows enter, the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from dovetail.loader.engine.choosing import choose
from dovetail.loader.engine.memory import is_out_of_memory
from dovetail.loader.engine.task import Finished, Running, Task
from dovetail.loader.engine.waiting import Waiting
from dovetail.loader.lane import Mixture

logger = logging.getLogger(__name__)

# Rows enter together: a pass over a few tokens reads all weights, as a pass over many does.
_TOGETHER = 8  # of so many slots, one is let wait for the next


def _neighbourhood(task: Task) -> tuple[Mixture, Mixture]:
    """Sort rows so that those with the same adapters enter in one pass."""
    return task.lane.mixture, task.lane.past_key or ()


class Runner(Protocol):
    """Forward passes of one kind of model."""

    def length(self, task: Task) -> int:
        """Return how many columns a task can come to need."""

    def affordable(self, columns: int) -> int:
        """Return how many rows of so many columns fit into memory."""

    def reset(self, slots: int) -> None:
        """Forget all rows, and have so many slots."""

    def reserve(self, columns: int) -> None:
        """Make room for rows of so many columns."""

    def enter(self, tasks: Sequence[Task], slots: Sequence[int]) -> torch.Tensor:
        """Run the input of new rows, give them slots, return logits of their first tokens."""

    def compose(self, tasks: Sequence[Task | None]) -> None:
        """Say which task is in which of the first slots."""

    def move(self, source: int, target: int) -> None:
        """Give a row another slot."""

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Run the newest token of the first slots, return logits of the next ones."""


class RunningBatch:
    """A batch whose rows come and go.

    Args:
        runner: The model's forward passes.
        slots: Rows in one step, at most.
        seed: Row ``i`` draws with ``seed + i``.
        stops: Tells whether what a row wrote ends it, for rows that have stop strings.
        patience: Rows that may come after one, at most, before it goes first.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        slots: int,
        seed: int,
        stops: Callable[[Running], bool],
        patience: int,
    ) -> None:
        self._runner, self._slots = runner, slots
        self._seed, self._stops = seed, stops
        self._waiting = Waiting(patience=patience)
        self._rows: list[Running | None] = []
        self._entering: list[Task] = []
        self._done: list[Finished] = []
        self._columns = 0
        self._changed = False
        runner.reset(slots)

    @property
    def unfinished(self) -> int:
        """Rows that wait or run."""
        return len(self._waiting) + sum(row is not None for row in self._rows)

    def add(self, task: Task) -> None:
        """Let a row wait for its turn."""
        self._waiting.add(task)
        self._columns = max(self._columns, self._runner.length(task))

    def step(self) -> list[Finished]:
        """Let rows enter if there is room, and all rows write one token; return what is done.

        Where memory runs out, half as many rows go on; the others begin again later.
        """
        try:
            self._step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._shrink()
        done, self._done = self._done, []
        return done

    def _step(self) -> None:
        if self._should_fill():
            self._fill()
        if not self._waiting:
            self._close_ranks()
        if not self._rows:
            return
        if self._changed:
            self._runner.compose([row.task if row else None for row in self._rows])
            self._changed = False
        logits = self._runner.step([row.tokens[-1] if row else 0 for row in self._rows])
        for slot, token in enumerate(choose(logits, self._rows)):
            if (row := self._rows[slot]) and (finished := self._write(row, token)):
                self._done.append(finished)
                self._rows[slot] = None
                self._changed = True

    def _should_fill(self) -> bool:
        if not self._waiting:
            return False
        free = self._slots - sum(row is not None for row in self._rows)
        return free >= min(len(self._waiting), max(1, self._slots // _TOGETHER)) or not any(
            self._rows
        )

    def _fill(self) -> None:
        if not any(self._rows):
            affordable = self._runner.affordable(self._columns)
            if affordable < self._slots:
                logger.info("memory for %d rows at once, not %d", affordable, self._slots)
                self._slots = affordable
                self._runner.reset(affordable)
            self._rows = []
        running = [row.task for row in self._rows if row]
        entering = self._waiting.take(self._slots - len(running), running=running)
        self._entering = sorted(entering, key=_neighbourhood)
        # With one slot, a row is not to fail for the length of another.
        alone = self._slots == 1
        self._runner.reserve(self._runner.length(self._entering[0]) if alone else self._columns)
        slots = self._places(self._entering)
        logits = self._runner.enter(self._entering, slots)
        rows = [self._begin(task) for task in self._entering]
        for slot, row, token in zip(slots, rows, choose(logits, rows), strict=True):
            if finished := self._write(row, token):
                self._done.append(finished)
            else:
                self._put(slot, row)
        self._entering = []
        self._changed = True

    def _places(self, tasks: Sequence[Task]) -> list[int]:
        """Choose free slots, beside rows of the same mixture where there are such."""
        free = [slot for slot, row in enumerate(self._rows) if row is None]
        free += range(len(self._rows), self._slots)
        mixtures = {slot: row.task.lane.mixture for slot, row in enumerate(self._rows) if row}
        found = []
        for task in tasks:
            mixture = task.lane.mixture
            slot = next(
                (s for s in free if mixture in (mixtures.get(s - 1), mixtures.get(s + 1))), free[0]
            )
            free.remove(slot)
            mixtures[slot] = mixture
            found.append(slot)
        return found

    def _put(self, slot: int, row: Running) -> None:
        self._rows += [None] * (slot + 1 - len(self._rows))
        self._rows[slot] = row

    def _close_ranks(self) -> None:
        """Let the last rows move up into empty slots, so that no step computes those."""
        while self._rows and None in self._rows:
            row = self._rows.pop()
            if row is not None:
                slot = self._rows.index(None)
                self._runner.move(len(self._rows), slot)
                self._rows[slot] = row
            self._changed = True

    def _begin(self, task: Task) -> Running:
        if not task.lane.plan.sampled:
            return Running(task)
        return Running(task, random=torch.Generator().manual_seed(self._seed + task.index))

    def _write(self, row: Running, token: int) -> Finished | None:
        """Add a token to a row; tell whether that ended it."""
        plan = row.task.lane.plan
        if token in plan.eos:
            return Finished(row.task, row.tokens, "stop")
        row.tokens.append(token)
        if plan.stop_strings and self._stops(row):
            return Finished(row.task, row.tokens, "stop")
        if len(row.tokens) >= row.task.limit:
            return Finished(row.task, row.tokens, "length")
        return None

    def _shrink(self) -> None:
        """Begin again with half as many slots; one row alone that does not fit has failed."""
        tasks = [row.task for row in self._rows if row] + self._entering
        self._rows, self._entering = [], []
        if self._slots == 1:
            self._runner.reset(1)
            self._columns = self._waiting.longest(self._runner.length)
            self._done += [
                Finished(
                    task,
                    (),
                    "error",
                    f"there is not enough memory for this row alone, which can come to need "
                    f"{self._runner.length(task)} positions; lower max_new_tokens",
                )
                for task in tasks
            ]
            return
        self._slots = max(1, min(self._slots, len(tasks)) // 2)
        logger.warning("out of memory: going on with %d rows at once", self._slots)
        self._runner.reset(self._slots)
        for task in tasks:
            self._waiting.add(task)
