"""The scoring loop, which does not know where predictions come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from dovetail.scoring.checkpoint import PartialOutput
from dovetail.scoring.prepare import PreparedRow, Prompt, Prompter
from dovetail.scoring.rows import Chunk
from dovetail.scoring.writers import Encoder

__all__ = ["ADDED_COLUMNS", "Model", "Prediction", "Progress", "predict", "run"]

ADDED_COLUMNS = ("prediction", "adapter", "payload_digest", "base_model", "error")
"""Columns that scoring adds to each row, without their prefix."""

Progress: TypeAlias = Callable[[int, int | None, int], None]
"""Called with the rows done, all rows or None, and the rows that failed."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model wrote for one prompt, or why it wrote nothing; one of the two is None."""

    text: str | None
    error: str | None = None


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
            prompts: What to complete.
            offset: Position in the whole job of the chunk that they come from; it makes sampling
                differ between chunks and agree between runs.
            tick: Called for each prediction as soon as it is made, in any order.
        """
        ...


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
    given, made = iter(failed), iter(model.predict(prompts, offset=offset, tick=tick))
    return [next(given if row.prompt is None else made) for row in rows]


def run(
    chunks: Iterable[Chunk],
    *,
    prompter: Prompter,
    model: Model,
    encoder: Encoder,
    output: PartialOutput,
    prefix: str = "",
    total: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Score chunks and append each when it is whole.

    A chunk is one call of the model and one checkpoint. So a resumed job makes the same calls that
    an undisturbed one would have made, and its result is the same even where the arithmetic of a
    batch depends on what else is in it.
    """
    done, failed = output.rows, output.failed

    def tick(result: Prediction) -> None:
        nonlocal done, failed
        done += 1
        failed += result.error is not None
        if progress is not None:
            progress(done, total, failed)

    for chunk in chunks:
        rows = [prompter.prepare(row) for row in chunk.python_rows(prompter.columns)]
        results = predict(rows, model, offset=chunk.start, tick=tick)
        added = _added(rows, results, fingerprint=model.fingerprint, prefix=prefix)
        output.append(encoder.encode(chunk, added), rows=len(rows), failed=failed - output.failed)


def _added(
    rows: Sequence[PreparedRow], results: Sequence[Prediction], *, fingerprint: str, prefix: str
) -> dict[str, list[str | None]]:
    versions = [row.version for row in rows]
    columns: tuple[list[str | None], ...] = (
        [result.text if result.error is None else None for result in results],
        [None if version is None else str(version.reference) for version in versions],
        [None if version is None else version.payload_digest for version in versions],
        [fingerprint] * len(rows),
        [result.error for result in results],
    )
    return {f"{prefix}{name}": cells for name, cells in zip(ADDED_COLUMNS, columns, strict=True)}
