"""Predictions of one base model, kept until those of the others are there.

Where the rows of a file need several base models, one is opened after the other, and each goes over
the whole file. What it makes of its rows goes into a spool; when all spools are whole, the rows are
written in their order. So each base model is loaded once, and no two of them are in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from dovetail.errors import StorageError
from dovetail.scoring.engine import Model, Prediction, Tally, predict
from dovetail.scoring.growing import GrowingFile
from dovetail.scoring.prepare import PreparedRow, Prompter
from dovetail.scoring.rows import Chunk

__all__ = ["Spool", "SpooledRows", "fill"]


class Spool:
    """The predictions for the rows of one base model, in their order.

    Its first line names the weights. The others are ``[position in the input, text, error,
    whether it ran through PEFT]``.

    Args:
        file: Where they are kept.
    """

    def __init__(self, file: GrowingFile) -> None:
        self._file = file

    @property
    def passed(self) -> int:
        """Rows of the input that are dealt with: scored here, or left to other base models."""
        return self._file.checkpoint.rows

    @property
    def failed(self) -> int:
        """Rows in it that have an error."""
        return self._file.checkpoint.failed

    @property
    def fingerprint(self) -> str | None:
        """The weights, or None before they are known."""
        if not self._file.checkpoint.size:
            return None
        with self._file.path.open("rb") as stream:
            found: str = json.loads(stream.readline())
        return found

    def begin(self, fingerprint: str) -> None:
        """Make ready for `append`; a new spool is for these weights, a resumed one is cut."""
        if not self._file.checkpoint.size:
            self._file.start(_line(fingerprint))
        self._file.open()

    def append(self, rows: Sequence[tuple[int, Prediction]], *, passed: int) -> None:
        """Add predictions and return when they are safe on the disk.

        Args:
            rows: Positions in the input, and what was made of these rows.
            passed: Rows of the input that are dealt with now.
        """
        self._file.append(
            b"".join(_line([at, made.text, made.error, made.by_reference]) for at, made in rows),
            rows=passed - self.passed,
            failed=sum(made.error is not None for _, made in rows),
        )

    def read(self) -> Iterator[tuple[int, Prediction]]:
        """Yield positions and predictions, as far as they are safe."""
        left = self._file.checkpoint.size
        if not left:
            return
        with self._file.path.open("rb") as stream:
            left -= len(stream.readline())
            while left > 0:
                line = stream.readline()
                left -= len(line)
                at, *made = json.loads(line)
                yield at, Prediction(*made)

    def count(self) -> int:
        """Return how many rows are in it."""
        return sum(1 for _ in self.read())

    def close(self) -> None:
        """Let go of the file; it can still be read."""
        self._file.close()


def fill(
    spool: Spool,
    chunks: Iterable[Chunk],
    *,
    prompter: Prompter,
    belongs: Callable[[PreparedRow], bool],
    model: Model,
    at_least: int,
    total: int,
    tally: Tally,
) -> None:
    """Score the rows of one base model into its spool.

    Rows are gathered over as many chunks as it takes until there are enough for one call of the
    model and one checkpoint. A checkpoint is at the end of a chunk, so a resumed job gathers the
    same rows as an undisturbed one.

    Args:
        spool: Where predictions go; it has begun.
        chunks: The rows of the input that it has not passed.
        prompter: Makes prompts of them.
        belongs: Tells the rows of this base model from others.
        model: What scores them.
        at_least: Rows for one call of the model, unless the input ends.
        total: Rows of the input.
        tally: Counts the rows.
    """
    held: list[tuple[int, PreparedRow]] = []
    for chunk in chunks:
        rows = map(prompter.prepare, chunk.python_rows(prompter.columns))
        held += [(at, row) for at, row in enumerate(rows, chunk.start) if belongs(row)]
        passed = chunk.start + len(chunk)
        if len(held) >= at_least or passed == total:
            positions = [at for at, _ in held]
            offset = positions[0] if positions else passed
            made = predict([row for _, row in held], model, offset=offset, tick=tally.tick)
            spool.append(list(zip(positions, made, strict=True)), passed=passed)
            held = []


class SpooledRows:
    """Hands out what was spooled, row by row.

    Args:
        spools: The spool of each base model, by the fingerprint that its versions name.
        start: First row that will be asked for.
    """

    def __init__(self, spools: Mapping[str, Spool], *, start: int) -> None:
        self._readers = {
            base: (entry for entry in spool.read() if entry[0] >= start)
            for base, spool in spools.items()
        }

    def take(self, rows: Sequence[PreparedRow], *, offset: int) -> list[Prediction]:
        """Return the predictions for rows that follow on those taken before.

        Args:
            rows: The rows.
            offset: Position of the first one in the input.

        Raises:
            StorageError: A spool is not one of these rows.
        """
        return [self._take(row, at) for at, row in enumerate(rows, offset)]

    def _take(self, row: PreparedRow, position: int) -> Prediction:
        if row.version is None:
            return Prediction(None, row.error)
        found, made = next(self._readers[row.version.base_model], (None, None))
        if made is None or found != position:
            raise StorageError(
                f"the partial result has row {found} where row {position} should be; start over "
                "with overwrite=True (--overwrite)"
            )
        return made


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"
