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


@db_command.command("downgrade", epilog=help_end("dovetail db downgrade", exits=(5, 9)))
@pass_connection
def downgrade(connection: Connection) -> None:
    """Take the last step of the schema back, for an older version of this program.

    A step that would lose something is refused.
    """
    with connection.database() as database:
        before, after = database.downgrade()
        url = database.shown_url
    click.echo(f"{url} went from schema {before} back to {after}")


@db_command.command("check", epilog=help_end("dovetail db check", exits=(5, 9)))
@json_option
@pass_connection
def check(connection: Connection, /, as_json: bool) -> None:
    """Check that the database has every table and column that this program works with."""
    from dovetail.errors import StorageError
    from dovetail.registry.schema import SCHEMA_REVISION

    with connection.open(), connection.database() as database:
        url = database.shown_url
        differences = database.differences()
    if differences:
        raise StorageError(
            f"the registry at {url} has schema {SCHEMA_REVISION}, but was changed since: "
            f"{'; '.join(differences)}; restore it from a copy",
            differences=differences,
        )
    if as_json:
        print_json({"url": url, "schema": SCHEMA_REVISION})
    else:
        click.echo(f"{url} is as it should be")


@db_command.command(
    "roles",
    epilog=help_end('dovetail db roles | psql "$ADMIN_URL"', exits=()),
)
def roles() -> None:
    """Print the SQL that sets up PostgreSQL's roles: reader, publisher, promoter and admin."""
    from dovetail.migrations import roles_sql

    click.echo(roles_sql(), nl=False)
