"""``dovetail register``."""

from __future__ import annotations

from typing import Any

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import NAME, help_end, json_option, json_values, key_values, numbers
from dovetail.cli.output import byte_progress, print_json, say, short


@click.command(
    "register",
    epilog=help_end(
        "dovetail register dialogue-summary runs/prompt-3 --base models/flan-small \\",
        "    --task summarization --template 'Summarise: {dialogue}'",
        "dovetail register dialogue-summary runs/lora-1 --base flan-small --score rougeL=0.41",
        exits=(3, 4, 5, 6, 9),
    ),
)
@click.argument("name", type=NAME)
@click.argument("directory", type=click.Path())
@click.option(
    "--base",
    required=True,
    metavar="DIRECTORY|NAME|FINGERPRINT",
    help="The base model it was trained on: a directory, a hub name in the local cache, or one "
    "that the registry knows.",
)
@click.option("--task", help="Pipeline tag, such as summarization.")
@click.option(
    "--template", help="Template of the training inputs, such as 'Summarise: {dialogue}'."
)
@click.option("--description", help="Free text about the adapter.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Tag of the adapter.")
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
@click.option("--run", "source_run", help="Identifier of the training run.")
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Files in the directory to leave out."
)
@json_option
@pass_connection
def register_command(
    connection: Connection, /, name: str, directory: str, base: str, as_json: bool, **options: Any
) -> None:
    """Add a version from an adapter directory.

    DIRECTORY is what PEFT saved, and becomes a version of adapter NAME. The files are checked,
    hashed and copied; nothing in them is executed. The same files for the same base model give the
    version that exists.
    """
    from dovetail.cli.base import base_directory

    with (
        connection.open() as registry,
        byte_progress("hashing the base model") as progress,
        byte_progress("writing the files") as upload_progress,
    ):
        registration = registry.register(
            name,
            directory,
            base=base_directory(registry, base),
            task=options["task"],
            description=options["description"],
            tags=key_values(options["tags"], option="--tag"),
            hyperparameters=json_values(options["params"], option="--param"),
            input_template=options["template"],
            generation_config=json_values(options["generation"], option="--generation"),
            scores=numbers(options["scores"], option="--score"),
            source_run=options["source_run"],
            exclude=options["exclude"],
            progress=progress,
            upload_progress=upload_progress,
        )
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
