"""Classify rows, each with the head of its adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.loader.heads.batch import Batch, end_tokens
from dovetail.loader.heads.labels import as_scores, check_problem
from dovetail.loader.heads.results import Classification
from dovetail.loader.heads.running import Find, Job, Lane, Runner

if TYPE_CHECKING:
    from dovetail.loader.rows import Row, Verb


class Classifier(Runner[Classification]):
    """Classifies rows, each with the head of its adapter.

    Args:
        model: The frozen transformers model.
        tokenizer: Its tokenizer.
        find: Gives the adapter for a reference, and what `make_head` made for it; refuses adapters
            that were trained for something else.
        lock: Held during each batch, so that adapters are not changed under it.
        batch_size: Rows in one forward pass, at most.
        problem_type: What the outputs mean, as in transformers' configurations, instead of what
            is recorded; PEFT's own files do not say.

    Raises:
        InvalidInput: ``batch_size`` or ``problem_type`` cannot be used.
    """

    verb: Verb = "classify"

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        find: Find,
        lock: AbstractContextManager[Any],
        batch_size: int = 16,
        problem_type: str | None = None,
    ) -> None:
        super().__init__(
            model=model, tokenizer=tokenizer, find=find, lock=lock, batch_size=batch_size
        )
        self._problem = check_problem(problem_type)

    def _bare(self) -> Lane:
        raise InvalidInput(
            "a row without an adapter cannot be classified: the base model has no head; name a "
            "SEQ_CLS adapter in every row"
        )

    def _prepare(self, index: int, row: Row, lane: Lane) -> Job:
        job = super()._prepare(index, row, lane)
        if self._model.config.is_encoder_decoder and not self._ends(job):
            raise InvalidRow(
                "the text has no end-of-sequence token, from which this model's head reads; use a "
                "tokenizer that appends it"
            )
        return job

    def _ends(self, job: Job) -> int:
        ends = end_tokens(self._model.config)
        return sum(token in ends for token in job.ids)

    def _group_key(self, job: Job) -> tuple[Any, ...]:
        """Rows with equal keys may run in one batch; those heads want equally many ends."""
        decides = self._model.config.is_encoder_decoder
        return (*super()._group_key(job), self._ends(job) if decides else None)

    def _run_batch(self, jobs: list[Job], batch: Batch) -> Iterator[Classification]:
        head = jobs[0].lane.head
        adapter = jobs[0].lane.adapter
        if head is None or adapter is None:
            raise AssertionError("rows without an adapter are refused")
        problem = self._problem or check_problem(adapter.problem_type) or head.problem
        logits = head.logits(batch).float().cpu()
        scores = as_scores(logits, problem)
        for job, row, raw in zip(jobs, scores.tolist(), logits.tolist(), strict=True):
            best = adapter.labels[max(range(len(row)), key=row.__getitem__)]
            yield Classification(
                index=job.index,
                label=None if problem == "regression" else best,
                scores=dict(zip(adapter.labels, row, strict=True)),
                logits=tuple(raw),
                adapter=adapter,
                error=None,
                route=head.route,
            )

    def _failed(self, index: int, lane: Lane, error: str) -> Classification:
        if lane.adapter is None:
            raise AssertionError("rows without an adapter are refused")
        return Classification(
            index=index,
            label=None,
            scores={},
            logits=(),
            adapter=lane.adapter,
            error=error,
            route=None,
        )
