"""A running batch on a runner that only counts: every row comes out once, if memory allows."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail.loader.engine.running import RunningBatch
from dovetail.loader.engine.task import Task
from dovetail.loader.lane import Lane
from dovetail.loader.native.adapter import NativeAdapter
from dovetail.loader.options import Plan

END = 6
PLAN = Plan(
    options={},
    max_new_tokens=8,
    same_length=False,
    same_limit=False,
    sampled=False,
    eos=frozenset({END}),
    stop_strings=(),
    stepwise=True,
    warpers=None,
    forced_first=None,
    forced_last=None,
    decoder_start=None,
)
LANES = [
    Lane((), (NativeAdapter(digest=str(number), kind="lora", size=0),), None, PLAN)
    for number in range(3)
] + [Lane((), (), None, PLAN)]


def token_of(task, step):
    """What a row writes at a step: sums of its own numbers, so that each is told from others."""
    return (task.index * 5 + step * step * 3 + len(task.ids)) % 8


class CountingRunner:
    """A runner that knows what is in each slot, and how many columns memory has room for."""

    def __init__(self, room):
        self.room, self.rows, self.shown = room, {}, []
        self.slots = self.columns = 0

    def length(self, task):
        """Count the columns of a row."""
        return len(task.ids) + task.limit

    def affordable(self, _columns):
        """Promise more than there is."""
        return 1000

    def reset(self, slots):
        """Forget all."""
        self.rows, self.slots, self.columns = {}, slots, 0

    def reserve(self, columns):
        """Take memory for all slots."""
        self.columns = max(self.columns, columns)
        self._check()

    def _check(self):
        if self.slots * self.columns > self.room:
            raise MemoryError

    def enter(self, tasks, slots):
        """Let rows enter free slots that there are."""
        self._check()
        assert len(set(slots)) == len(tasks)
        for task, slot in zip(tasks, slots, strict=True):
            assert slot < self.slots
            assert self.length(task) <= self.columns
            self.rows[slot] = (task, 0)
        return self._logits([(task, 0) for task in tasks])

    def compose(self, tasks):
        """See that the tasks are where they were put."""
        self.shown = list(tasks)
        for slot, task in enumerate(tasks):
            assert task is None or self.rows[slot][0] is task

    def move(self, source, target):
        """Move a row."""
        self.rows[target] = self.rows[source]

    def step(self, tokens):
        """Check that every row is given what it wrote last."""
        self._check()
        assert len(tokens) == len(self.shown)
        found = []
        for slot, token in enumerate(tokens):
            task = self.shown[slot]
            if task is None:
                found.append(None)
                continue
            at = self.rows[slot][1]
            assert token == token_of(task, at)
            self.rows[slot] = (task, at + 1)
            found.append((task, at + 1))
        return self._logits(found)

    def _logits(self, found):
        logits = torch.zeros(len(found), 8)
        for line, pair in zip(logits, found, strict=True):
            if pair is not None:
                line[token_of(*pair)] = 1
        return logits


def written(task):
    """Return what a row alone writes."""
    tokens = []
    for step in range(task.limit):
        if token_of(task, step) == END:
            break
        tokens.append(token_of(task, step))
    return tokens


TASKS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=14
).map(
    lambda rows: [
        Task(index, tuple(range(length)), limit, LANES[lane])
        for index, (length, limit, lane) in enumerate(rows)
    ]
)


@given(
    tasks=TASKS,
    slots=st.integers(1, 6),
    room=st.integers(8, 140),
    patience=st.integers(0, 20),
    ahead=st.integers(1, 14),
)
def test_every_row_is_completed_or_does_not_fit_alone(tasks, slots, room, patience, ahead):
    """Rows arrive while others run; those that memory has room for alone write their own tokens."""
    batch = RunningBatch(
        CountingRunner(room), slots=slots, seed=0, stops=lambda _row: False, patience=patience
    )
    waiting, found = list(tasks), {}
    for _ in range(10_000):
        while waiting and batch.unfinished < ahead:
            batch.add(waiting.pop(0))
        if not batch.unfinished:
            break
        for finished in batch.step():
            assert finished.task.index not in found
            found[finished.task.index] = finished
    assert sorted(found) == [task.index for task in tasks]
    for task in tasks:
        result = found[task.index]
        if len(task.ids) + task.limit <= room:
            assert result.error is None, task
            assert list(result.tokens) == written(task)
            assert result.reason == ("length" if len(written(task)) == task.limit else "stop")
        else:
            assert "not enough memory for this row alone" in result.error
            assert list(result.tokens) == []
