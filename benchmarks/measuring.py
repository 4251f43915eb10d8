"""Time things side by side, so that what disturbs one disturbs the other as well."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Times:
    """How long something took, again and again.

    Attributes:
        seconds: Each time.
    """

    seconds: tuple[float, ...]

    @property
    def n(self) -> int:
        """How many times."""
        return len(self.seconds)

    @property
    def median(self) -> float:
        """The median in seconds."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """The 10th percentile in seconds."""
        return self._at(0.1)

    @property
    def high(self) -> float:
        """The 90th percentile in seconds."""
        return self._at(0.9)

    def _at(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    before: Callable[[], object] | None = None,
) -> dict[str, Times]:
    """Run each in turn, round by round, and return the times of each.

    The order is reversed in every second round. Garbage is collected before each round, outside
    the times.

    Args:
        contestants: What to call, by name.
        rounds: How many times each is timed.
        warmup: Rounds before those, which are not counted.
        before: Called before each turn, outside the times.
    """
    # What is there already is not searched for garbage: MLflow's half a million objects would
    # otherwise be gone through again and again, in whoever's time that falls.
    gc.collect()
    gc.freeze()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warmup, rounds):
        order = list(contestants)
        gc.collect()
        for name in order if number % 2 == 0 else reversed(order):
            run = contestants[name]
            if before is not None:
                before()
            start = time.perf_counter()
            run()
            end = time.perf_counter()
            if number >= 0:
                taken[name].append(end - start)
    gc.unfreeze()
    return {name: Times(tuple(seconds)) for name, seconds in taken.items()}
