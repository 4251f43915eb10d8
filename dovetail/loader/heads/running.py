"""Run rows through heads: sort them by adapter and length, and hand results back in input order."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.loader.engine.memory import is_out_of_memory, release
from dovetail.loader.heads.batch import Batch, make_batch, positions
from dovetail.loader.heads.head import Head
from dovetail.loader.heads.results import Classification, Embedding
from dovetail.loader.options import check_count
from dovetail.loader.routes import Batching

if TYPE_CHECKING:
    from dovetail.loader.rows import AttachedAdapter, Row, Verb

_WINDOW = 16

Find = Callable[[str], "tuple[AttachedAdapter, Head]"]
"""Gives an adapter and its model; refuses those that were trained for something else."""

Result = TypeVar("Result", Classification, Embedding)


@dataclass(frozen=True, slots=True)
class Lane:
    """What the rows of one adapter have in common; without an adapter, of the bare base."""

    adapter: AttachedAdapter | None = None
    head: Head | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One row, ready to run."""

    index: int
    ids: tuple[int, ...]
    lane: Lane


class Runner(ABC, Generic[Result]):
    """Runs rows of mixed adapters in batches of one adapter each.

    Args:
        model: The frozen transformers model.
        tokenizer: Its tokenizer.
        find: Gives the adapter for a reference, and what `make_head` made for it; refuses adapters
            that were trained for something else.
        lock: Held during each batch, so that adapters are not changed under it.
        batch_size: Rows in one forward pass, at most.
    """

    verb: Verb

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        find: Find,
        lock: AbstractContextManager[Any],
        batch_size: int = 16,
    ) -> None:
        check_count(batch_size, name="batch_size")
        self._model = model
        self._tokenizer = tokenizer
        self._find = find
        self._lock = lock
        self._batch_size = batch_size
        self._room = positions(model)

    def run(self, rows: Iterable[Row]) -> Iterator[Result]:
        """Yield one result per row, in input order, reading a window of rows at a time.

        Raises:
            AdapterNotFound: A row names an adapter that is not attached (when it is reached).
            InvalidInput: A row's adapter was trained for something else.
        """
        numbered = iter(enumerate(rows))
        while window := list(itertools.islice(numbered, self._batch_size * _WINDOW)):
            yield from self._run_window(window)

    def _run_window(self, window: list[tuple[int, Row]]) -> list[Result]:
        lanes: dict[str | tuple[str, ...] | None, Lane] = {}
        done: dict[int, Result] = {}
        groups: dict[Any, list[Job]] = defaultdict(list)
        for index, row in window:
            if row.adapter not in lanes:
                lanes[row.adapter] = self._lane(row.adapter)
            lane = lanes[row.adapter]
            try:
                job = self._prepare(index, row, lane)
            except InvalidRow as error:
                done[index] = self._failed(index, lane, error.message)
            else:
                groups[self._group_key(job)].append(job)
        for group in groups.values():
            group.sort(key=lambda job: len(job.ids), reverse=True)
            size = 1 if _batching(group[0].lane) == "single" else self._batch_size
            for start in range(0, len(group), size):
                for result in self._run_jobs(group[start : start + size]):
                    done[result.index] = result
        return [done[index] for index, _ in window]

    def _run_jobs(self, jobs: list[Job]) -> list[Result]:
        """Run one batch, in halves where the memory does not suffice for the whole."""
        try:
            with self._lock, torch.inference_mode():
                return list(self._run_batch(jobs, make_batch(self._model, [j.ids for j in jobs])))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, whose traceback holds what the batch had taken.
        release(self._model.device)
        if len(jobs) == 1:
            reason = f"not enough memory for this row alone ({len(jobs[0].ids)} tokens)"
            return [self._failed(jobs[0].index, jobs[0].lane, reason)]
        half = len(jobs) // 2
        return self._run_jobs(jobs[:half]) + self._run_jobs(jobs[half:])

    def _lane(self, references: str | tuple[str, ...] | None) -> Lane:
        given = (references,) if isinstance(references, str) else references or ()
        if not given:
            return self._bare()
        if len(given) > 1:
            raise InvalidInput(
                f"to {self.verb} a row takes one adapter, not {', '.join(map(repr, given))}",
                adapters=given,
            )
        return Lane(*self._find(given[0]))

    def _prepare(self, index: int, row: Row, lane: Lane) -> Job:
        """Tokenise one row and see that it fits.

        Raises:
            InvalidRow: It is empty or too long.
        """
        if not isinstance(row.text, str):
            raise InvalidRow(f"the text is {type(row.text).__name__}, not a string")
        encoded = self._tokenizer(row.text, return_special_tokens_mask=True, verbose=False)
        if all(encoded["special_tokens_mask"]):
            raise InvalidRow(
                f"the text {row.text[:40]!r} is empty for this tokenizer; there is nothing to "
                f"{self.verb}"
            )
        job = Job(index, tuple(encoded["input_ids"]), lane)
        virtual = lane.head.virtual_tokens if lane.head else 0
        if self._room is not None and virtual + len(job.ids) > self._room:
            raise InvalidRow(
                f"too long: {virtual} virtual tokens + {len(job.ids)} input tokens = "
                f"{virtual + len(job.ids)}, but the model has {self._room} positions; shorten the "
                "text"
            )
        return job

    def _group_key(self, job: Job) -> tuple[Any, ...]:
        """Rows with equal keys may run in one batch."""
        return (
            job.lane.adapter.reference if job.lane.adapter else None,
            len(job.ids) if _batching(job.lane) == "equal" else None,
        )

    @abstractmethod
    def _bare(self) -> Lane:
        """Return the lane of rows without an adapter."""

    @abstractmethod
    def _run_batch(self, jobs: list[Job], batch: Batch) -> Iterable[Result]:
        """Yield the results of one batch, in its order."""

    @abstractmethod
    def _failed(self, index: int, lane: Lane, error: str) -> Result:
        """Return the result of a row that cannot be scored."""


def _batching(lane: Lane) -> Batching:
    return lane.head.batching if lane.head else "any"
