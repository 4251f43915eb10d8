"""What the MLflow benchmark found, as a section of a Markdown file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import Times
from benchmarks.report import Report, Row

_BEGIN, _END = "<!-- mlflow: begin -->", "<!-- mlflow: end -->"


def write_results(file: Path, report: Report, details: Mapping[str, Any]) -> None:
    """Write the section of a Markdown file anew; what else the file says stays."""
    section = "\n".join([_BEGIN, "", *_markdown(report, details), _END])
    before = file.read_text(encoding="utf-8") if file.is_file() else "# Results\n"
    if _BEGIN in before and _END in before:
        head, _, rest = before.partition(_BEGIN)
        text = head + section + rest.partition(_END)[2]
    else:
        text = f"{before.rstrip()}\n\n{section}\n"
    file.write_text(text, encoding="utf-8")


def _markdown(report: Report, details: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    yield "## MLflow"
    yield ""
    yield f"{report.setting} Medians of turns that are interleaved."
    yield ""
    yield f"{details['date']}; {details['machine']}; {versions}."
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
