"""What commands print: tables for people, one JSON document for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dovetail.registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.progress import ProgressColumn

    from dovetail.registry.records import Score

SHORT_DIGEST = len("sha256:") + 12
_WIDE = 10_000


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Turn records into what JSON can hold; times are ISO 8601 in UTC.

    Examples:
        >>> plain((Reference(name="a", number=1), None))
        ['a/1', None]
    """
    if isinstance(value, Reference | Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        reference = getattr(value, "reference", None)
        return {"reference": str(reference), **fields} if reference is not None else fields
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def console(*, stderr: bool = False) -> Console:
    """Return a console that leaves text as it is."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = ""
) -> None:
    """Print a table; numbers are set to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if title:
        click.echo(title)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    from rich.console import Console

    # Into a pipe or file, nothing is folded: a line stays a line.
    width = None if sys.stdout.isatty() else _WIDE
    Console(highlight=False, width=width).print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values below each other, leaving out what is empty."""
    shown = {name: value for name, value in fields.items() if value not in (None, "", {}, (), [])}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {value}")


def say(message: str) -> None:
    """Tell the person at the terminal something; never mixed with the output."""
    click.echo(message, err=True)


def short(digest: str | None) -> str:
    """Return the beginning of a digest, enough to tell it from others."""
    return (digest or "")[:SHORT_DIGEST]


def moment(time: datetime) -> str:
    """Write a time for people."""
    return f"{time:%Y-%m-%d %H:%M}Z"


def score_text(score: Score) -> str:
    """Write a score with its interval."""
    if score.ci_low is None or score.ci_high is None:
        return f"{score.value:.4f}"
    return f"{score.value:.4f} [{score.ci_low:.4f}, {score.ci_high:.4f}]"


@contextmanager
def row_progress(label: str) -> Iterator[Callable[[int, int | None, int], None]]:
    """Show rows done, rows per second and the time left, on stderr."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        """Rows per second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.completed / task.elapsed:,.1f} rows/s" if task.elapsed else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console(stderr=True)) as progress:
        task = progress.add_task(label, total=None, note="")

        def update(done: int, total: int | None, failed: int) -> None:
            note = f"{failed:,} with errors" if failed else ""
            progress.update(task, completed=done, total=total, note=note)

        yield update


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many bytes are done, on stderr, once it takes noticeable time."""
    from rich.progress import DownloadColumn

    with _progress(label, DownloadColumn()) as update:
        yield update


@contextmanager
def count_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of how many things are done, on stderr."""
    from rich.progress import MofNCompleteColumn

    with _progress(label, MofNCompleteColumn()) as update:
        yield update


@contextmanager
def _progress(label: str, amount: ProgressColumn) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), amount, TimeRemainingColumn())
    out = console(stderr=True)
    # Where nobody sees the bar, its end would be an empty line.
    progress = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
    task = progress.add_task(label, total=None)

    def update(done: int, total: int) -> None:
        progress.start()  # at the first news, and gone with the last: one bar at a time
        progress.update(task, completed=done, total=total)
        if done >= total:
            progress.stop()

    try:
        yield update
    finally:
        progress.stop()
