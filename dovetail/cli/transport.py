"""``dovetail export`` and ``dovetail import``."""

from __future__ import annotations

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import REFERENCE, help_end, json_option
from dovetail.cli.output import byte_progress, print_json, print_table, say


@click.command(
    "export",
    epilog=help_end(
        "dovetail export dialogue-summary --to summary.zip",
        "dovetail export dialogue-summary/7 labels@production --to ./bundle",
        "dovetail export --all --to everything.zip",
        exits=(3, 4, 5, 8, 9),
    ),
)
@click.argument("references", type=REFERENCE, nargs=-1, metavar="[REFERENCE]...")
@click.option("--all", "everything", is_flag=True, help="Export every adapter and base model.")
@click.option(
    "--to",
    required=True,
    type=click.Path(),
    metavar="PLACE",
    help="A new file that ends in .zip, or a new directory.",
)
@json_option
@pass_connection
def export_command(
    connection: Connection,
    /,
    references: tuple[str, ...],
    everything: bool,
    to: str,
    as_json: bool,
) -> None:
    """Write adapters to a file or directory to take along.

    REFERENCE is a name, for all versions; or NAME/7 or NAME@ALIAS, for those from the first to
    that one, because numbers have no gaps. Evaluations, aliases, requirements, history and base
    models go along. 'dovetail import' adds it all to another registry, whatever its database and
    storage. The same command goes on with a directory that was not finished.
    """
    if everything == bool(references):
        raise click.UsageError("name what to export, or give --all")
    with connection.open() as registry, byte_progress("exporting") as progress:
        done = registry.export(None if everything else references, to, progress=progress)
    if done.left_out:
        say(
            f"left out: {', '.join(done.left_out)}, whose history names later versions; "
            "export the whole adapter to take them along"
        )
    if as_json:
        print_json(done)
        return
    for name, count in done.versions.items():
        click.echo(f"{name}: {count:,} version{'s' if count != 1 else ''}")
    click.echo(f"{done.path}: {done.blobs:,} files ({done.bytes:,} bytes), contents {done.digest}")


@click.command(
    "import",
    epilog=help_end(
        "dovetail import summary.zip --dry-run",
        "dovetail import summary.zip",
        exits=(4, 5, 6, 8, 9),
    ),
)
@click.argument("path", type=click.Path(), metavar="PLACE")
@click.option("--dry-run", is_flag=True, help="Check everything, and change nothing.")
@json_option
@pass_connection
def import_command(connection: Connection, /, path: str, dry_run: bool, as_json: bool) -> None:
    """Add what another registry exported.

    PLACE is a file or directory that 'dovetail export' wrote. Every file is hashed and checked as
    if it were registered. Numbers, digests and history stay as they are; what is there already is
    left alone, so it may be run again. If the two registries have gone apart, all differences are
    named and nothing is written.
    """
    with connection.open() as registry, byte_progress("importing") as progress:
        done = registry.import_bundle(path, dry_run=dry_run, progress=progress)
    if as_json:
        print_json(done)
        return
    rows = [
        (
            each.name,
            _numbers(each.versions),
            each.evaluations,
            ", ".join(f"{alias} → {number}" for alias, number in each.aliases.items()),
            each.events,
        )
        for each in done.adapters
    ]
    if rows:
        print_table(("adapter", "versions", "evaluations", "aliases", "events"), rows)
    would = "would be " if dry_run else ""
    click.echo(
        f"{len(done.adapters):,} adapters and {len(done.base_models):,} base models {would}changed "
        f"or added, {len(done.unchanged):,} had everything; contents {done.digest}"
    )


def _numbers(numbers: tuple[int, ...]) -> str:
    """Write numbers, which follow each other."""
    if not numbers:
        return ""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
