"""A batch job with many adapters: our engine against transformers, PEFT and MLflow.

Random weights; no token ends a row, so every contestant writes the same number of tokens. Peers
run static batches sorted by the prompts' lengths, each to the largest budget in it.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.engine_results import (
    EngineReport,
    attach_rows,
    compare_rows,
    print_engine,
    write_results,
)

SHAPES = ("gpt2", "llama", "t5")
DTYPES = ("fp32", "bf16")
ATTACH = "attach"
"""The measurement of attaching; it stands beside the shapes."""

_LIMIT_S = 120.0
_ROUNDS = 3
_OWN = 3  # turns of our engine for one of others

print_report = print_engine


def run(
    *,
    quick: bool,
    shapes: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    rows: int | None = None,
    rounds: int | None = None,
    device: str = "cpu",
    results: Path | None = None,
) -> EngineReport:
    """Measure; quickly and on little, or properly.

    Args:
        quick: Use small models and few rows.
        shapes: Which shapes, and ``attach``; all of them if empty.
        dtypes: Which types; all of them if empty.
        rows: Rows of the job; 256 if None.
        rounds: Turns of transformers; PEFT has one less, and our engine three times as many, since
            its own ratios are the closest.
        device: Where to run, such as ``cuda``.
        results: Markdown file whose section is written anew.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dovetail-bench-") as place,
        patch.dict(
            os.environ, {"HF_HUB_OFFLINE": "1", "DOVETAIL_CACHE_DIR": f"{place}/fingerprints"}
        ),
    ):
        from benchmarks.engine_shapes import one_thread, quiet

        with quiet(), one_thread(on=quick):
            details = _measure(
                Path(place),
                quick=quick,
                shapes=shapes or (*SHAPES, ATTACH),
                dtypes=dtypes or DTYPES,
                device=device,
                rows=rows,
                rounds=rounds,
            )
    if results is not None:
        write_results(results, [details])
    found = [
        row for cell in details["cells"] for row in compare_rows(cell, adapters=details["adapters"])
    ]
    return EngineReport(
        name="engine",
        setting=details["setting"],
        rows=[
            *(replace(row, what=f"{row.what} against {row.peer}") for row in found),
            *attach_rows(details["attach"]),
        ],
        versions={name: version(name) for name in ("torch", "transformers", "peft", "mlflow")},
        details=details,
    )


def _measure(
    place: Path,
    *,
    quick: bool,
    shapes: Sequence[str],
    dtypes: Sequence[str],
    device: str,
    rows: int | None,
    rounds: int | None,
) -> dict[str, Any]:
    import torch

    from benchmarks.engine_arena import Sizes
    from benchmarks.engine_cell import measure_cell

    turns = rounds or (1 if quick else _ROUNDS)
    sizes = Sizes(
        rows=rows or (32 if quick else 256),
        adapters=4 if quick else 32,
        rank=4 if quick else 16,
        batch_size=8 if quick else 32,
        rounds=turns,
        own_rounds=turns if quick else _OWN * turns,
        peft_rounds=max(1, turns - 1),
        peer_rows=16 if quick else 64,
        switched=2 if quick else 4,
        square=256 if quick else 2048 if device == "cpu" else 8192,
        small=quick,
    )
    cells = []
    for shape in (name for name in shapes if name != ATTACH):
        for dtype in dtypes:
            folder = place / f"{shape}-{dtype}"
            folder.mkdir()
            cells.append(_as_json(measure_cell(folder, shape, dtype, device, sizes)))
    attach = _attach(place / ATTACH, quick=quick) if ATTACH in shapes else []
    processor = torch.cuda.get_device_name() if device.startswith("cuda") else _processor()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(
            f"{name} {version(name)}" for name in ("dovetail", "torch", "transformers", "peft")
        ),
        "setting": _setting(sizes),
        "adapters": sizes.adapters,
        "cells": cells,
        "attach": attach,
    }


def _setting(sizes: Any) -> str:
    from benchmarks.engine_work import BUDGETS, PROMPT_TOKENS

    low, high = PROMPT_TOKENS
    budgets = ", ".join(map(str, BUDGETS["skewed"]))
    return (
        f"{sizes.rows} rows, prompts of {low} to {high} tokens, budgets drawn from {budgets} "
        f"(uniform: 4 to 64), at most {sizes.batch_size} rows at once, greedy; {sizes.adapters} "
        "adapters take turns row by row. Turns are interleaved; speeds are medians, ratios medians "
        "of those of the turns that both took. Our engine runs "
        f"all rows in every turn; static batches {sizes.peer_rows} rows in each, as many of short "
        f"prompts as of long ones; set_adapter the rows of {sizes.switched} adapters; MLflow those "
        "of one. Useful work is two operations for each weight and token, the output layer's at "
        "new tokens alone, without attention's own products and without padding."
    )


def _as_json(cell: Any) -> dict[str, Any]:
    from benchmarks.engine_shapes import SHAPES as KNOWN

    return {
        "shape": cell.shape,
        "dtype": cell.dtype,
        "title": KNOWN[cell.shape].title,
        "rows": cell.rows,
        "contestants": {
            name: {
                "label": one.label,
                "seconds": one.seconds,
                "rows": one.rows,
                "tokens": one.tokens,
                "rows_per_s": one.rows_per_s,
                "tokens_per_s": one.tokens_per_s,
            }
            for name, one in cell.taken.items()
        },
        "agreement": cell.agreement,
        "changed": cell.changed,
        "peaks": cell.peaks,
        "flops": cell.flops,
        "where": cell.where,
        "notes": cell.notes,
    }


def _attach(place: Path, *, quick: bool) -> list[dict[str, Any]]:
    from benchmarks.engine_attach import measure_attach

    place.mkdir()
    marks = (1, 5, 10) if quick else (1, 100, 1000)
    found = measure_attach(place, marks=marks, limit_s=_LIMIT_S, small=quick)
    return [
        {
            "number": ours.number,
            "ours": ours.times.seconds,
            "peer_number": theirs.number,
            "theirs": theirs.times.seconds,
        }
        for ours, theirs in _side_by_side(found["ours"], found["theirs"])
    ]


def _side_by_side(ours: Sequence[Any], theirs: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Pair what is of the same rank; who stopped early is there with the last one reached."""
    for at, mine in enumerate(ours):
        yield mine, theirs[min(at, len(theirs) - 1)]


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
