"""``dovetail gc``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import help_end, json_option
from dovetail.cli.output import count_progress, print_json, print_table, short

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[timedelta]):
    """A length of time: ``90s``, ``30m``, ``12h``, ``7d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        if isinstance(value, timedelta):
            return value
        number, unit = value[:-1], _UNITS.get(value[-1:])
        if unit is None or not number.isdecimal():
            self.fail(f"{value!r} is no length of time; write 90s, 30m, 12h or 7d", param, ctx)
        return timedelta(seconds=int(number) * unit)


@click.command(
    "gc",
    epilog=help_end(
        "dovetail gc --dry-run",
        "dovetail gc                # marks; deletes what was marked a day ago",
        "dovetail gc --grace 7d",
        exits=(5, 9),
    ),
)
@click.option(
    "--grace",
    type=Duration(),
    default="1d",
    show_default=True,
    help="How long a file must have been garbage before it is deleted.",
)
@click.option(
    "--unfinished-after",
    type=Duration(),
    default="6h",
    show_default=True,
    help="Age at which a half-written upload counts as abandoned.",
)
@click.option("--dry-run", is_flag=True, help="List what would be done, and change nothing.")
@json_option
@pass_connection
def gc_command(
    connection: Connection,
    /,
    grace: timedelta,
    unfinished_after: timedelta,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove files that no version names.

    Failed and killed registrations leave such files. They are marked first, and deleted by a later
    run, when their grace period is over and still nothing names them. Versions are never touched,
    deleted ones neither. An object store belongs to one registry: what another one keeps in the
    same place is garbage to this one.
    """
    with connection.open() as registry, count_progress("deleting") as progress:
        done = registry.collect_garbage(
            grace=grace, unfinished_after=unfinished_after, dry_run=dry_run, progress=progress
        )
    if as_json:
        print_json(done)
        return
    if dry_run:
        rows: list[tuple[object, ...]] = []
        rows += (("deleted now", short(item.digest), item.size) for item in done.deleted)
        rows += (("deleted later", short(item.digest), item.size) for item in done.waiting)
        rows += (("unfinished", item.name, item.size) for item in done.unfinished)
        if rows:
            print_table(["what", "file", "bytes"], rows)
    would = "would be " if dry_run else ""
    click.echo(
        f"{len(done.deleted):,} files ({done.bytes_deleted:,} bytes) {would}deleted, "
        f"{len(done.waiting):,} marked and waiting, {len(done.unfinished):,} half-written uploads "
        f"and {done.expired_intents:,} expired intents {would}removed"
    )
