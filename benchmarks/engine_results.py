"""What the engine's benchmark found: comparisons with goals, as tables, JSON and Markdown.

``python -m benchmarks.engine_results RESULTS.md FILE.json …`` writes the section anew from one or
several runs' files.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import Times
from benchmarks.report import Report, Row, write_section

_PEER = "compared with"
_GIGA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport(Report):
    """What the engine's benchmark found.

    Attributes:
        details: Speeds, agreement and peaks of each cell, as JSON can hold them.
    """

    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Two contestants and the goal for the first's rows per second, in those of the second."""

    what: str
    ours: str
    theirs: str
    at_least: float | None = None


_LORA = {"attention": "LoRA on attention", "all-linear": "LoRA on all linear layers"}
_PAIRS = (
    _Pair(what="32 mixed, LoRA on attention", ours="attention", theirs="bare", at_least=0.95),
    _Pair(what="32 mixed, LoRA on all linear", ours="all-linear", theirs="bare", at_least=0.90),
    _Pair(what="32 soft prompts mixed", ours="prompts", theirs="bare", at_least=0.97),
    _Pair(what="bare base", ours="bare", theirs="generate", at_least=2.0),
    _Pair(what="bare base", ours="bare", theirs="generate-slow"),
    _Pair(what="32 mixed, LoRA on attention", ours="attention", theirs="generate", at_least=1.8),
    _Pair(what="32 mixed, LoRA on all linear", ours="all-linear", theirs="generate", at_least=1.8),
    _Pair(what="32 soft prompts mixed", ours="prompts", theirs="generate", at_least=1.8),
    _Pair(what="bare base, uniform budgets", ours="bare-uniform", theirs="generate-uniform"),
    _Pair(
        what="32 mixed, LoRA on attention, uniform budgets",
        ours="attention-uniform",
        theirs="generate-uniform",
    ),
    *(
        _Pair(
            what=f"32 mixed, {name}",
            ours=kind,
            theirs=f"{peer}-{kind}{suffix}",
            at_least=None if suffix else goal,
        )
        for peer, goal in (("peft", 2.5), ("switch", 8.0))
        for kind, name in _LORA.items()
        for suffix in ("", "-slow")
    ),
    _Pair(what="32 mixed, LoRA on attention", ours="attention", theirs="mlflow"),
)


def compare_rows(cell: Mapping[str, Any], *, adapters: int) -> Iterator[Row]:
    """Compare the contestants of a cell; a time is that of all rows, scaled where not all ran."""
    taken, rows = cell["contestants"], cell["rows"]
    for pair in _PAIRS:
        if pair.ours in taken and pair.theirs in taken:
            yield Row(
                what=f"{cell['shape']} {cell['dtype']}: "
                + pair.what.replace("32", str(adapters), 1),
                ours=_times(taken[pair.ours], rows),
                peer=taken[pair.theirs]["label"],
                theirs=_times(taken[pair.theirs], rows),
                at_least=pair.at_least,
                by_turn=True,
            )


def _times(taken: Mapping[str, Any], rows: int) -> Times:
    each = zip(taken["seconds"], taken["rows"], strict=True)
    return Times(tuple(seconds / done * rows for seconds, done in each))


def print_engine(console: Console, report: EngineReport) -> None:
    """Print the tables of a run."""
    for title, head, body in _tables(report.details):
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        for at, name in enumerate(head):
            left = at == 0 or name == _PEER
            table.add_column(name, justify="left" if left else "right")
        for line in body:
            table.add_row(*line)
        console.print(table)
    for line in _remarks(report.details):
        console.print(line, highlight=False)
    console.print(report.setting, highlight=False)


def write_results(file: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write the section of a Markdown file anew, from the details of one or several runs.

    What else the file says stays. Of a cell that several runs have, the last one counts.
    """
    write_section(file, "engine", _markdown(_merged(runs)))


def _merged(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cells: dict[tuple[str, str], Any] = {}
    attach: list[Any] = []
    for run in runs:
        cells |= {(cell["shape"], cell["dtype"]): cell for cell in run["cells"]}
        attach = run["attach"] or attach
    return {**runs[-1], "cells": list(cells.values()), "attach": attach}


def _markdown(details: Mapping[str, Any]) -> Iterator[str]:
    yield "## The engine"
    yield ""
    yield f"{details['setting']}"
    yield ""
    yield f"{details['date']}; {details['machine']}; {details['versions']}."
    yield ""
    for title, head, body in _tables(details):
        yield f"### {title}"
        yield ""
        yield f"| {' | '.join(head)} |"
        yield f"|{'---|' + '---:|' * (len(head) - 1)}"
        yield from (f"| {' | '.join(line)} |" for line in body)
        yield ""
    for line in _remarks(details):
        yield f"- {line}"
    yield ""


def _tables(details: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    for cell in details["cells"]:
        name = f"{cell['title']}, {cell['dtype']}"
        rows = compare_rows(cell, adapters=details["adapters"])
        head = ["Dovetail", "rows/s", _PEER, "rows/s", "ratio", "goal", "met"]
        yield f"{name}: compared", head, [_comparison(row, cell["rows"]) for row in rows]
        head = ["contestant", "rows/s", "tokens/s", "turns", "rows in a turn", "turns' spread"]
        yield f"{name}: speeds", head, [_speed(one) for one in cell["contestants"].values()]
        head = ["Dovetail", "useful GFLOP/s", "of the GEMM peak", "of the skinny GEMM's peak"]
        yield f"{name}: matrix products", head, list(_utilisation(cell))
        if "where" in cell:
            yield f"{name}: where the time goes, seconds", *_where(cell)
            yield f"{name}: what adapters add to a step", *_limits(cell)
    if details["attach"]:
        head = ["attach", "Dovetail", "PEFT load_adapter", "ratio", "goal", "met"]
        yield (
            "Attach latency, T5-small, LoRA r=16 on q and v",
            head,
            [_attach(row) for row in attach_rows(details["attach"])],
        )


def attach_rows(attach: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Compare the latencies of attaching."""
    return [
        Row(
            what=f"attach no. {one['number']:,}",
            ours=Times(tuple(one["ours"])),
            peer=f"PEFT load_adapter, no. {one['peer_number']:,}",
            theirs=Times(tuple(one["theirs"])),
            below=0.005,
        )
        for one in attach
    ]


def _comparison(row: Row, rows: int) -> list[str]:
    assert row.theirs is not None
    return [
        row.what.partition(": ")[2],
        f"{rows / row.ours.median:.3g}",
        row.peer,
        f"{rows / row.theirs.median:.3g}",
        f"{row.ratio:.2f}",
        row.goal,
        _met(row),
    ]


def _speed(one: Mapping[str, Any]) -> list[str]:
    each = [rows / taken for taken, rows in zip(one["seconds"], one["rows"], strict=True)]
    spread = f"{min(each):.3g}-{max(each):.3g}"
    done = str(max(one["rows"]))
    speeds = [f"{one['rows_per_s']:.3g}", f"{one['tokens_per_s']:,.3g}"]
    return [one["label"], *speeds, str(len(each)), done, spread]


def _utilisation(cell: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, flops in cell["flops"].items():
        one = cell["contestants"][name]
        speed = flops / cell["rows"] * one["rows_per_s"]
        shares = [f"{speed / cell['peaks'][peak]:.0%}" for peak in ("square", "skinny")]
        yield [one["label"], f"{speed / _GIGA:.1f}", *shares]


def _where(cell: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    names = list(cell["where"])
    stages = {stage: one["passes"] for stage, one in cell["where"][names[0]]["stages"].items()}
    lines = []
    for stage in stages:
        each = [cell["where"][name]["stages"][stage] for name in names]
        lines.append([f"**{stage}**, passes", *(f"{one['passes']}" for one in each)])
        lines += [
            [part, *(f"{one['seconds'][part]:.2f}" for one in each)] for part in each[0]["seconds"]
        ]
    outside = [
        cell["where"][name]["total"]
        - sum(sum(one["seconds"].values()) for one in cell["where"][name]["stages"].values())
        for name in names
    ]
    totals = [cell["where"][name]["total"] for name in names]
    lines.append(["**the engine around them**", *(f"{one:.2f}" for one in outside)])
    lines.append(["**total**", *(f"{one:.2f}" for one in totals)])
    return ["part", *(cell["contestants"][name]["label"] for name in names)], lines


def _limits(cell: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = [
        *("Dovetail", "layers", "adapters", "their matrices", "at best", "measured"),
        *("bare step", "steps' limit", "steps measured"),
    ]
    lines = []
    for name, one in cell["where"].items():
        if "limits" in one:
            found = one["limits"]
            lines.append(
                [
                    cell["contestants"][name]["label"],
                    f"{found['hooks']:.0f}",
                    f"{found['adapters']:.1f}",
                    f"{found['bytes'] / 1e6:.0f} MB",
                    *(f"{found[key] * 1e3:.2f} ms" for key in ("at_best", "measured", "bare")),
                    *(f"{found[key]:.2f}" for key in ("limit", "found")),
                ]
            )
    return head, lines


def _attach(row: Row) -> list[str]:
    assert row.theirs is not None
    peer = f"{row.theirs.median * 1e3:.3g} ms ({row.peer.rpartition(', ')[2]})"
    ours = f"{row.ours.median * 1e3:.3g} ms"
    return [row.what, ours, peer, f"{row.ratio:.2f}", row.goal, _met(row)]


def _met(row: Row) -> str:
    return "" if row.met is None else "yes" if row.met else "NO"


def _remarks(details: Mapping[str, Any]) -> Iterator[str]:
    for cell in details["cells"]:
        name = f"{cell['shape']} {cell['dtype']}"
        peaks = ", ".join(f"{key} {value / _GIGA:,.0f}" for key, value in cell["peaks"].items())
        yield f"{name}: GEMM peaks in GFLOP/s: {peaks}."
        for what, key in (("rows with equal tokens", "agreement"), ("rows changed", "changed")):
            found = ", ".join(f"{name} {n}/{of}" for name, (n, of) in cell[key].items())
            yield f"{name}: {what}: {found}."
        yield from (f"{name}: {note}." for note in cell["notes"])
    if details["attach"]:
        ours, theirs = (
            statistics.median(details["attach"][-1][side])
            / statistics.median(details["attach"][0][side])
            for side in ("ours", "theirs")
        )
        yield (
            f"attach: the last takes {ours:.2f} times what the first took, PEFT's {theirs:.2f}; "
            "medians of five, up to that one."
        )


def main(arguments: Sequence[str]) -> None:
    """Write a Markdown file's section from the JSON files of runs."""
    target, *files = map(Path, arguments)
    runs = []
    for file in files:
        reports = json.loads(file.read_text(encoding="utf-8"))["reports"]
        runs += [report["details"] for report in reports if report["name"] == "engine"]
    write_results(target, runs)


if __name__ == "__main__":
    main(sys.argv[1:])
