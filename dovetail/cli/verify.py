"""``dovetail verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import REFERENCE, help_end, json_option
from dovetail.cli.output import byte_progress, print_json, print_table, say, short

if TYPE_CHECKING:
    from dovetail.registry.verifying import Verification


class Sample(click.ParamType[float]):
    """How many blobs, ``100``, or which part of them, ``5%``."""

    name = "sample"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it: a whole number stays one, a percentage becomes a fraction."""
        if not isinstance(value, str):
            return value
        try:
            read = float(value[:-1]) / 100 if value.endswith("%") else int(value)
        except ValueError:
            read = 0
        if not read > 0 or (isinstance(read, float) and read > 1):
            self.fail(f"{value!r} is no sample; write a number such as 100, or 5%", param, ctx)
        return read


@click.command(
    "verify",
    epilog=help_end(
        "dovetail verify",
        "dovetail verify dialogue-summary@production",
        "dovetail verify --sample 5%",
        "dovetail verify --repair-from file:///mnt/backup/objects",
        exits=(3, 5, 8, 9),
    ),
)
@click.argument("reference", type=REFERENCE, required=False)
@click.option("--sample", type=Sample(), help="Check only so many files, or such a part of them.")
@click.option(
    "--repair-from", metavar="URL", help="Take good copies from this object store (file, s3)."
)
@json_option
@pass_connection
def verify_command(
    connection: Connection,
    /,
    reference: str | None,
    sample: float | None,
    repair_from: str | None,
    as_json: bool,
) -> None:
    """Read stored files again and check every byte.

    Says which files are missing or corrupt, and what needs them; with REFERENCE, only those of one
    version, its base model's manifest and its scores. Files that nothing names are listed when all
    are checked: they do no harm.
    """
    from dovetail.errors import DigestMismatch

    with connection.open() as registry, byte_progress("verifying") as progress:
        found = registry.verify(
            reference, sample=sample, repair_from=repair_from, progress=progress
        )
    if as_json:
        print_json({"sound": found.sound} | _fields(found))
    else:
        _print(found)
    if not found.sound:
        hint = "restore the others" if repair_from else "take good copies with --repair-from URL"
        raise DigestMismatch(
            f"{len(found.missing):,} files are missing and {len(found.corrupt):,} corrupt; {hint}"
        )


def _fields(found: Verification) -> dict[str, Any]:
    import dataclasses

    return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}


def _print(found: Verification) -> None:
    rows = [
        *(
            ["repaired", short(b.digest), b.size, b.detail, _names(b.named_by)]
            for b in found.repaired
        ),
        *(
            [b.problem, short(b.digest), b.size, b.detail, _names(b.named_by)]
            for b in (*found.missing, *found.corrupt)
        ),
    ]
    if rows:
        print_table(["what", "file", "bytes", "found", "needed by"], rows)
    click.echo(f"{found.checked:,} files ({found.bytes_checked:,} bytes) were checked")
    if found.announced:
        say(f"{len(found.announced):,} files are being published just now")
    if found.orphaned:
        size = sum(blob.size for blob in found.orphaned)
        say(
            f"{len(found.orphaned):,} files ({size:,} bytes) are named by nothing; "
            "dovetail gc removes them"
        )


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""  # noqa: PLR2004 (a line)
    return ", ".join(names[:3]) + more
