"""Contestants take turns at a job, so that what disturbs one disturbs the others as well."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.engine_work import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """Someone who does the job, or part of it in each turn."""

    label: str
    run: Callable[[int], Tokens]
    turns: int


@dataclass(slots=True, kw_only=True)
class Taken:
    """What the turns of a contestant took and brought."""

    label: str
    seconds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    output: Tokens = field(default_factory=dict)

    def per_row(self) -> list[float]:
        """Return seconds for one row, of each turn."""
        return [taken / rows for taken, rows in zip(self.seconds, self.rows, strict=True)]

    @property
    def rows_per_s(self) -> float:
        """The median over turns."""
        return 1.0 / statistics.median(self.per_row())

    @property
    def tokens_per_s(self) -> float:
        """The median over turns."""
        each = zip(self.tokens, self.seconds, strict=True)
        return statistics.median(tokens / taken for tokens, taken in each)


def take_turns(
    contestants: Mapping[str, Contestant], *, rounds: int, title: str = ""
) -> dict[str, Taken]:
    """Let each run in turn, round by round, in reverse order in every second round."""
    gc.collect()
    gc.freeze()
    taken = {name: Taken(label=one.label) for name, one in contestants.items()}
    for turn in range(rounds):
        playing = [name for name, one in contestants.items() if turn < one.turns]
        gc.collect()
        for name in playing if turn % 2 == 0 else reversed(playing):
            start = time.perf_counter()
            output = contestants[name].run(turn)
            seconds = time.perf_counter() - start
            mine = taken[name]
            mine.seconds.append(seconds)
            mine.rows.append(len(output))
            mine.tokens.append(sum(map(len, output.values())))
            mine.output |= output
            if title:
                speed = f"{len(output) / seconds:.2f} rows/s"
                say(f"{title}, round {turn + 1}: {mine.label}: {seconds:.1f} s, {speed}")
    gc.unfreeze()
    return taken


def say(text: str) -> None:
    """Tell on standard error what is going on."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
