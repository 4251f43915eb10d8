"""One cell of the table: all contestants on one shape in one type."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_arena import Arena, Sizes
from benchmarks.engine_shapes import SHAPES
from benchmarks.engine_turns import Taken, say, take_turns
from benchmarks.engine_work import Tokens

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was found on one shape in one type.

    Attributes:
        shape: Key of the shape.
        dtype: Key of the type.
        rows: Rows of the job.
        taken: Turns by contestant.
        agreement: Rows with equal tokens and rows compared, by pair of contestants.
        changed: Rows whose tokens the adapters change, and rows compared, by contestant.
        peaks: Operations per second of matrix products alone.
        flops: Useful operations of the job, by contestant.
        where: Where the time goes, by contestant, of `measure_where`; and its `limits`.
        notes: What could not be done.
    """

    shape: str
    dtype: str
    rows: int
    taken: dict[str, Taken]
    agreement: dict[str, tuple[int, int]]
    changed: dict[str, tuple[int, int]]
    peaks: dict[str, float]
    flops: dict[str, float]
    where: dict[str, Any]
    notes: list[str]


AGREES = (
    ("bare", "generate"),
    ("bare", "generate-slow"),
    ("attention", "peft-attention"),
    ("all-linear", "peft-all-linear"),
    ("attention", "switch-attention"),
    ("all-linear", "switch-all-linear"),
    ("attention", "mlflow"),
    ("prompts", "alone"),
)
"""Contestants that should write the same tokens."""


def measure_cell(place: Path, shape: str, dtype: str, device: str, sizes: Sizes) -> Cell:
    """Make the models, let all contestants take their turns, and compare what they wrote."""
    with ExitStack() as stack:
        say(f"{shape} {dtype}")
        arena = Arena(place, SHAPES[shape], DTYPES[dtype], device, sizes, stack)
        if not sizes.small:
            warming = {
                name: arena.rehearsal(name)
                for name in arena.contestants
                if not name.endswith(("-slow", "-uniform"))
            }
            take_turns(warming, rounds=1, title="warming up")
        taken = take_turns(arena.contestants, rounds=sizes.own_rounds, title=f"{shape} {dtype}")
        arena.time_switching()
        outputs = {name: found.output for name, found in taken.items()} | arena.checks()
        pairs = [(a, b) for a, b in AGREES if a in outputs and b in outputs]
        mixed = [name for name in ("attention", "all-linear", "prompts") if name in outputs]
        return Cell(
            shape=shape,
            dtype=dtype,
            rows=sizes.rows,
            taken=taken,
            agreement={f"{a} = {b}": _equal(outputs[a], outputs[b]) for a, b in pairs},
            changed={name: _different(outputs[name], outputs["bare"]) for name in mixed},
            peaks=arena.peaks(),
            flops=arena.flops(),
            where=arena.where(),
            notes=arena.notes,
        )


def _equal(ours: Tokens, theirs: Tokens) -> tuple[int, int]:
    rows = ours.keys() & theirs.keys()
    return sum(ours[row] == theirs[row] for row in rows), len(rows)


def _different(ours: Tokens, bare: Tokens) -> tuple[int, int]:
    equal, rows = _equal(ours, bare)
    return rows - equal, rows
