"""What a benchmark found, as tables and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import Times

_MS = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing measured.

    Attributes:
        what: What was done.
        ours: How long Dovetail took.
        peer: Who else did it, or empty.
        theirs: How long the peer took.
        at_least: Goal for the ratio, the peer's median to ours.
        below: Goal for our median, in seconds.
        by_turn: Whether both took turns, so that what slows a turn slows both.
    """

    what: str
    ours: Times
    peer: str = ""
    theirs: Times | None = None
    at_least: float | None = None
    below: float | None = None
    by_turn: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times as long the peer took: by the medians, or the median of their turns."""
        if self.theirs is None:
            return None
        if self.by_turn:
            turns = zip(self.theirs.seconds, self.ours.seconds, strict=False)  # one may have more
            return statistics.median(theirs / ours for theirs, ours in turns)
        return self.theirs.median / self.ours.median

    @property
    def goal(self) -> str:
        """The goal in words, or nothing."""
        parts = []
        if self.at_least is not None:
            parts.append(f"≥ {self.at_least:g}x")
        if self.below is not None:
            parts.append(f"< {self.below * _MS:g} ms")
        return ", ".join(parts)

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None without a goal."""
        if not self.goal:
            return None
        slow = self.below is not None and self.ours.median >= self.below
        behind = self.at_least is not None and (self.ratio or 0.0) < self.at_least
        return not slow and not behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one benchmark found.

    Attributes:
        name: The benchmark.
        setting: What was measured on, in a sentence or two.
        rows: The measurements.
    """

    name: str
    setting: str
    rows: Sequence[Row]
    versions: dict[str, str] = field(default_factory=dict)


def print_report(console: Console, report: Report) -> None:
    """Print the table of one benchmark."""
    table = Table(box=box.SIMPLE_HEAD, title=report.name, title_justify="left")
    table.add_column("what")
    for column in ("Dovetail ms", "10-90 %", "peer ms", "10-90 %", "ratio", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("peer")
    for row in report.rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        table.add_row(
            row.what,
            *_cells(row.ours),
            *(_cells(row.theirs) if row.theirs else ("", "")),
            ratio,
            str(row.ours.n),
            row.peer,
        )
    console.print(table)
    console.print(report.setting, highlight=False)
    console.print()


def print_summary(console: Console, reports: Sequence[Report]) -> None:
    """Print every goal and whether it was met."""
    table = Table(box=box.SIMPLE_HEAD, title="goals", title_justify="left")
    for column in ("what", "goal", "measured", "met"):
        table.add_column(column)
    for report in reports:
        for row in report.rows:
            if row.met is None:
                continue
            parts = [] if row.ratio is None else [f"{row.ratio:.2f}x"]
            if row.below is not None:
                parts.append(f"{row.ours.median * _MS:.3g} ms")
            measured = ", ".join(parts)
            table.add_row(
                f"{report.name}: {row.what}", row.goal, measured, "yes" if row.met else "NO"
            )
    console.print(table)


def as_json(report: Report) -> dict[str, Any]:
    """Return what JSON can hold: every single time included."""
    return {
        "name": report.name,
        "setting": report.setting,
        "versions": report.versions,
        "rows": [
            {
                "what": row.what,
                "peer": row.peer or None,
                "ours_s": list(row.ours.seconds),
                "theirs_s": list(row.theirs.seconds) if row.theirs else None,
                "ratio": row.ratio,
                "goal": row.goal or None,
                "met": row.met,
            }
            for row in report.rows
        ],
    }


def _cells(times: Times) -> tuple[str, str]:
    low, high = times.low * _MS, times.high * _MS
    return _number(times.median * _MS), f"{_number(low)}-{_number(high)}"


def _number(value: float) -> str:
    """Write three digits, and no powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_section(file: Path, name: str, lines: Iterable[str]) -> None:
    """Write the section of a Markdown file with this name anew; what else the file says stays."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = "\n".join([begin, "", *lines, end])
    before = file.read_text(encoding="utf-8") if file.is_file() else "# Results\n"
    if begin in before and end in before:
        head, _, rest = before.partition(begin)
        text = head + section + rest.partition(end)[2]
    else:
        text = f"{before.rstrip()}\n\n{section}\n"
    file.write_text(text, encoding="utf-8")
