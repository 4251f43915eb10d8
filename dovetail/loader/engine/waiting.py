"""The rows that wait for a slot, and which of them enter next."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Set

from dovetail.loader.engine.task import Task
from dovetail.loader.lane import Mixture


class Waiting:
    """Rows by the adapters that they use, the longest first.

    Rows of one adapter that run together read its weights once, so those of adapters that run
    already go first, and then those of the adapter with most rows. But a row that could outlast
    all others by its limit goes before them: a batch that is nearly empty at the end of a job
    costs more than weights read twice. And no row is passed over for ever.

    Args:
        patience: Rows that may come after one, at most, before it goes first.
    """

    def __init__(self, *, patience: int) -> None:
        self._patience = patience
        self._groups: dict[Mixture, list[Task]] = {}
        self._oldest: deque[Task] = deque()
        self._here: set[int] = set()
        self._newest = 0
        self._work = 0

    def __len__(self) -> int:
        return len(self._here)

    def add(self, task: Task) -> None:
        """Let a row wait."""
        insort(self._groups.setdefault(task.lane.mixture, []), task, key=_order)
        self._oldest.append(task)
        self._here.add(task.index)
        self._newest = max(self._newest, task.index)
        self._work += task.limit

    def take(self, free: int, *, running: Iterable[tuple[Task, int]], slots: int) -> list[Task]:
        """Choose the rows that enter.

        Args:
            free: Slots that are free.
            running: What is in the other slots, and the tokens that each may still write.
            slots: All slots.
        """
        mixtures, left = set(), 0
        for task, tokens in running:
            mixtures.add(task.lane.mixture)
            left += tokens
        chosen: list[Task] = []
        while self._here and len(chosen) < free:
            task = self._overdue() or self._next(mixtures, (self._work + left) / slots)
            self._remove(task)
            mixtures.add(task.lane.mixture)
            left += task.limit
            chosen.append(task)
        return chosen

    def longest(self, length: Callable[[Task], int]) -> int:
        """Return the largest length of a row that waits."""
        return max((length(task) for group in self._groups.values() for task in group), default=0)

    def _overdue(self) -> Task | None:
        while self._oldest[0].index not in self._here:
            self._oldest.popleft()
        task = self._oldest[0]
        return task if self._newest - task.index > self._patience else None

    def _next(self, running: Set[Mixture], steps: float) -> Task:
        groups = self._groups
        longest = max(groups.values(), key=lambda group: group[0].limit)[0]
        if longest.limit >= steps:
            return longest
        together = [group for mixture, group in groups.items() if mixture in running]
        if together:
            return max(together, key=lambda group: group[0].limit)[0]
        return max(groups.values(), key=len)[0]

    def _remove(self, task: Task) -> None:
        group = self._groups[task.lane.mixture]
        group.remove(task)
        if not group:
            del self._groups[task.lane.mixture]
        self._here.remove(task.index)
        self._work -= task.limit


def _order(task: Task) -> tuple[int, int]:
    return -task.limit, task.index
