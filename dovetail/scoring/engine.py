"""The scoring loop, which does not know where predictions come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from dovetail.scoring.checkpoint import PartialOutput
from dovetail.scoring.prepare import PreparedRow, Prompt, Prompter
from dovetail.scoring.rows import Chunk
from dovetail.scoring.writers import Encoder

__all__ = [
    "ADDED_COLUMNS",
    "Model",
    "Prediction",
    "Progress",
    "Score",
    "Tally",
    "predict",
    "run",
]

ADDED_COLUMNS = ("prediction", "adapter", "payload_digest", "base_model", "error")
"""Columns that scoring adds to each row, without their prefix."""

Progress: TypeAlias = Callable[[int, int | None, int], None]
"""Called with the rows done, all rows or None, and the rows that failed."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What came of one prompt.

    Attributes:
        text: What the model wrote, or the label that it chose; None where there is an error.
        error: Why there is no text, or None.
        by_reference: Whether the row ran through PEFT instead of the loader's own engine.
    """

    text: str | None
    error: str | None = None
    by_reference: bool = False


class Score(Protocol):
    """Gives the predictions for rows."""

    def __call__(self, rows: Sequence[PreparedRow], *, offset: int) -> Sequence[Prediction]:
        """Return one prediction per row; ``offset`` is the position of the first in the job."""
        ...


class Model(Protocol):
    """A source of predictions."""

    @property
    def fingerprint(self) -> str:
        """Identify the base model's weights."""
        ...

    def predict(
        self, prompts: Sequence[Prompt], *, offset: int, tick: Callable[[Prediction], None]
    ) -> Iterable[Prediction]:
        """Yield one prediction per prompt, in order.

        Args:
            prompts: What to complete or to classify.
            offset: Position in the whole job of the chunk that they come from; it makes sampling
                differ between chunks and agree between runs.
            tick: Called for each prediction as soon as it is made, in any order.
        """
        ...


class Tally:
    """Counts rows as they are done, and tells it.

    Args:
        done: Rows that were done before.
        failed: How many of them have an error.
        total: All rows, or None.
        progress: Whom to tell, or None.
    """

    def __init__(
        self, *, done: int = 0, failed: int = 0, total: int | None, progress: Progress | None
    ) -> None:
        self._done = done
        self._failed = failed
        self._total = total
        self._progress = progress

    def tick(self, result: Prediction) -> None:
        """Count one row."""
        self._done += 1
        self._failed += result.error is not None
        if self._progress is not None:
            self._progress(self._done, self._total, self._failed)


def predict(
    rows: Sequence[PreparedRow],
    model: Model,
    *,
    offset: int = 0,
    tick: Callable[[Prediction], None] = lambda _: None,
) -> list[Prediction]:
    """Return a prediction for each row; rows with an error are not shown to the model.

    Args:
        rows: What to score.
        model: What scores it.
        offset: Position of the first row in the whole job.
        tick: Called for each row when it is done.
    """
    failed = [Prediction(None, row.error) for row in rows if row.prompt is None]
    for result in failed:
        tick(result)
    prompts = [row.prompt for row in rows if row.prompt is not None]
    given = iter(failed)
    made = iter(model.predict(prompts, offset=offset, tick=tick) if prompts else ())
    return [next(given if row.prompt is None else made) for row in rows]


def run(
    chunks: Iterable[Chunk],
    *,
    prompter: Prompter,
    score: Score,
    base_of: Callable[[PreparedRow], str | None],
    encoder: Encoder,
    output: PartialOutput,
    prefix: str = "",
) -> None:
    """Score chunks and append each when it is whole.

    A chunk is one call of the model and one checkpoint. So a resumed job makes the same calls that
    an undisturbed one would have made, and its result is the same even where the arithmetic of a
    batch depends on what else is in it.

    Args:
        chunks: The rows that the output lacks.
        prompter: Makes prompts of them.
        score: Where predictions come from.
        base_of: Tells the fingerprint of the weights that a row is scored on.
        encoder: Makes bytes of them.
        output: Where those go.
        prefix: Put before the names of the added columns.
    """
    for chunk in chunks:
        rows = [prompter.prepare(row) for row in chunk.python_rows(prompter.columns)]
        results = score(rows, offset=chunk.start)
        added = _added(rows, results, bases=[base_of(row) for row in rows], prefix=prefix)
        output.append(
            encoder.encode(chunk, added),
            rows=len(rows),
            failed=sum(result.error is not None for result in results),
            reference_path={
                str(row.version.reference)
                for row, result in zip(rows, results, strict=True)
                if row.version is not None and result.by_reference
            },
        )


def _added(
    rows: Sequence[PreparedRow],
    results: Sequence[Prediction],
    *,
    bases: list[str | None],
    prefix: str,
) -> dict[str, list[str | None]]:
    versions = [row.version for row in rows]
    columns: tuple[list[str | None], ...] = (
        [result.text if result.error is None else None for result in results],
        [None if version is None else str(version.reference) for version in versions],
        [None if version is None else version.payload_digest for version in versions],
        bases,
        [result.error for result in results],
    )
    return {f"{prefix}{name}": cells for name, cells in zip(ADDED_COLUMNS, columns, strict=True)}
