"""The next token of each row: chosen, drawn by the row itself, or forced."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail.loader.engine.choosing import choose, make_warpers
from dovetail.loader.engine.task import Running, Task
from dovetail.loader.lane import Lane
from dovetail.loader.options import Plan

PLAN = Plan(
    options={},
    max_new_tokens=3,
    same_length=False,
    same_limit=False,
    sampled=False,
    eos=frozenset(),
    stop_strings=(),
    stepwise=True,
    warpers=None,
    forced_first=None,
    forced_last=None,
    decoder_start=None,
)


def running(plan=PLAN, *, seed=None, tokens=(), limit=3):
    """Make a row that has written some tokens; one with a seed draws."""
    random = None if seed is None else torch.Generator().manual_seed(seed)
    return Running(Task(0, (5,), limit, Lane((), (), None, plan)), list(tokens), random)


@given(seeds=st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=6), data=st.data())
def test_a_row_is_not_changed_by_its_neighbours(seeds, data):
    """In any order and any company a row gets what it gets alone; rows without a seed the best."""
    warped = dataclasses.replace(PLAN, warpers=make_warpers({"top_k": 5}, device="cpu"))
    logits = torch.randn(len(seeds), 9, generator=torch.Generator().manual_seed(len(seeds)))
    plans = [data.draw(st.sampled_from([PLAN, warped])) for _ in seeds]
    rows = [running(plan, seed=seed) for plan, seed in zip(plans, seeds, strict=True)]
    found = choose(logits, rows)
    for at, (plan, seed) in enumerate(zip(plans, seeds, strict=True)):
        assert choose(logits[at : at + 1], [running(plan, seed=seed)]) == [found[at]]
        if seed is None:
            assert found[at] == int(logits[at].argmax())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_of_equal_logits_the_first_is_chosen(dtype):
    """As `generate()` does; in half precision they are often equal."""
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]], dtype=dtype)
    assert choose(logits, [running(), running()]) == [1, 0]


def test_what_is_impossible_is_never_drawn():
    """Neither at the beginning nor at the end of the vocabulary."""
    logits = torch.full((1, 5), -torch.inf)
    logits[0, 2] = logits[0, 3] = 0.0
    drawn = {choose(logits, [running(seed=seed)])[0] for seed in range(40)}
    assert drawn == {2, 3}


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"),
    [((), 3, 7), ((4,), 3, 1), ((4, 4), 3, 8), ((), 1, 8)],
    ids=["first", "between", "last", "both"],
)
def test_forced_tokens_stand_at_the_beginning_and_the_end(tokens, limit, expected):
    """The last is that of the limit, and goes before the first."""
    plan = dataclasses.replace(PLAN, forced_first=7, forced_last=8)
    logits = torch.tensor([[0.0, 1.0, 0, 0, 0, 0, 0, 0, 0], [0.0] * 9])
    assert choose(logits, [running(plan, tokens=tokens, limit=limit), None])[0] == expected
