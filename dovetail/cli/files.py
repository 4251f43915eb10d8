"""``dovetail pull``, ``delete`` and ``restore``."""

from __future__ import annotations

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import REFERENCE, help_end, json_option
from dovetail.cli.output import print_json


@click.command(
    "pull",
    epilog=help_end(
        "dovetail pull dialogue-summary@production ./adapter",
        "dovetail pull dialogue-summary/7          # into the cache",
        exits=(3, 4, 5, 8, 9),
    ),
)
@click.argument("reference", type=REFERENCE)
@click.argument("directory", type=click.Path(), required=False)
@json_option
@pass_connection
def pull_command(
    connection: Connection, /, reference: str, directory: str | None, as_json: bool
) -> None:
    """Write a version's files to a directory.

    Prints where the files of the version REFERENCE are. DIRECTORY must not exist yet, or be empty;
    without one, the files are put into the cache. Every byte is hashed. PEFT reads the directory as
    it is.
    """
    with connection.open() as registry:
        version = registry.resolve(reference)
        path = registry.pull(version.reference, directory)
    if as_json:
        print_json({"path": path, "version": version})
    else:
        click.echo(path)


@click.command(
    "delete",
    epilog=help_end("dovetail delete dialogue-summary/3 --reason 'bad data'", exits=(3, 4, 5, 9)),
)
@click.argument("reference", type=REFERENCE)
@click.option("--reason", help="Why; kept in the history.")
@json_option
@pass_connection
def delete_command(
    connection: Connection, /, reference: str, reason: str | None, as_json: bool
) -> None:
    """Hide a version; it can be restored.

    The version REFERENCE is found no more, its number stays taken, and 'restore' brings it back. A
    version that an alias points to is not deleted.
    """
    with connection.open() as registry:
        version = registry.delete(reference, reason=reason)
    if as_json:
        print_json(version)
    else:
        click.echo(f"deleted {version.reference}; undo: dovetail restore {version.reference}")


@click.command("restore", epilog=help_end("dovetail restore dialogue-summary/3", exits=(3, 5, 9)))
@click.argument("reference", type=REFERENCE)
@click.option("--reason", help="Why; kept in the history.")
@json_option
@pass_connection
def restore_command(
    connection: Connection, /, reference: str, reason: str | None, as_json: bool
) -> None:
    """Bring a deleted version back."""
    with connection.open() as registry:
        version = registry.restore(reference, reason=reason)
    if as_json:
        print_json(version)
    else:
        click.echo(f"{version.reference} is there again")
