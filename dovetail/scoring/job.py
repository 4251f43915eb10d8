"""What a batch job is told, and what it tells when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dovetail.errors import InvalidInput
from dovetail.loader.options import check_options

__all__ = ["ScoreJob", "ScoreReport"]

CHECKPOINT_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """What to score, with what, and where to put it.

    Attributes:
        input: File of rows: JSONL or CSV, also with ``.gz``, or Parquet.
        output: File to write: JSONL, CSV or Parquet.
        reference: Version for all rows; None with no ``adapter_column`` is the bare base model.
        adapter_column: Column that holds each row's reference.
        template: Template for all rows, instead of those of the versions.
        text_column: Column that is the whole prompt, instead of a template.
        base: Directory, registered name or hub name of the base model for all rows; where the
            registry last saw that of each row's adapter if None.
        input_format: ``jsonl``, ``csv`` or ``parquet`` where the suffix does not tell.
        output_format: Likewise.
        keep_columns: Input columns to write; all if None.
        prefix: Put before the names of the added columns.
        batch_size: Rows in one forward pass, at most.
        max_new_tokens: Limit for all rows, instead of the versions' own.
        generation: Other generation options; ``seed`` makes sampling repeatable. Like the limit,
            they do not concern rows that are classified.
        resume: Go on with a partial result, if there is one.
        overwrite: Replace what is there.
        limit: Score only the first rows.
        checkpoint_every: Rows between two checkpoints: as many, at most, are scored again after an
            interruption, or twice as many where rows need several base models.
        allow_base_mismatch: Use adapters on weights that they were not trained on.
        device: Where the model runs.
        dtype: Type to compute in; the checkpoint's own if None.
    """

    input: Path
    output: Path
    reference: str | None = None
    adapter_column: str | None = None
    template: str | None = None
    text_column: str | None = None
    base: str | None = None
    input_format: str | None = None
    output_format: str | None = None
    keep_columns: tuple[str, ...] | None = None
    prefix: str = ""
    batch_size: int = 16
    max_new_tokens: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    overwrite: bool = False
    limit: int | None = None
    checkpoint_every: int = CHECKPOINT_ROWS
    allow_base_mismatch: bool = False
    device: str = "cpu"
    dtype: str | None = None

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be the same when the job is resumed.

        The batch size is not one of them: a row does not depend on it, and with a smaller one a
        job that ran out of memory goes on.
        """
        settings = asdict(self)
        for name in ("input", "output", "batch_size", "resume", "overwrite"):
            del settings[name]
        kept = self.keep_columns
        return {**settings, "keep_columns": None if kept is None else list(kept)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """What a job did.

    Attributes:
        rows: Rows in the output.
        failed: How many of them have an error instead of a prediction.
        output: The file.
        references: What each given reference was resolved to, ``name/7``.
        base_model: Fingerprint of the weights it ran on; None where there were several, or none.
        base_models: How many rows each base model scored, by the fingerprint of its weights.
        base_mismatches: Versions that were trained on other weights, used because it was allowed.
        reference_path: Versions of which rows ran through PEFT instead of the loader's own engine,
            by this run or the one before it: all that classify, and kinds that the engine does not
            apply itself.
        seconds: How long this run took.
        resumed_at: Rows that were there when this run took over, or None.
    """

    rows: int
    failed: int
    output: Path
    references: Mapping[str, str]
    base_model: str | None
    base_models: Mapping[str, int]
    base_mismatches: tuple[str, ...]
    reference_path: tuple[str, ...]
    seconds: float
    resumed_at: int | None


def check_job(job: ScoreJob) -> None:
    """Check what can be checked before any file is opened.

    Raises:
        InvalidInput: Settings exclude one another, or a value is out of range.
    """
    if job.reference is not None and job.adapter_column is not None:
        raise InvalidInput("reference and adapter_column are both given; give one of them")
    for name in ("batch_size", "checkpoint_every", "limit", "max_new_tokens"):
        value = getattr(job, name)
        if value is not None and value < 1:
            raise InvalidInput(f"{name} is {value}; it must be at least 1", value=value)
    check_options(
        {name: value for name, value in job.generation.items() if name != "seed"},
        source="the job",
    )
    if job.output.suffix.lower() == ".gz":
        raise InvalidInput("the output cannot be .gz: it grows in checkpoints; compress it after")
    if job.output.exists() and job.input.exists() and job.output.samefile(job.input):
        raise InvalidInput(f"input and output are the same file {str(job.input)!r}")
