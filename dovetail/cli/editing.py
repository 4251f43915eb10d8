"""``dovetail edit`` and ``drop``: what is said of adapters and versions, and aliases no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import NAME, REFERENCE, help_end, json_option, key_values
from dovetail.cli.output import print_json

if TYPE_CHECKING:
    from dovetail.registry.records import Adapter, AdapterVersion


@click.command(
    "edit",
    epilog=help_end(
        "dovetail edit dialogue-summary/7 --description 'with dropout' --tag reviewed=yes",
        "dovetail edit dialogue-summary@production --untag reviewed",
        "dovetail edit dialogue-summary --tag team=support",
        exits=(3, 5, 9),
    ),
)
@click.argument("what", type=REFERENCE)
@click.option("--description", help="The new description; '' takes it away.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Tag to add or change.")
@click.option("--untag", multiple=True, metavar="KEY", help="Tag to take away, if it is there.")
@click.option("--reason", help="Why; kept in the history.")
@json_option
@pass_connection
def edit_command(
    connection: Connection,
    /,
    what: str,
    description: str | None,
    tags: tuple[str, ...],
    untag: tuple[str, ...],
    reason: str | None,
    as_json: bool,
) -> None:
    """Change the description and tags of an adapter or version.

    WHAT is NAME, NAME@ALIAS or NAME/NUMBER. The history keeps what was said before.
    """
    if description is None and not tags and not untag:
        raise click.UsageError("nothing to change; give --description, --tag or --untag")
    edit: dict[str, Any] = {
        "description": description,
        "tags": key_values(tags, option="--tag"),
        "remove_tags": untag,
        "reason": reason,
    }
    with connection.open() as registry:
        if "@" in what or "/" in what:
            version = registry.edit_version(what, **edit)
            _show(version, str(version.reference), as_json=as_json)
        else:
            _show(registry.edit_adapter(what, **edit), what, as_json=as_json)


def _show(edited: Adapter | AdapterVersion, name: str, *, as_json: bool) -> None:
    if as_json:
        print_json(edited)
    else:
        click.echo(f"edited {name}; see it with: dovetail show {name}")


@click.command(
    "drop",
    epilog=help_end(
        "dovetail drop dialogue-summary canary --reason 'the trial is over'", exits=(3, 5, 9)
    ),
)
@click.argument("name", type=NAME)
@click.argument("alias")
@click.option("--reason", help="Why; kept in the history.")
@json_option
@pass_connection
def drop_command(
    connection: Connection, /, name: str, alias: str, reason: str | None, as_json: bool
) -> None:
    """Take an alias away.

    ALIAS of adapter NAME points to nothing afterwards; the version stays. What the alias requires
    stays, too, for when it is set again.
    """
    with connection.open() as registry:
        dropped = registry.drop_alias(name, alias, reason=reason)
    if as_json:
        print_json(dropped)
    else:
        click.echo(f"{name}@{alias} is gone (was {name}/{dropped.previous})")
