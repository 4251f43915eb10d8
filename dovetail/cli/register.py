"""``dovetail register``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.mlflow_options import prepare_mlflow, tracking_option
from dovetail.cli.options import NAME, help_end, json_option, json_values, key_values, numbers
from dovetail.cli.output import byte_progress, print_json, say, short

if TYPE_CHECKING:
    from dovetail.registry.publishing import Registration
    from dovetail.registry.store import Registry


@click.command(
    "register",
    epilog=help_end(
        "dovetail register dialogue-summary runs/prompt-3 --base models/flan-small \\",
        "    --task summarization --template 'Summarise: {dialogue}'",
        "dovetail register dialogue-summary runs/lora-1 --base flan-small --score rougeL=0.41",
        "dovetail register dialogue-summary --run 0f3c9d6a41f84ba29e0c  # from MLflow",
        exits=(3, 4, 5, 6, 9),
    ),
)
@click.argument("name", type=NAME)
@click.argument("directory", type=click.Path(), required=False)
@click.option(
    "--base",
    metavar="DIRECTORY|NAME|FINGERPRINT",
    help="The base model it was trained on: a directory, a hub name in the local cache, or one "
    "that the registry knows. Needed with DIRECTORY; an adapter in a run often knows its own.",
)
@click.option("--task", help="Pipeline tag, such as summarization.")
@click.option(
    "--template", help="Template of the training inputs, such as 'Summarise: {dialogue}'."
)
@click.option("--description", help="Free text about the adapter.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Tag of the adapter.")
@click.option("--version-description", metavar="TEXT", help="Free text about this version.")
@click.option(
    "--version-tag", "version_tags", multiple=True, metavar="KEY=VALUE", help="Tag of this version."
)
@click.option(
    "--param", "params", multiple=True, metavar="KEY=VALUE", help="Hyperparameter of the training."
)
@click.option(
    "--generation",
    multiple=True,
    metavar="KEY=VALUE",
    help="Generation default, such as max_new_tokens=32.",
)
@click.option(
    "--score",
    "scores",
    multiple=True,
    metavar="METRIC=NUMBER",
    help="Score that training reported.",
)
@click.option(
    "--run",
    "source_run",
    metavar="RUN_ID",
    help="Identifier of the training run; without DIRECTORY, the MLflow run to register from.",
)
@click.option(
    "--artifact",
    metavar="PATH|MODEL",
    help="Which of the run's artifact folders or models has the adapter, if several have one.",
)
@tracking_option
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Files in the directory to leave out."
)
@json_option
@pass_connection
def register_command(
    connection: Connection, /, name: str, directory: str | None, as_json: bool, **options: Any
) -> None:
    """Add a version from an adapter directory.

    DIRECTORY is what PEFT saved, and becomes a version of adapter NAME. The files are checked,
    hashed and copied; nothing in them is executed. The same files for the same base model give the
    version that exists.

    Without DIRECTORY, --run names an MLflow run: its adapter is fetched, its parameters become
    hyperparameters, its ROUGE and other scores reported scores, and its experiment, git commit and
    datasets tags of the version.
    """
    _check_usage(directory, options)
    with connection.open() as registry:
        if directory is None:
            registration = _from_run(registry, name, options)
        else:
            registration = _from_directory(registry, name, directory, options)
    _show(registration, as_json=as_json)


def _check_usage(directory: str | None, options: dict[str, Any]) -> None:
    """Refuse what makes no sense together.

    Raises:
        click.UsageError: It does not.
    """
    if directory is None:
        if options["source_run"] is None:
            raise click.UsageError("Missing argument 'DIRECTORY', or --run RUN_ID.")
        return
    if options["base"] is None:
        raise click.UsageError("Missing option '--base'.")
    for option in ("artifact", "tracking_uri"):
        if options[option] is not None:
            raise click.UsageError(
                f"--{option.replace('_', '-')} is for --run without DIRECTORY; leave one out."
            )


def _from_directory(
    registry: Registry, name: str, directory: str, options: dict[str, Any]
) -> Registration:
    from dovetail.cli.base import base_directory

    with (
        byte_progress("hashing the base model") as progress,
        byte_progress("writing the files") as upload_progress,
    ):
        return registry.register(
            name,
            directory,
            base=base_directory(registry, options["base"]),
            source_run=options["source_run"],
            progress=progress,
            upload_progress=upload_progress,
            **_metadata(options),
        )


def _from_run(registry: Registry, name: str, options: dict[str, Any]) -> Registration:
    prepare_mlflow("register --run")
    from dovetail.plugins.mlflow.runs import register_run

    with (
        byte_progress("hashing the base model") as progress,
        byte_progress("writing the files") as upload_progress,
    ):
        return register_run(
            registry,
            name,
            options["source_run"],
            artifact=options["artifact"],
            base=options["base"],
            tracking_uri=options["tracking_uri"],
            progress=progress,
            upload_progress=upload_progress,
            **_metadata(options),
        )


def _metadata(options: dict[str, Any]) -> dict[str, Any]:
    generation = json_values(options["generation"], option="--generation")
    return {
        "task": options["task"],
        "description": options["description"],
        "tags": key_values(options["tags"], option="--tag"),
        "hyperparameters": json_values(options["params"], option="--param"),
        "input_template": options["template"],
        "generation_config": generation or None,
        "scores": numbers(options["scores"], option="--score"),
        "version_description": options["version_description"],
        "version_tags": key_values(options["version_tags"], option="--version-tag"),
        "exclude": options["exclude"],
    }


def _show(registration: Registration, *, as_json: bool) -> None:
    version = registration.version
    for finding in version.findings:
        say(f"note: {finding}")
    if registration.left_out:
        say(f"note: not part of an adapter, left out: {', '.join(registration.left_out)}")
    if as_json:
        print_json(registration)
    elif registration.created:
        click.echo(
            f"registered {version.reference}: {version.peft_type}, "
            f"{version.parameter_count:,} parameters, base {version.base_model_name} "
            f"({short(version.base_model)})"
        )
    else:
        click.echo(f"{version.reference} has this content already; nothing was added")
