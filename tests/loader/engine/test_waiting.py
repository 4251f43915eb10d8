"""Which rows enter next: each once, none passed over for ever, adapters that run first."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dovetail.loader.engine.task import Task
from dovetail.loader.engine.waiting import Waiting
from dovetail.loader.lane import Lane
from dovetail.loader.native.adapter import NativeAdapter

LANES = [
    Lane((), (NativeAdapter(digest=str(number), kind="lora", size=0),), None, None)
    for number in range(4)
]


def tasks_of(pairs):
    """Make tasks of pairs of an adapter and a limit."""
    return [Task(at, (5,), limit, LANES[lane]) for at, (lane, limit) in enumerate(pairs)]


TASKS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 64)), max_size=30).map(tasks_of)
MOVES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=20)


@given(tasks=TASKS, moves=MOVES, patience=st.integers(0, 40))
def test_every_row_enters_once(tasks, moves, patience):
    """However rows arrive and slots become free, and never more than are free."""
    waiting, arriving, left = Waiting(patience=patience), list(tasks), []
    for arrivals, free in [*moves, (len(tasks), len(tasks))]:
        for task in arriving[:arrivals]:
            waiting.add(task)
        del arriving[:arrivals]
        here = len(waiting)
        taken = waiting.take(free, running=[])
        assert len(taken) == min(free, here)
        assert len(waiting) == here - len(taken)
        left += taken
    assert sorted(task.index for task in left) == [task.index for task in tasks]
    assert not waiting


@given(tasks=TASKS, free=st.integers(1, 4), patience=st.integers(0, 10))
def test_no_row_is_passed_over_for_ever(tasks, free, patience):
    """Nobody is taken before a row that too many have come after."""
    waiting = Waiting(patience=patience)
    here = set()
    for task in tasks:
        waiting.add(task)
        here.add(task.index)
        if len(here) < free + 2:
            continue
        overdue = sorted(index for index in here if task.index - index > patience)
        taken = [t.index for t in waiting.take(free, running=[])]
        here -= set(taken)
        assert taken[: len(overdue)] == overdue[:free]


@given(limit=st.integers(1, 64), others=st.integers(2, 9), rows=st.integers(1, 3))
def test_rows_of_adapters_that_run_enter_first(limit, others, rows):
    """Of rows of one limit, even where another adapter has more that wait."""
    waiting = Waiting(patience=1000)
    tasks = tasks_of([(0, limit)] * (rows + others) + [(1, limit)] * rows)
    for task in tasks:
        waiting.add(task)
    running = [Task(100 + at, (5,), limit, LANES[1]) for at in range(4)]
    taken = waiting.take(rows, running=running)
    assert [task.lane for task in taken] == [LANES[1]] * rows


@given(tasks=TASKS.filter(len))
def test_the_longest_is_that_of_the_rows_that_wait(tasks):
    """Those that have entered do not count."""
    waiting = Waiting(patience=1000)
    for task in tasks:
        waiting.add(task)
    assert waiting.longest(lambda task: task.limit) == max(task.limit for task in tasks)
    taken = waiting.take(len(tasks) // 2, running=[])
    rest = [task.limit for task in tasks if task not in taken]
    assert waiting.longest(lambda task: task.limit) == max(rest, default=0)


@given(tasks=TASKS.filter(len))
def test_rows_that_may_write_most_enter_first(tasks):
    """No row waits for one of less than half its limit, whatever their adapters."""
    waiting = Waiting(patience=1000)
    for task in tasks:
        waiting.add(task)
    limits = [task.limit for task in waiting.take(len(tasks), running=[])]
    assert all(later < 2 * before for before, later in itertools.pairwise(limits))
