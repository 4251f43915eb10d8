"""What the demo ends with: a table of scores, and commands to look around in what it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dovetail.demo.place import Place
from dovetail.registry.records import Evaluation, Score

__all__ = ["METRICS", "DemoResult", "Line", "print_report"]

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_COLUMN = 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
        label: The version's number; empty for the bare base.
        title: What it is.
        parameters: Trained weights, or None for the bare base.
        evaluation: Its scores.
        outcome: What became of it.
    """

    label: str
    title: str
    parameters: int | None
    evaluation: Evaluation
    outcome: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What a run of the demo made.

    Attributes:
        place: Where it is.
        name: Adapter name.
        production: Version that ``production`` points to.
        lines: What was measured: the bare base, then the versions.
        summaries: File of scored rows.
        rows: Rows in it.
        seconds: How long the whole took.
    """

    place: Place
    name: str
    production: int
    lines: tuple[Line, ...]
    summaries: Path
    rows: int
    seconds: float


def print_report(result: DemoResult, console: Console) -> None:
    """Print the table and the commands.

    Args:
        result: What was made.
        console: Where it goes; a console on standard output.
    """
    n = result.lines[0].evaluation.n
    console.print(Text(f"{result.name}: {n} held-out dialogues, with 95 % intervals", "bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="left")
    for line in result.lines:
        table.add_column(Text(line.title), justify="left", max_width=_COLUMN)
    table.add_row("version", *(line.label for line in result.lines))
    table.add_row("weights", *(f"{line.parameters or 0:,}" for line in result.lines))
    for metric in METRICS:
        cells = (_score_text(line.evaluation.scores[metric]) for line in result.lines)
        table.add_row(metric, *map(Text, cells))
    table.add_row("outcome", *(line.outcome for line in result.lines))
    console.print(table)
    console.print(
        Text(f"{result.rows} new dialogues summarised in {result.summaries}"), soft_wrap=True
    )
    console.print(Text(f"{result.seconds:.0f} s in all. Look around in what was made:\n"))
    for command in _commands(result):
        console.print(Text(f"  {command}"), soft_wrap=True)


def _commands(result: DemoResult) -> Sequence[str]:
    name, place = result.name, result.place
    first, second = (line.label for line in result.lines[1:3])
    return (
        f"export DOVETAIL_DATABASE_URL='{place.database_url}'",
        f"export DOVETAIL_OBJECTS_URL='{place.objects_url}'",
        f"dovetail list {name}",
        f"dovetail show {name}@production",
        f"dovetail compare {name}/{first} {name}/{second}",
        "dovetail search 'metrics.rougeL > 0.8'",
        f"dovetail history {name}",
    )


def _score_text(score: Score) -> str:
    if score.ci_low is None or score.ci_high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f}\n{score.ci_low:.3f}-{score.ci_high:.3f}"
