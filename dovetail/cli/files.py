"""``dovetail pull``, ``delete`` and ``restore``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import REFERENCE, help_end, json_option
from dovetail.cli.output import byte_progress, print_json, say

if TYPE_CHECKING:
    from dovetail.registry.progress import Progress
    from dovetail.registry.puller import Pulled
    from dovetail.registry.store import Registry


@click.command(
    "pull",
    epilog=help_end(
        "dovetail pull dialogue-summary@production ./adapter",
        "dovetail pull dialogue-summary/7          # into the cache",
        "dovetail pull sha256:0a1b...              # any version with this payload",
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

    Prints where the files of the version REFERENCE are, which may be the digest of a payload, too.
    DIRECTORY must not exist yet, or be empty; without one, the files are put into the cache. Only
    what the cache lacks is fetched, and every byte is hashed. PEFT reads the directory as it is.

    When the database cannot be reached, what REFERENCE named when it was last pulled on this
    machine is taken, and that is said.
    """
    with byte_progress("pulling") as progress:
        pulled = _pull(connection, reference, directory, progress=progress)
    if pulled.offline:
        say(pulled.how)
    if as_json:
        print_json(pulled)
    else:
        click.echo(pulled.path)


def _pull(
    connection: Connection, reference: str, directory: str | None, *, progress: Progress
) -> Pulled:
    from dovetail.errors import StorageError

    try:
        registry = connection.open()
    except StorageError as error:
        from dovetail.registry.puller import pull_offline

        return pull_offline(
            reference,
            directory,
            database_url=connection.database_url,
            objects_url=connection.objects_url,
            because=error,
            progress=progress,
        )
    with registry:
        to = None if directory is None else [directory]
        return registry.pull_many([reference], to, progress=progress)[0]


@click.command(
    "delete",
    epilog=help_end(
        "dovetail delete dialogue-summary/3 --reason 'bad data'",
        "dovetail delete dialogue-summary --all --reason 'nobody uses it'",
        exits=(3, 4, 5, 9),
    ),
)
@click.argument("reference", type=REFERENCE)
@click.option("--all", "whole", is_flag=True, help="Hide the whole adapter: REFERENCE is a name.")
@click.option("--force", is_flag=True, help="With --all: even if aliases are set; drop them.")
@click.option("--reason", help="Why; kept in the history.")
@json_option
@pass_connection
def delete_command(
    connection: Connection,
    /,
    reference: str,
    whole: bool,
    force: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Hide a version, or a whole adapter; it can be restored.

    The version REFERENCE is found no more, its number stays taken, and 'restore' brings it back. A
    version that an alias points to is not deleted.

    With --all, REFERENCE is the name of an adapter, which is hidden with all of its versions.
    """
    is_name = "@" not in reference and "/" not in reference
    if is_name != whole:
        raise click.UsageError(
            f"{reference!r} is a whole adapter; name a version, or add --all to hide all of it"
            if is_name
            else f"--all hides a whole adapter; give its name alone, not {reference!r}"
        )
    if force and not whole:
        raise click.UsageError("--force is for --all; drop a version's alias with 'dovetail drop'")
    with connection.open() as registry:
        if whole:
            _delete_adapter(registry, reference, force=force, reason=reason, as_json=as_json)
            return
        version = registry.delete(reference, reason=reason)
    if as_json:
        print_json(version)
    else:
        click.echo(f"deleted {version.reference}; undo: dovetail restore {version.reference}")


def _delete_adapter(
    registry: Registry, name: str, *, force: bool, reason: str | None, as_json: bool
) -> None:
    deleted = registry.delete_adapter(name, drop_aliases=force, reason=reason)
    if as_json:
        print_json(deleted)
        return
    for alias, number in deleted.aliases.items():
        say(f"dropped {name}@{alias} (was {name}/{number})")
    back = f"; undo: dovetail restore {name}/NUMBER, for each" if deleted.versions else ""
    click.echo(f"deleted {name} with {deleted.versions} versions{back}")


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
