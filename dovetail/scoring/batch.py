"""Batch jobs: a file of rows in, the same rows with predictions out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from dovetail.errors import DigestMismatch, InvalidInput
from dovetail.registry.digests import digest_file
from dovetail.scoring.arrowrows import open_rows
from dovetail.scoring.bases import BaseGroup, group_by_base, make_group
from dovetail.scoring.checkpoint import PartialOutput
from dovetail.scoring.engine import ADDED_COLUMNS, Progress
from dovetail.scoring.job import ScoreJob, ScoreReport, check_job
from dovetail.scoring.model import OpenModel, open_model
from dovetail.scoring.prepare import Prompter
from dovetail.scoring.record import check_same, found_record, stamp_of
from dovetail.scoring.references import check_writes, resolve_all
from dovetail.scoring.rows import RowSource, format_of
from dovetail.scoring.scorer import Scorer, rows_done, scored_bases
from dovetail.scoring.survey import Survey, find_cells, survey
from dovetail.scoring.writers import Encoder, encoder_for

if TYPE_CHECKING:
    from dovetail.registry.records import AdapterVersion
    from dovetail.registry.store import Registry

__all__ = ["score", "score_with"]


def score(job: ScoreJob, *, registry: Registry, progress: Progress | None = None) -> ScoreReport:
    """Score a file of rows with one adapter, or with the adapter that each row names.

    References are resolved once, at the start: an alias that moves while the job runs, or before
    it is resumed, changes nothing, nor does a version that is deleted while it runs. Adapters of
    one base model are scored together, those that classify beside those that generate, and the
    prediction is the label or the text; where rows need several base models, one is opened after
    the other. A row that cannot be scored gets an error in its column and stops nothing.

    Args:
        job: What to do.
        registry: Where adapters come from.
        progress: Called for each row with rows done, all rows, and rows failed.

    Raises:
        InvalidInput: The input cannot be read, a setting does not fit it, an adapter makes vectors
            instead of texts, or a job is resumed with other settings or another input.
        NotFoundError: Adapters that are named do not exist; the message lists them, and the rows.
        IncompatibleBaseModel: An adapter was trained on other weights than those that are given.
        DigestMismatch: An adapter's files are corrupt.
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
            check_same(before["asked"], asked)
        stamp = stamp_of(job.input)
        seen = _survey(source, job, before)
        versions = _versions(registry, job, source, seen, before)
        check_writes(versions.values())
        prompter = Prompter(
            versions,
            adapter_column=job.adapter_column,
            template=job.template,
            text_column=job.text_column,
        )
        prompter.check_columns(seen)
        encoder = _encoder(job, output_format, source, seen)
        groups = _groups(job, seen, versions)
        resumed_at = None if before is None else rows_done(groups, output)
        if output.rows < seen.rows:
            Scorer(
                job=job,
                registry=registry,
                source=source,
                stamp=stamp,
                total=seen.rows,
                versions=versions,
                groups=groups,
                prompter=prompter,
                encoder=encoder,
                output=output,
                record={"asked": asked, "found": found_record(seen, versions)},
                opener=opener,
                progress=progress,
            ).run()
        output.publish(encoder.finish)
        bases = scored_bases(groups, output)
        return ScoreReport(
            rows=output.rows,
            failed=output.failed,
            output=job.output,
            references={given: str(version.reference) for given, version in versions.items()},
            base_model=next(iter(bases)) if len(bases) == 1 else None,
            base_models=bases,
            base_mismatches=tuple(
                sorted(
                    {
                        str(version.reference)
                        for version in versions.values()
                        if version.base_model not in bases
                    }
                )
            ),
            reference_path=output.reference_path,
            seconds=time.monotonic() - started,
            resumed_at=resumed_at,
        )


def _groups(job: ScoreJob, seen: Survey, versions: Mapping[str, AdapterVersion]) -> list[BaseGroup]:
    """Return the base models that are needed, each with its rows."""
    if job.reference is None and job.adapter_column is None:
        return [BaseGroup(expected=None, adapters=(), rows=seen.rows)]
    rows = seen.cells if job.adapter_column else dict.fromkeys(versions, seen.rows)
    if job.allow_base_mismatch and job.base is not None and versions:
        return [make_group(None, versions, rows)]
    return group_by_base(versions, rows, base=job.base)


def _survey(source: RowSource, job: ScoreJob, before: Mapping[str, Any] | None) -> Survey:
    if before is None:
        return survey(source, limit=job.limit, adapter_column=job.adapter_column)
    known = before["found"]["survey"]
    return Survey(**{**known, "columns": tuple(known["columns"])})


def _versions(
    registry: Registry,
    job: ScoreJob,
    source: RowSource,
    seen: Survey,
    before: Mapping[str, Any] | None,
) -> dict[str, AdapterVersion]:
    """Resolve what is given; a resumed job takes the versions that it began with."""
    if before is None:
        if job.adapter_column is None:
            return resolve_all(registry, [] if job.reference is None else [job.reference])
        find_rows = partial(find_cells, source, adapter_column=job.adapter_column, limit=job.limit)
        return resolve_all(registry, seen.cells, find_rows=find_rows)
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
