"""``dovetail evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.mlflow_options import prepare_mlflow, tracking_option
from dovetail.cli.model_options import model_options, needs_loader
from dovetail.cli.options import REFERENCE_OR_FILE, help_end, json_option, json_values
from dovetail.cli.output import print_json, print_table, row_progress, say, score_text, short
from dovetail.cli.score import split_arguments

if TYPE_CHECKING:
    from dovetail.registry.records import Evaluation
    from dovetail.registry.store import Registry


@click.command(
    "evaluate",
    epilog=help_end(
        "dovetail evaluate dialogue-summary/7 test.jsonl --reference-column summary",
        "dovetail evaluate test.jsonl --reference-column summary --base flan-small \\",
        "    --template 'Summarise: {dialogue}'      # the bare base model",
        exits=(3, 5, 6, 8, 9),
    ),
)
@click.argument(
    "arguments", nargs=-1, required=True, type=REFERENCE_OR_FILE, metavar="[REFERENCE] DATA"
)
@click.option(
    "--reference-column", required=True, metavar="COLUMN", help="Column with the right answers."
)
@click.option(
    "--predictions-column",
    metavar="COLUMN",
    help="Column with predictions that exist already; no model is run.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="rouge1, rouge2, rougeL, rougeLsum, bleu, chrf, exact_match or accuracy; "
    "what suits the task if none is given.",
)
@click.option("--dataset-name", help="What to call the dataset; the file's name if not given.")
@model_options
@click.option(
    "--log-to-mlflow",
    is_flag=True,
    help="Also log the scores to the MLflow run that the version came from.",
)
@tracking_option
@json_option
@pass_connection
def evaluate_command(
    connection: Connection, /, arguments: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Measure a version on a dataset.

    The scores of the version REFERENCE on the rows of DATA go into the registry. Without REFERENCE,
    the bare base model is measured. Every score comes with a 95 % bootstrap interval, and the
    scores of each example are kept, so that gates can compare versions pairwise.
    """
    if options["predictions_column"] is None:
        needs_loader("evaluate")
    from dovetail.scoring import evaluate

    reference, data = split_arguments(arguments, file="DATA")
    _check_usage(reference, options)
    with connection.open() as registry:
        if options["log_to_mlflow"]:
            _check_run(registry, str(reference), options["tracking_uri"])
        with row_progress("measuring") as progress:
            found = evaluate(
                reference,
                data,
                registry=registry,
                reference_column=options["reference_column"],
                base=options["base"],
                template=options["template"],
                text_column=options["text_column"],
                predictions_column=options["predictions_column"],
                metrics=options["metrics"] or None,
                dataset_name=options["dataset_name"],
                limit=options["limit"],
                batch_size=options["batch_size"],
                max_new_tokens=options["max_new_tokens"],
                generation=json_values(options["generation"], option="--generation"),
                device=options["device"],
                dtype=options["dtype"],
                progress=progress,
            )
        if as_json:
            print_json(found)
        else:
            _show(found)
        if options["log_to_mlflow"]:
            _log(registry, found, options["tracking_uri"])


def _show(found: Evaluation) -> None:
    what = f"{found.name}/{found.number}" if found.name else "the bare base model"
    print_table(
        ("metric", "value [95 % interval]"),
        [(score.metric, score_text(score)) for score in found.scores.values()],
        title=f"{what} on {found.dataset_name} ({short(found.dataset_digest)}), n={found.n}",
    )


def _check_usage(reference: str | None, options: dict[str, Any]) -> None:
    """See that what is measured can be logged, before anything is measured.

    Raises:
        click.UsageError: There is no version, and so no run.
        MissingDependency: MLflow is not installed.
    """
    if options["log_to_mlflow"]:
        prepare_mlflow("evaluate --log-to-mlflow")
        if reference is None:
            raise click.UsageError("--log-to-mlflow needs a REFERENCE: its run is logged to.")
    elif options["tracking_uri"] is not None:
        raise click.UsageError("--tracking-uri is for --log-to-mlflow; add it.")


def _check_run(registry: Registry, reference: str, tracking_uri: str | None) -> None:
    from dovetail.plugins.mlflow.evaluations import check_run

    check_run(registry, reference, tracking_uri=tracking_uri)


def _log(registry: Registry, found: Evaluation, tracking_uri: str | None) -> None:
    from dovetail.plugins.mlflow.evaluations import log_evaluation

    logged = log_evaluation(registry, found, tracking_uri=tracking_uri)
    model = f" and model {logged.model_id}" if logged.model_id else ""
    say(f"logged {len(logged.metrics)} metrics to run {logged.run_id}{model}")
