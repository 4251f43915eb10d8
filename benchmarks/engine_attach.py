"""Attaching the first, the hundredth and the thousandth adapter, against PEFT's load_adapter."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file

from benchmarks.engine_shapes import SHAPES, load_frozen, write_adapters, write_base
from benchmarks.engine_turns import say
from benchmarks.measuring import Times
from dovetail import Registry
from dovetail.loader import open_base

WINDOW = 5
"""How many attaches, up to the one that is named, a median is taken of."""

_SHAPE = SHAPES["t5"]
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long one attach took when so many were there already.

    Attributes:
        number: The how-manieth it was.
        times: Attaches up to that one; for the first, that of a fresh base again and again.
    """

    number: int
    times: Times


def measure_attach(
    place: Path, *, marks: Sequence[int], limit_s: float, small: bool
) -> dict[str, list[Latency]]:
    """Attach adapters of T5-small's shape, LoRA r=16 on q and v, until the last mark or the limit.

    Ours come from a registry whose cache has them all. PEFT loads the same directories.

    Args:
        place: An empty directory.
        marks: Which attaches count, ascending.
        limit_s: When to stop, for either side. What was reached then is the last mark.
        small: Use a small model.
    """
    base = write_base(place / "base", _SHAPE, dtype=torch.float32, small=small)
    say(f"attach: registering {marks[-1]} adapters")
    url = f"sqlite:///{place / 'registry.db'}"
    store = (place / "objects").as_uri()
    with Registry.open(url, store, cache_dir=place / "cache", actor="bench") as registry:
        registry.register_base(base)
        references = _register(registry, place, base, count=marks[-1], small=small)
        folders = [one.path for one in registry.pull_many(references)]
        say("attach: Dovetail")
        ours = _ours(base, registry, references, marks=marks, limit_s=limit_s)
    say("attach: PEFT load_adapter")
    theirs = _theirs(base, folders, marks=marks, limit_s=limit_s)
    return {"ours": ours, "theirs": theirs}


def _register(registry: Registry, place: Path, base: Path, *, count: int, small: bool) -> list[str]:
    """Register one adapter again and again with another tensor each time."""
    rank = 4 if small else 16
    shape = SHAPES["t5"]
    options: dict[str, Any] = {"count": 1, "rank": rank, "dtype": torch.float32}
    (source,) = write_adapters(place / "adapter", base, shape, kind="query-value", **options)
    tensors = load_file(source / _WEIGHTS)
    changed = tensors[min(tensors)]
    references = []
    for number in range(count):
        changed.fill_(0.001 * (number + 1))
        save_file(tensors, source / _WEIGHTS, metadata={"format": "pt"})
        version = registry.register("adapter", source, base=base).version
        references.append(str(version.reference))
    shutil.rmtree(source)
    return references


def _ours(
    base: Path,
    registry: Registry,
    references: Sequence[str],
    *,
    marks: Sequence[int],
    limit_s: float,
) -> list[Latency]:
    with open_base(base, registry=registry) as warm:
        warm.attach(references[-1])

    def first() -> float:
        with open_base(base, registry=registry) as fresh:
            start = time.perf_counter()
            fresh.attach(references[0])
            return time.perf_counter() - start

    with open_base(base, registry=registry) as opened:
        return _series(first, lambda at: opened.attach(references[at]), marks, limit_s)


def _theirs(
    base: Path, folders: Sequence[Path], *, marks: Sequence[int], limit_s: float
) -> list[Latency]:
    bare: Any = load_frozen(base, _SHAPE, dtype=torch.float32, device="cpu")
    wrapped: list[Any] = []

    def wrap() -> None:
        wrapped[:] = [peft.PeftModel.from_pretrained(bare, folders[0], adapter_name="0")]

    def first() -> float:
        start = time.perf_counter()
        wrap()
        end = time.perf_counter()
        wrapped[0].unload()
        return end - start

    # The first wraps the base, all others come by load_adapter.
    def load(at: int) -> None:
        if at == 0:
            wrap()
        else:
            wrapped[0].load_adapter(folders[at], adapter_name=str(at))

    return _series(first, load, marks, limit_s)


def _series(
    first: Callable[[], float],
    attach: Callable[[int], object],
    marks: Sequence[int],
    limit_s: float,
) -> list[Latency]:
    opening = [first() for _ in range(WINDOW + 1)]
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < marks[-1] and time.perf_counter() - began < limit_s:
        start = time.perf_counter()
        attach(len(taken))
        taken.append(time.perf_counter() - start)
    reached = [mark for mark in marks if 1 < mark <= len(taken)]
    if len(taken) < marks[-1] and len(taken) not in reached:
        reached.append(len(taken))
    return [
        Latency(number=1, times=Times(tuple(opening[1:]))),
        *(
            Latency(number=mark, times=Times(tuple(taken[max(1, mark - WINDOW) : mark])))
            for mark in reached
        ),
    ]
