"""``dovetail base``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import help_end, json_option
from dovetail.cli.output import byte_progress, moment, print_fields, print_json, print_table, short
from dovetail.registry.directories import is_directory

if TYPE_CHECKING:
    from dovetail.registry.store import Registry


def base_directory(registry: Registry, wanted: str) -> str:
    """Return what the registry can use for ``--base``: a directory, or a base model it knows.

    A name that is neither is looked up in the local hub cache, without the network.
    """
    from dovetail.errors import BaseModelNotFound

    if is_directory(wanted):
        return wanted
    try:
        return registry.base_model(wanted).fingerprint
    except BaseModelNotFound:
        from dovetail.loader.locate import locate_base

        return str(locate_base(wanted))


@click.group("base")
def base_command() -> None:
    """Add, list and check base models.

    A base model is the frozen weights that adapters are trained on.
    """


@base_command.command(
    "add", epilog=help_end("dovetail base add models/flan-small --name flan-small", exits=(3, 5, 9))
)
@click.argument("directory", type=click.Path())
@click.option("--name", help="What to call it; the directory's name if not given.")
@click.option("--revision", help="Commit of the checkpoint, where it has one.")
@json_option
@pass_connection
def add(
    connection: Connection, /, directory: str, name: str | None, revision: str | None, as_json: bool
) -> None:
    """Add the base model in DIRECTORY: its weights are hashed, not copied."""
    with connection.open() as registry, byte_progress("hashing") as progress:
        model = registry.register_base(directory, name=name, revision=revision, progress=progress)
    if as_json:
        print_json(model)
    else:
        click.echo(f"base model {model.name}: {model.fingerprint}")


@base_command.command("list", epilog=help_end("dovetail base list --json", exits=(9,)))
@json_option
@pass_connection
def list_(connection: Connection, /, as_json: bool) -> None:
    """List the base models that the registry knows."""
    with connection.open() as registry:
        models = registry.base_models()
    if as_json:
        print_json(models)
        return
    rows = [
        (m.name, short(m.fingerprint), m.architecture, m.parameter_count, m.dtype, m.location)
        for m in models
    ]
    print_table(("name", "fingerprint", "architecture", "parameters", "dtype", "location"), rows)


@base_command.command("show", epilog=help_end("dovetail base show flan-small", exits=(3, 5, 9)))
@click.argument("base")
@json_option
@pass_connection
def show(connection: Connection, /, base: str, as_json: bool) -> None:
    """Show a base model by name or fingerprint."""
    with connection.open() as registry:
        model = registry.base_model(base)
    if as_json:
        print_json(model)
        return
    print_fields(
        {
            "name": model.name,
            "fingerprint": model.fingerprint,
            "architecture": model.architecture,
            "parameters": f"{model.parameter_count:,}",
            "hidden size": model.hidden_size,
            "dtype": model.dtype,
            "tokenizer": model.tokenizer_digest,
            "revision": model.revision,
            "location": model.location,
            "added": moment(model.created_at),
        }
    )


@base_command.command(
    "check", epilog=help_end("dovetail base check models/flan-small flan-small", exits=(3, 5, 6, 9))
)
@click.argument("directory", type=click.Path())
@click.argument("base")
@json_option
@pass_connection
def check(connection: Connection, /, directory: str, base: str, as_json: bool) -> None:
    """Check that the weights in DIRECTORY are those of a registered BASE, and say what differs."""
    from dovetail.loader.verify import check_weights
    from dovetail.registry.fingerprint import read_base

    with connection.open() as registry, byte_progress("hashing") as progress:
        found = read_base(directory, cache_dir=registry.settings.cache_dir, progress=progress)
        model = registry.base_model(base)
        check_weights(
            expected=model.fingerprint,
            found=found,
            registry=registry,
            what="the registry has",
            allow=False,
        )
    if as_json:
        print_json({"fingerprint": found.manifest.fingerprint, "matches": True})
    else:
        click.echo(
            f"{directory} has the weights of {model.name} ({short(found.manifest.fingerprint)})"
        )
