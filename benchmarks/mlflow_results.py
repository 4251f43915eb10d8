"""What the MLflow benchmark found, as a section of a Markdown file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import Times
from benchmarks.report import Report, Row, write_section


def write_results(file: Path, report: Report) -> None:
    """Write the section of a Markdown file anew; what else the file says stays."""
    write_section(file, "mlflow", _markdown(report))


def _markdown(report: Report) -> Iterator[str]:
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    yield "## MLflow"
    yield ""
    yield f"{report.setting} Medians of turns that are interleaved."
    yield ""
    yield f"{report.details['date']}; {report.details['machine']}; {versions}."
    yield ""
    yield "| what | Dovetail | peer | ratio | goal | met | n | peer is |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for row in report.rows:
        yield f"| {' | '.join(_cells(row))} |"
    yield ""


def _cells(row: Row) -> list[str]:
    return [
        row.what,
        _time(row.ours),
        "" if row.theirs is None else _time(row.theirs),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        row.goal,
        "" if row.met is None else "yes" if row.met else "NO",
        str(row.ours.n),
        row.peer,
    ]


def _time(times: Times) -> str:
    milliseconds = times.median * 1e3
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"
