"""The walk through the main job, by the calls and commands that everybody uses.

A frozen base; a soft prompt and a LoRA trained on it and registered; their scores measured; the
better one promoted, and a worse one refused; a base with one changed weight refused; the
production version pulled by its alias and used on new dialogues.
"""

from __future__ import annotations

import os
import time

from rich.console import Console

from dovetail.demo.narrator import Narrator
from dovetail.demo.place import prepare_place
from dovetail.demo.report import DemoResult, print_report
from dovetail.demo.steps import NAME, STEPS, Plan, Walk
from dovetail.registry.store import Registry

__all__ = ["Plan", "run_demo"]


def run_demo(
    directory: str | os.PathLike[str],
    *,
    console: Console,
    output: Console,
    plan: Plan | None = None,
) -> DemoResult:
    """Do the main job from the beginning to the end in a directory of its own.

    The registry is in that directory too; nothing else is touched. What an earlier run left there
    is removed first.

    Args:
        directory: Where to work.
        console: Told of each step; a console on standard error.
        output: Where the final table goes; a console on standard output.
        plan: How much to do.

    Raises:
        ConflictError: The directory has something in it that no demo made.
    """
    started = time.monotonic()
    place = prepare_place(directory)
    with Registry.open(
        place.database_url, place.objects_url, cache_dir=place.cache, actor="demo"
    ) as registry:
        walk = Walk(place, registry, Narrator(console, steps=STEPS), plan or Plan())
        base = walk.take_base()
        versions = walk.train(base)
        lines = walk.measure(base, versions)
        production, lines = walk.promote(lines)
        walk.refuse_changed_base()
        rows = walk.score_fresh()
    result = DemoResult(
        place=place,
        name=NAME,
        production=production,
        lines=lines,
        summaries=place.summaries,
        rows=rows,
        seconds=time.monotonic() - started,
    )
    console.print()
    print_report(result, output)
    return result
