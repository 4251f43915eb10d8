"""``dovetail score``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.exits import SOME_ROWS_FAILED
from dovetail.cli.model_options import model_options, needs_loader
from dovetail.cli.options import REFERENCE_OR_FILE, help_end, json_option, json_values
from dovetail.cli.output import print_json, row_progress, say, short


@click.command(
    "score",
    epilog=help_end(
        "dovetail score dialogue-summary@production in.jsonl --output out.jsonl",
        "dovetail score in.parquet --adapter-column adapter --output out.parquet --resume",
        exits=(3, 4, 5, 6, 8, 9, SOME_ROWS_FAILED),
    ),
)
@click.argument(
    "arguments", nargs=-1, required=True, type=REFERENCE_OR_FILE, metavar="[REFERENCE] INPUT"
)
@click.option("--output", "-o", required=True, type=click.Path(), help="File to write.")
@click.option("--adapter-column", metavar="COLUMN", help="Column that names each row's adapter.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Input column to write; all if none.")
@click.option("--prefix", default="", help="Put before the names of the added columns.")
@click.option("--input-format", type=click.Choice(["jsonl", "csv", "parquet"]))
@click.option("--output-format", type=click.Choice(["jsonl", "csv", "parquet"]))
@click.option("--resume", is_flag=True, help="Go on where a job that was stopped left off.")
@click.option("--overwrite", is_flag=True, help="Replace a file or partial result that is there.")
@click.option(
    "--checkpoint-every",
    type=int,
    metavar="ROWS",
    help="Keep what is done after so many rows; 512 if not given, fewer suit a slow model.",
)
@click.option(
    "--allow-base-mismatch",
    is_flag=True,
    help="Use adapters on weights they were not trained on; the history and the report say so.",
)
@model_options
@json_option
@pass_connection
def score_command(
    connection: Connection, /, arguments: tuple[str, ...], as_json: bool, **options: Any
) -> int:
    """Score a file of rows with one or many adapters.

    The rows of INPUT are scored with the version REFERENCE, or with the adapter each row names;
    where those need several base models, one is opened after the other. INPUT is JSONL, CSV or
    Parquet, and so is the output: the input's columns, and the prediction, the adapter as resolved,
    its payload's digest, the base model's fingerprint, and the error of a row that could not be
    scored. Such a row does not stop the job. The prediction of an adapter that was trained to
    classify is the label. Aliases are resolved once, at the start. The output
    gets its name when it is whole; after an interruption, Ctrl-C too, --resume goes on from the
    last checkpoint.
    Without REFERENCE and --adapter-column, the bare base model is used.
    """
    needs_loader("score")
    from dovetail.scoring import ScoreJob, score

    reference, data = split_arguments(arguments, file="INPUT")
    job = ScoreJob(
        input=Path(data),
        output=Path(options["output"]),
        reference=reference,
        adapter_column=options["adapter_column"],
        template=options["template"],
        text_column=options["text_column"],
        base=options["base"],
        input_format=options["input_format"],
        output_format=options["output_format"],
        keep_columns=options["keep"] or None,
        prefix=options["prefix"],
        batch_size=options["batch_size"],
        max_new_tokens=options["max_new_tokens"],
        generation=json_values(options["generation"], option="--generation"),
        resume=options["resume"],
        overwrite=options["overwrite"],
        limit=options["limit"],
        allow_base_mismatch=options["allow_base_mismatch"],
        device=options["device"],
        dtype=options["dtype"],
    )
    if options["checkpoint_every"] is not None:
        job = replace(job, checkpoint_every=options["checkpoint_every"])
    try:
        with connection.open() as registry, row_progress("scoring") as progress:
            report = score(job, registry=registry, progress=progress)
    except KeyboardInterrupt:
        say("rows up to the last checkpoint are kept; go on with the same command and --resume")
        raise
    if as_json:
        print_json(report)
    else:
        if report.resumed_at is not None:
            say(f"went on after {report.resumed_at:,} rows")
        for given, resolved in report.references.items():
            say(f"{given} is {resolved}")
        for mismatched in report.base_mismatches:
            say(f"warning: {mismatched} was trained on another base model, used as you asked")
        if report.reference_path:
            say(f"through PEFT (reference path): {', '.join(report.reference_path)}")
        click.echo(
            f"{report.rows:,} rows in {report.output}, {report.failed:,} with errors, "
            f"{_bases(report.base_models)}, {report.seconds:.1f} s"
        )
    return SOME_ROWS_FAILED if report.failed else 0


def _bases(rows: Mapping[str, int]) -> str:
    """Say which base models scored, and how many rows each of several."""
    if len(rows) == 1:
        return f"base {short(*rows)}"
    named = (f"{short(base)} ({count:,} rows)" for base, count in rows.items())
    return f"bases {', '.join(named)}" if rows else "no base"


def split_arguments(arguments: tuple[str, ...], *, file: str) -> tuple[str | None, str]:
    """Tell ``[REFERENCE] FILE`` apart.

    Raises:
        click.UsageError: There are more than two.
    """
    if len(arguments) > 2:  # noqa: PLR2004 (a reference and a file)
        raise click.UsageError(f"give a reference and {file}, not {len(arguments)} arguments")
    *reference, data = arguments
    return (reference[0] if reference else None), data
