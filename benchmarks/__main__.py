"""``python -m benchmarks [NAME …] [--quick] [--json FILE]``, and options of some of them."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.report import as_json, print_report, print_summary
from dovetail import __version__

BENCHMARKS = ("registry", "storage", "scale", "fingerprint", "startup", "engine", "mlflow")
"""Modules of this package, each with a function ``run(*, quick) -> Report``.

One may have a ``print_report`` of its own.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run benchmarks and print what they found; a goal that is not met is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    _add_engine_options(parser)
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
        module = importlib.import_module(f"benchmarks.{name}")
        own = _own_options(name, options)
        report = module.run(quick=options.quick, **own)
        reports.append(report)
        getattr(module, "print_report", print_report)(console, report)
        listed = ", ".join(f"{key} {value}" for key, value in report.versions.items())
        load = f"load before and after {before:.1f}, {os.getloadavg()[0]:.1f}"
        console.print(f"{listed}; {load}\n", style="dim", highlight=False)
    print_summary(console, reports)
    if options.json is not None:
        found = [as_json(one) | {"details": getattr(one, "details", {})} for one in reports]
        result = {"system": system, "reports": found}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine", "what of it to run; repeat to name several")
    group.add_argument("--shape", action="append", choices=("gpt2", "llama", "t5", "attach"))
    group.add_argument("--dtype", action="append", choices=("fp32", "bf16"))
    group.add_argument("--rows", type=int, help="rows of the job (256)")
    group.add_argument("--rounds", type=int, help="turns of each contestant (3, PEFT 2)")
    group.add_argument("--device", default="cpu", help="where to run (cpu)")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="write a Markdown section (engine, mlflow)"
    )


def _own_options(name: str, options: argparse.Namespace) -> dict[str, Any]:
    if name == "mlflow":
        return {"results": options.results}
    return _engine_options(options) if name == "engine" else {}


def _engine_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "shapes": options.shape or (),
        "dtypes": options.dtype or (),
        "rows": options.rows,
        "rounds": options.rounds,
        "device": options.device,
        "results": options.results,
    }


if __name__ == "__main__":
    main()
