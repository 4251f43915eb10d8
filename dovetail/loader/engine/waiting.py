"""The rows that wait for a slot, and which of them enter next."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Set

from dovetail.loader.engine.task import Task
from dovetail.loader.lane import Mixture


class Waiting:
    """Rows that wait, the longest first, those of equal length by their adapters.

    A row that may write many tokens goes before the others: begun late, it would go on alone when
    all others are done, and a batch that is nearly empty costs nearly as much as a full one. Among
    rows of about one limit, those whose adapters run already go first, then those of the adapters
    with most rows: rows that share adapters share the reading of their weights. And no row is
    passed over for ever.

    Args:
        patience: Rows that may come after one, at most, before it goes first.
    """

    def __init__(self, *, patience: int) -> None:
        self._patience = patience
        self._classes: dict[int, dict[Mixture, list[Task]]] = {}
        self._oldest: deque[Task] = deque()
        self._here: set[int] = set()
        self._newest = 0

    def __len__(self) -> int:
        return len(self._here)

    def add(self, task: Task) -> None:
        """Let a row wait."""
        groups = self._classes.setdefault(_class(task), {})
        insort(groups.setdefault(task.lane.mixture, []), task, key=_order)
        self._oldest.append(task)
        self._here.add(task.index)
        self._newest = max(self._newest, task.index)

    def take(self, free: int, *, running: Iterable[Task]) -> list[Task]:
        """Choose the rows that enter.

        Args:
            free: Slots that are free.
            running: What is in the other slots.
        """
        mixtures = {task.lane.mixture for task in running}
        chosen: list[Task] = []
        while self._here and len(chosen) < free:
            task = self._overdue() or self._next(mixtures)
            self._remove(task)
            mixtures.add(task.lane.mixture)
            chosen.append(task)
        return chosen

    def longest(self, length: Callable[[Task], int]) -> int:
        """Return the largest length of a row that waits."""
        groups = (group for groups in self._classes.values() for group in groups.values())
        return max((length(task) for group in groups for task in group), default=0)

    def _overdue(self) -> Task | None:
        while self._oldest[0].index not in self._here:
            self._oldest.popleft()
        task = self._oldest[0]
        return task if self._newest - task.index > self._patience else None

    def _next(self, running: Set[Mixture]) -> Task:
        groups = self._classes[max(self._classes)]
        together = [group for mixture, group in groups.items() if mixture in running]
        if together:
            return max(together, key=lambda group: group[0].limit)[0]
        return max(groups.values(), key=len)[0]

    def _remove(self, task: Task) -> None:
        groups = self._classes[_class(task)]
        group = groups[task.lane.mixture]
        group.remove(task)
        if not group:
            del groups[task.lane.mixture]
        if not groups:
            del self._classes[_class(task)]
        self._here.remove(task.index)


def _class(task: Task) -> int:
    """Return the same for limits that are about equal: two classes from one power of two on."""
    return int(2 * math.log2(task.limit))


def _order(task: Task) -> tuple[int, int]:
    return -task.limit, task.index
