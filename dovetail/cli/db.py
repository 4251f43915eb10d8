"""``dovetail db``."""

from __future__ import annotations

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import help_end, json_option
from dovetail.cli.output import print_json


@click.group("db")
def db_command() -> None:
    """Look after the registry's database."""


@db_command.command("current", epilog=help_end("dovetail db current", exits=(5, 9)))
@json_option
@pass_connection
def current(connection: Connection, /, as_json: bool) -> None:
    """Show which schema the database has, and which this program works with."""
    from dovetail.registry.schema import SCHEMA_REVISION

    with connection.database() as database:
        found = database.revision()
        url = database.shown_url
    if as_json:
        print_json({"url": url, "schema": found, "expected": SCHEMA_REVISION})
    else:
        click.echo(f"{url}: schema {found or 'none'}, this program works with {SCHEMA_REVISION}")


@db_command.command("upgrade", epilog=help_end("dovetail db upgrade", exits=(5, 9)))
@pass_connection
def upgrade(connection: Connection) -> None:
    """Bring the database's schema to the version that this program works with."""
    with connection.database() as database:
        before, after = database.upgrade()
        url = database.shown_url
    if before == after:
        click.echo(f"{url} has schema {after} already")
    else:
        click.echo(f"{url} went from schema {before or 'none'} to {after}")


@db_command.command("check", epilog=help_end("dovetail db check", exits=(5, 9)))
@json_option
@pass_connection
def check(connection: Connection, /, as_json: bool) -> None:
    """Check that the database has the schema that this program works with."""
    from dovetail.registry.schema import SCHEMA_REVISION

    with connection.open(), connection.database() as database:
        url = database.shown_url
    if as_json:
        print_json({"url": url, "schema": SCHEMA_REVISION})
    else:
        click.echo(f"{url} is as it should be")
