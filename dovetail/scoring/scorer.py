"""How a job goes over its rows: at once with one base model, or once for each of several."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidInput
from dovetail.scoring.bases import BaseGroup, base_path
from dovetail.scoring.checkpoint import PartialOutput
from dovetail.scoring.engine import Prediction, Progress, Score, Tally, predict, run
from dovetail.scoring.job import ScoreJob
from dovetail.scoring.model import ModelRequest, OpenModel
from dovetail.scoring.prepare import PreparedRow, Prompter
from dovetail.scoring.record import check_same, stamp_of
from dovetail.scoring.references import PinnedRegistry
from dovetail.scoring.rows import Chunk, RowSource
from dovetail.scoring.spool import Spool, SpooledRows, fill
from dovetail.scoring.writers import Encoder

if TYPE_CHECKING:
    from dovetail.registry.records import AdapterVersion
    from dovetail.registry.store import Registry

__all__ = ["Scorer", "rows_done", "scored_bases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Scores the rows that an output lacks.

    Attributes:
        job: What to do.
        registry: Where adapters come from.
        source: The input.
        stamp: What its file looked like when its rows were counted.
        total: Its rows.
        versions: What each reference was resolved to.
        groups: The base models, in the order in which they are opened.
        prompter: Makes prompts of rows.
        encoder: Makes bytes of scored rows.
        output: Where those go.
        record: What is kept about the job, but for the weights that are found.
        opener: Opens a base model.
        progress: Whom to tell of each row, or None.
    """

    job: ScoreJob
    registry: Registry
    source: RowSource
    stamp: tuple[int, int]
    total: int
    versions: Mapping[str, AdapterVersion]
    groups: Sequence[BaseGroup]
    prompter: Prompter
    encoder: Encoder
    output: PartialOutput
    record: Mapping[str, Mapping[str, Any]]
    opener: OpenModel
    progress: Progress | None

    def run(self) -> None:
        """Score the rows.

        Raises:
            InvalidInput: The input was changed meanwhile, or the job was begun on other weights.
        """
        if len(self.groups) == 1:
            self._with_one_base(self.groups[0])
        else:
            self._with_several_bases()
        if self.output.rows != self.total:
            raise self._changed()
        self._check_unchanged()

    def _with_one_base(self, group: BaseGroup) -> None:
        """Write rows as they are scored."""
        (request,) = self._requests([group])
        output = self.output
        with self.opener(request) as model:
            fingerprint = model.fingerprint
            self._begin(fingerprint)
            tally = self._tally(done=output.rows, failed=output.failed)
            unnamed = self.job.adapter_column is not None
            self._run(
                partial(predict, model=model, tick=tally.tick),
                lambda row: None if unnamed and row.version is None else fingerprint,
            )

    def _with_several_bases(self) -> None:
        """Let each base model score its rows, then write all in their order."""
        found = spools_of(self.groups, self.output)
        spools = {
            str(group.expected): spool for group, spool in zip(self.groups, found, strict=True)
        }
        pending = [g for g in self.groups if spools[str(g.expected)].passed < self.total]
        tally = self._tally(
            done=sum(spool.count() for spool in spools.values()),
            failed=sum(spool.failed for spool in spools.values()),
        )
        for _ in range(self.total - sum(group.rows for group in self.groups)):
            tally.tick(Prediction(None, "the row names no adapter"))
        for group, request in zip(pending, self._requests(pending), strict=True):
            spool = spools[str(group.expected)]
            with self.opener(request) as model, contextlib.closing(spool):
                self._begin(None)
                known = spool.fingerprint or model.fingerprint
                check_same({"base_model": known}, {"base_model": model.fingerprint})
                spool.begin(model.fingerprint)
                fill(
                    spool,
                    self._chunks(spool.passed),
                    prompter=self.prompter,
                    belongs=partial(_belongs, base=group.expected),
                    model=model,
                    at_least=self.job.checkpoint_every,
                    total=self.total,
                    tally=tally,
                )
            self._check_unchanged()
            if spool.passed != self.total:
                raise self._changed()
        self._begin(None)
        fingerprints = {base: spool.fingerprint for base, spool in spools.items()}
        self._run(
            SpooledRows(spools, start=self.output.rows).take,
            lambda row: None if row.version is None else fingerprints[row.version.base_model],
        )

    def _run(self, score: Score, base_of: Callable[[PreparedRow], str | None]) -> None:
        run(
            self._chunks(self.output.rows),
            prompter=self.prompter,
            score=score,
            base_of=base_of,
            encoder=self.encoder,
            output=self.output,
            prefix=self.job.prefix,
        )

    def _requests(self, groups: Sequence[BaseGroup]) -> list[ModelRequest]:
        """Find all files that are needed, before the first base model is opened."""
        job = self.job
        needed = {adapter for group in groups for adapter in group.adapters}
        paths = [
            base_path(self.registry, base=job.base, expected=group.expected) for group in groups
        ]
        ours = [v for v in self.versions.values() if str(v.reference) in needed]
        registry: Any = PinnedRegistry(self.registry, ours)
        limit = {} if job.max_new_tokens is None else {"max_new_tokens": job.max_new_tokens}
        return [
            ModelRequest(
                registry=registry,
                base=path,
                expected=group.expected,
                adapters=list(group.adapters),
                batch_size=job.batch_size,
                generation={**job.generation, **limit},
                allow_base_mismatch=job.allow_base_mismatch,
                device=job.device,
                dtype=job.dtype,
            )
            for group, path in zip(groups, paths, strict=True)
        ]

    def _begin(self, fingerprint: str | None) -> None:
        """Record the job, or see that it is the one that was begun."""
        found = {**self.record["found"], "base_model": fingerprint}
        if self.output.job is not None:
            check_same(self.output.job["found"], found)
        self.output.begin({**self.record, "found": found}, header=self.encoder.header())

    def _tally(self, *, done: int, failed: int) -> Tally:
        return Tally(done=done, failed=failed, total=self.total, progress=self.progress)

    def _chunks(self, start: int) -> Iterator[Chunk]:
        return self.source.chunks(self.job.checkpoint_every, start=start, limit=self.total)

    def _check_unchanged(self) -> None:
        if stamp_of(self.source.path) != self.stamp:
            raise self._changed()

    def _changed(self) -> InvalidInput:
        path = str(self.source.path)
        return InvalidInput(
            f"input {path!r} was changed while it was scored; start over with overwrite=True "
            "(--overwrite)",
            path=path,
        )


def spools_of(groups: Sequence[BaseGroup], output: PartialOutput) -> list[Spool]:
    """Return the spool of each base model, as far as it was filled; none where there is but one."""
    if len(groups) == 1:
        return []
    return [Spool(output.part(f"base-{number}")) for number in range(len(groups))]


def rows_done(groups: Sequence[BaseGroup], output: PartialOutput) -> int:
    """Return how many rows need not be scored again."""
    return max(output.rows, sum(spool.count() for spool in spools_of(groups, output)))


def scored_bases(groups: Sequence[BaseGroup], output: PartialOutput) -> dict[str, int]:
    """Return how many rows each base model scored, by the fingerprint of its weights."""
    fingerprints = [spool.fingerprint for spool in spools_of(groups, output)]
    rows: Counter[str] = Counter()
    for group, found in zip(
        groups, fingerprints or [output.recorded["found"]["base_model"]], strict=False
    ):
        rows[str(found)] += group.rows
    return dict(rows)


def _belongs(row: PreparedRow, *, base: str | None) -> bool:
    return row.version is not None and row.version.base_model == base
