"""Per-example scores: the blob, and comparisons made from it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import InvalidInput
from dovetail.registry.examples import (
    ExampleScores,
    format_examples,
    paired_score_difference,
    parse_examples,
)

SCORES = st.dictionaries(
    st.text(min_size=1, max_size=5).filter(lambda name: name.isprintable()),
    st.lists(st.floats(0, 1), min_size=3, max_size=3).map(
        lambda values: ExampleScores("mean", values)
    ),
    min_size=1,
    max_size=3,
)


def blob(**metrics):
    """Write a blob of mean metrics."""
    return format_examples({name: ExampleScores("mean", v) for name, v in metrics.items()})


@given(SCORES)
def test_a_blob_reads_back_as_it_was_written(scores):
    """Every number comes back exactly, and writing again gives the same bytes."""
    data = format_examples(scores)
    assert parse_examples(data) == scores
    assert format_examples(parse_examples(data)) == data


def test_the_blob_does_not_depend_on_the_order_of_metrics():
    """Equal scores are one blob."""
    assert blob(a=[0.5], b=[1.0]) == blob(b=[1.0], a=[0.5])


def test_two_blobs_are_compared_example_by_example():
    """A version that is better on every example is better for certain."""
    a, b = blob(rougeL=[0.5, 0.7, 0.9]), blob(rougeL=[0.4, 0.5, 0.6])
    found = paired_score_difference(a, b, "rougeL")
    assert found.value == pytest.approx(0.2)
    assert 0 < found.low <= found.value <= found.high


def test_a_metric_that_was_not_measured_is_named():
    """The error lists those that were."""
    with pytest.raises(InvalidInput, match=r"'bleu'.*rougeL"):
        paired_score_difference(blob(rougeL=[0.5]), blob(rougeL=[0.5]), "bleu")


def test_blobs_of_different_length_are_not_compared():
    """They cannot come from one dataset."""
    with pytest.raises(InvalidInput, match="same examples"):
        paired_score_difference(blob(a=[0.5]), blob(a=[0.5, 0.6]), "a")


def test_a_metric_kept_in_two_ways_is_not_compared():
    """A mean and corpus counts do not mix."""
    counts = format_examples({"bleu": ExampleScores("bleu", [[1] * 10])})
    with pytest.raises(InvalidInput, match="as mean and as bleu"):
        paired_score_difference(blob(bleu=[0.5]), counts, "bleu")


GOOD = {
    "format": "dovetail-examples",
    "version": 1,
    "n": 1,
    "metrics": {"a": {"kind": "mean", "values": [0.5]}},
}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"n": 2},
        {"metrics": []},
        {"metrics": {"a": [0.5]}},
        {"metrics": {"a": {"kind": "other", "values": [0.5]}}},
        {"metrics": {"a": {"kind": "mean", "values": ["x"]}}},
        {"metrics": {"a": {"kind": "bleu", "values": [[1, 2]]}}},
        {"metrics": {"a": {"kind": "chrf", "values": [0.5]}}},
    ],
    ids=str,
)
def test_a_damaged_blob_is_refused(change):
    """Each part is checked before anything is computed with it."""
    with pytest.raises(InvalidInput):
        parse_examples(json.dumps({**GOOD, **change}).encode())


def test_metrics_of_different_length_make_no_blob():
    """All metrics score the same examples."""
    with pytest.raises(InvalidInput, match="same number"):
        format_examples({"a": ExampleScores("mean", [1]), "b": ExampleScores("mean", [1, 2])})
