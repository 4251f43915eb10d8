"""Two versions side by side."""

import pytest

from dovetail.registry.comparison import differences

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+radosgw")

TWENTY = [0.3 + 0.02 * (at % 5) for at in range(20)]


def test_the_difference_is_second_minus_first(summary, measure):
    """A better second version has a positive difference with an interval around it."""
    measure("summary/1", TWENTY)
    measure("summary/2", [value + 0.1 for value in TWENTY])
    (score,) = summary.compare("summary/1", "summary/2").scores
    assert score.difference == pytest.approx(0.1)
    assert score.ci_low == pytest.approx(0.1)
    assert score.ci_high == pytest.approx(0.1)
    assert (score.metric, score.n) == ("rougeL", 20)
    assert score.dataset.startswith("test (sha256:")
    (back,) = summary.compare("summary/2", "summary/1").scores
    assert back.difference == pytest.approx(-0.1)


def test_a_version_does_not_differ_from_itself(summary, measure):
    """Zero, with an interval of zero, and nothing that differs."""
    measure("summary/1", TWENTY)
    found = summary.compare("summary/1", "summary@latest")
    assert found.scores == ()
    same = summary.compare("summary/1", "summary/1")
    assert [(s.difference, s.ci_low, s.ci_high) for s in same.scores] == [(0, 0, 0)]
    assert (same.config, same.hyperparameters) == ({}, {})


def test_one_example_has_a_difference_without_interval(summary, measure):
    """One example says nothing of the spread."""
    measure("summary/1", [0.5])
    measure("summary/2", [0.75])
    (score,) = summary.compare("summary/1", "summary/2").scores
    assert (score.difference, score.ci_low, score.ci_high) == (0.25, None, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "other"}, "the datasets differ: test"),
        ({"settings": {"max_new_tokens": 9}}, "the settings differ: max_new_tokens 32 and 9"),
        ({"library": "x 1"}, "the metric libraries differ: rouge-score 0.1.2 and x 1"),
    ],
)
def test_scores_that_cannot_be_compared_say_why(summary, measure, change, reason):
    """They are left out, not compared all the same."""
    measure("summary/1", TWENTY)
    measure("summary/2", TWENTY, **change)
    found = summary.compare("summary/1", "summary/2")
    assert found.scores == ()
    assert reason in found.not_comparable[0]


def test_without_scores_it_says_how_to_get_some(summary):
    """The comparison of configurations is there all the same."""
    found = summary.compare("summary/1", "summary/2")
    assert "dovetail evaluate" in found.not_comparable[0]
    assert found.hyperparameters == {"seed": (1, 2)}


def test_config_and_base_model_that_differ_are_shown(summary, make, tmp_path):
    """With both values, and None where a key is missing."""
    other = make.base(tmp_path / "other", seed=5)
    summary.register("summary", make.lora(tmp_path / "l"), base=other, hyperparameters={"r": 2})
    found = summary.compare("summary/1", "summary/4")
    assert found.config["peft_type"] == ("PROMPT_TUNING", "LORA")
    assert found.config["r"] == (None, 2)
    assert found.hyperparameters["lr"] == (0.01, None)
    assert not found.same_base_model
    assert summary.compare("summary/1", "summary/2").same_base_model


def test_values_are_compared_by_value():
    """Lists and nested objects included."""
    assert differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == {}
    assert differences({"a": [1]}, {"a": [2]}) == {"a": ([1], [2])}
