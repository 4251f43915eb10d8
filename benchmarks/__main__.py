"""``python -m benchmarks [NAME …] [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.report import as_json, print_report, print_summary
from dovetail import __version__

BENCHMARKS = ("registry", "storage", "scale", "fingerprint", "startup")
"""Modules of this package, each with a function ``run(*, quick) -> Report``."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run benchmarks and print what they found; a goal that is not met is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; known are: {', '.join(BENCHMARKS)}")
    console = Console(width=None if Console().is_terminal else 160)
    system = (
        f"Dovetail {__version__}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores"
    )
    console.print(f"{system}; medians, interleaved", highlight=False)
    reports = []
    for name in options.names or BENCHMARKS:
        before = os.getloadavg()[0]
        report = importlib.import_module(f"benchmarks.{name}").run(quick=options.quick)
        reports.append(report)
        print_report(console, report)
        listed = ", ".join(f"{key} {value}" for key, value in report.versions.items())
        load = f"load before and after {before:.1f}, {os.getloadavg()[0]:.1f}"
        console.print(f"{listed}; {load}\n", style="dim", highlight=False)
    print_summary(console, reports)
    if options.json is not None:
        result = {"system": system, "reports": [as_json(report) for report in reports]}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
