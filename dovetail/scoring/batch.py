"""Batch jobs: a file of rows in, the same rows with predictions out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from dovetail.errors import DigestMismatch, InvalidInput
from dovetail.registry.digests import digest_file
from dovetail.scoring.arrowrows import open_rows
from dovetail.scoring.checkpoint import PartialOutput
from dovetail.scoring.engine import ADDED_COLUMNS, Model, Progress, run
from dovetail.scoring.job import ScoreJob, ScoreReport, check_job
from dovetail.scoring.model import ModelRequest, open_model
from dovetail.scoring.prepare import Prompter, base_path, one_base, resolve_all
from dovetail.scoring.rows import RowSource, format_of
from dovetail.scoring.survey import Survey, survey
from dovetail.scoring.writers import Encoder, encoder_for

if TYPE_CHECKING:
    from dovetail.registry.records import AdapterVersion
    from dovetail.registry.store import Registry

__all__ = ["OpenModel", "score", "score_with"]

OpenModel: TypeAlias = Callable[[ModelRequest], AbstractContextManager[Model]]


def score(job: ScoreJob, *, registry: Registry, progress: Progress | None = None) -> ScoreReport:
    """Score a file of rows with one adapter, or with the adapter that each row names.

    References are resolved once, at the start: an alias that moves while the job runs, or before
    it is resumed, changes nothing. A row that cannot be scored gets an error in its column and
    stops nothing.

    Args:
        job: What to do.
        registry: Where adapters come from.
        progress: Called for each row with rows done, all rows, and rows failed.

    Raises:
        InvalidInput: The input cannot be read, a setting does not fit it, or a job is resumed with
            other settings or another input.
        NotFoundError: An adapter that is named does not exist.
        IncompatibleBaseModel: An adapter was trained on other weights.
        ConflictError: There is a result already, or another job writes it.
        StorageError: The output cannot be written.
    """
    return score_with(job, registry=registry, progress=progress, opener=open_model)


def score_with(
    job: ScoreJob, *, registry: Registry, progress: Progress | None = None, opener: OpenModel
) -> ScoreReport:
    """Do what `score` does with any source of predictions."""
    started = time.monotonic()
    check_job(job)
    output_format = format_of(job.output, job.output_format)
    source = open_rows(job.input, format=job.input_format)
    with PartialOutput.open(job.output, resume=job.resume, overwrite=job.overwrite) as output:
        before = output.job
        asked = {**job.identity(), "input": digest_file(job.input)}
        if before is not None:
            _check_same(before["asked"], asked)
        stamp = _stamp(job.input)
        seen = _survey(source, job, before)
        versions = _versions(registry, job, seen, before)
        prompter = Prompter(
            versions,
            adapter_column=job.adapter_column,
            template=job.template,
            text_column=job.text_column,
        )
        prompter.check_columns(seen)
        encoder = _encoder(job, output_format, source, seen)
        resumed_at = None if before is None else output.rows
        if output.rows < seen.rows:
            with opener(_request(job, registry, versions)) as model:
                found = _found(seen, versions, model.fingerprint)
                if before is not None:
                    _check_same(before["found"], found)
                output.begin({"asked": asked, "found": found}, header=encoder.header())
                run(
                    source.chunks(job.checkpoint_every, start=output.rows, limit=seen.rows),
                    prompter=prompter,
                    model=model,
                    encoder=encoder,
                    output=output,
                    prefix=job.prefix,
                    total=seen.rows,
                    progress=progress,
                )
            if _stamp(job.input) != stamp or output.rows != seen.rows:
                raise InvalidInput(
                    f"input {str(job.input)!r} was changed while it was scored; start over with "
                    "overwrite=True (--overwrite)",
                    path=str(job.input),
                )
        output.publish(encoder.finish)
        recorded = output.recorded["found"]
        return ScoreReport(
            rows=output.rows,
            failed=output.failed,
            output=job.output,
            references={
                given: version["reference"] for given, version in recorded["references"].items()
            },
            base_model=recorded["base_model"],
            base_mismatches=tuple(
                sorted(
                    {
                        version["reference"]
                        for version in recorded["references"].values()
                        if version["base_model"] != recorded["base_model"]
                    }
                )
            ),
            seconds=time.monotonic() - started,
            resumed_at=resumed_at,
        )


def _survey(source: RowSource, job: ScoreJob, before: Mapping[str, Any] | None) -> Survey:
    if before is None:
        return survey(source, limit=job.limit, adapter_column=job.adapter_column)
    known = before["found"]["survey"]
    return Survey(**{**known, "columns": tuple(known["columns"])})


def _versions(
    registry: Registry, job: ScoreJob, seen: Survey, before: Mapping[str, Any] | None
) -> dict[str, AdapterVersion]:
    """Resolve what is given; a resumed job takes the versions that it began with."""
    if before is None:
        single = [] if job.reference is None else [job.reference]
        return resolve_all(registry, seen.cells if job.adapter_column else single)
    known = before["found"]["references"]
    versions = {given: registry.resolve(entry["reference"]) for given, entry in known.items()}
    for given, version in versions.items():
        if version.payload_digest != known[given]["payload_digest"]:
            raise DigestMismatch(
                f"{version.reference} is not the version that the job began with; start over with "
                "overwrite=True (--overwrite)",
                reference=str(version.reference),
            )
    return versions


def _encoder(job: ScoreJob, output_format: Any, source: RowSource, seen: Survey) -> Encoder:
    columns = seen.columns if job.keep_columns is None else job.keep_columns
    seen.require(columns, what="kept")
    added = [f"{job.prefix}{name}" for name in ADDED_COLUMNS]
    for name in added:
        if name in columns:
            raise InvalidInput(
                f"the input has a column {name!r}, which scoring adds: give a prefix for the added "
                "columns (such as 'dovetail_'), or leave the column out of those that are kept",
                column=name,
            )
    return encoder_for(
        output_format, columns=columns, added=added, schema=source.schema, kinds=seen.kinds
    )


def _request(
    job: ScoreJob, registry: Registry, versions: Mapping[str, AdapterVersion]
) -> ModelRequest:
    free = job.allow_base_mismatch and job.base is not None
    expected = None if free else one_base(versions.values())
    generation = dict(job.generation)
    if job.max_new_tokens is not None:
        generation["max_new_tokens"] = job.max_new_tokens
    return ModelRequest(
        registry=registry,
        base=base_path(registry, base=job.base, expected=expected),
        expected=expected,
        adapters=sorted({str(version.reference) for version in versions.values()}),
        batch_size=job.batch_size,
        generation=generation,
        allow_base_mismatch=job.allow_base_mismatch,
        device=job.device,
        dtype=job.dtype,
    )


def _found(seen: Survey, versions: Mapping[str, AdapterVersion], base_model: str) -> dict[str, Any]:
    return {
        "survey": {**asdict(seen), "columns": list(seen.columns)},
        "references": {
            given: {
                "reference": str(version.reference),
                "payload_digest": version.payload_digest,
                "base_model": version.base_model,
            }
            for given, version in versions.items()
        },
        "base_model": base_model,
    }


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare a job with the one that it goes on with.

    Raises:
        InvalidInput: They differ; the message says in what.
    """
    now = json.loads(json.dumps(now))
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        said = ", ".join(
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in differing
        )
        raise InvalidInput(
            f"this is not the job that was begun: {said}; resume it as it was, or start over with "
            "overwrite=True (--overwrite)",
            differing=differing,
        )


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
