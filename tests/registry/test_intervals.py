"""Bootstrap intervals: they cover what they claim to, and pairing helps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import InvalidInput
from dovetail.registry.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_statistic,
    paired_difference,
    paired_statistic_difference,
)

NUMBERS = st.floats(-1e6, 1e6)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    """Of 400 samples of a known distribution, close to 95 % hold its mean."""
    random = np.random.default_rng(1)
    samples = random.beta(2, 3, size=(400, 80))
    intervals = [bootstrap_mean(sample, resamples=400) for sample in samples]
    covered = np.mean([one.low <= 0.4 <= one.high for one in intervals])
    assert 0.91 <= covered <= 0.98


def test_the_interval_is_that_of_the_normal_approximation():
    """For many examples the ends are 1.96 standard errors off the mean."""
    values = np.random.default_rng(2).normal(3.0, 2.0, 4_000)
    found = bootstrap_mean(values)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.1 * error)


@settings(max_examples=50, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=30), st.integers(0, 2**32 - 1))
def test_an_interval_lies_within_the_values(values, seed):
    """Low is not above high, and neither end leaves the range of the examples."""
    found = bootstrap_mean(values, resamples=100, seed=seed)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found.value == pytest.approx(np.mean(values))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30))
def test_a_difference_turned_round_is_its_negative(pairs):
    """The difference of two systems is one finding, whichever comes first."""
    a, b = zip(*pairs, strict=True)
    one, other = (
        paired_difference(*sides, resamples=100, confidence=0.9) for sides in ((a, b), (b, a))
    )
    assert one.value == -other.value
    assert one.low == pytest.approx(-other.high, abs=1e-6)


def test_a_system_does_not_differ_from_itself():
    """The interval of no difference is exactly nothing wide."""
    values = np.random.default_rng(3).random(50)
    assert paired_difference(values, values) == Interval(0.0, 0.0, 0.0)


def test_pairing_sees_a_difference_that_separate_intervals_hide():
    """A small constant gain on examples of very different difficulty is found."""
    random = np.random.default_rng(4)
    hard = random.random(200)
    gain = hard + 0.01 + random.normal(0, 0.005, 200)
    assert bootstrap_mean(gain).low < bootstrap_mean(hard).high
    assert paired_difference(gain, hard).low > 0


def test_the_mean_is_a_statistic_of_sums():
    """The general form with the mean as its aggregate is the special one."""
    values = np.random.default_rng(5).random(40)
    assert bootstrap_statistic(values[:, None], lambda sums: sums[:, 0] / 40) == bootstrap_mean(
        values
    )


def test_a_ratio_of_sums_is_paired_example_by_example():
    """A statistic that is no mean is compared on the same resamples of both sides."""
    random = np.random.default_rng(6)
    stats = np.stack([random.integers(1, 9, 100), random.integers(9, 20, 100)], axis=1)
    better = stats + np.array([1, 0])
    found = paired_statistic_difference(better, stats, lambda sums: sums[:, 0] / sums[:, 1])
    assert found.value == pytest.approx(100 / stats[:, 1].sum())
    assert 0 < found.low < found.value < found.high


def test_the_same_seed_gives_the_same_interval():
    """And another one does not."""
    values = np.random.default_rng(7).random(30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_more_examples_than_fit_at_once_are_drawn_in_blocks():
    """The block size leaves no mark on a large input."""
    values = np.tile([0.0, 1.0], 100_000)
    found = bootstrap_mean(values, resamples=25)
    assert 0.49 < found.low < 0.5 < found.high < 0.51


def test_one_example_has_no_interval():
    """It says nothing of how far another would be off."""
    assert bootstrap_mean([0.5]) == Interval(0.5, None, None)
    assert paired_difference([0.5], [0.25]) == Interval(0.25, None, None)
    assert paired_statistic_difference([[1.0]], [[0.5]], lambda sums: sums[:, 0]).low is None


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [float("inf")], [[0.1, 0.2]]], ids=str)
def test_values_that_are_no_sample_are_refused(values):
    """Nothing, NaN, infinity and a table have no mean."""
    with pytest.raises(InvalidInput):
        bootstrap_mean(values)


def test_samples_of_different_length_are_not_paired():
    """The error gives both lengths."""
    with pytest.raises(InvalidInput, match=r"3 examples.*2") as caught:
        paired_difference([1, 2, 3], [1, 2])
    assert (caught.value.left, caught.value.right) == (3, 2)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_no_share_is_refused(confidence):
    """95 is not 0.95."""
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        bootstrap_mean([0.1, 0.2], confidence=confidence)
