"""Gates: a version meets a requirement, or the refusal says by how much it does not, or why not."""

import pytest

from dovetail.errors import GateRefused, InvalidInput

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")

TWENTY = [0.3 + 0.02 * (at % 5) for at in range(20)]
MEAN = 0.34


def shifted(by):
    """Return the examples, each better by the same."""
    return [value + by for value in TWENTY]


def refusal(registry, reference, *requirements, **options):
    """Promote, expect a refusal, and return its gates."""
    with pytest.raises(GateRefused) as caught:
        registry.promote(reference, "production", require=requirements, **options)
    return caught.value.gates


def test_a_score_above_the_number_passes(summary, measure):
    """The gate says the score, how far it is from the number, the interval and n."""
    measure("summary/1", TWENTY)
    gate = summary.promote("summary/1", "production", require=["rougeL >= 0.3"]).gates[0]
    assert (gate.passed, gate.shortfall) == (True, None)
    assert "0.3400, 0.0400 above 0.3 (n=20, 95 % interval" in gate.message


def test_a_score_below_the_number_is_refused_with_the_shortfall(summary, measure):
    """The alias stays unset, and the error carries the gates."""
    measure("summary/1", TWENTY)
    (gate,) = refusal(summary, "summary/1", "rougeL >= 0.4")
    assert gate.shortfall == pytest.approx(0.06)
    assert "0.0600 below 0.4" in gate.message
    assert summary.adapter("summary").aliases == {}


def test_the_refusal_names_version_alias_and_requirement(summary, measure):
    """As a sentence and as attributes."""
    measure("summary/1", TWENTY)
    with pytest.raises(GateRefused, match=r"summary/1 was not promoted to 'production'") as caught:
        summary.promote("summary/1", "production", require=["rougeL >= 0.4"])
    error = caught.value
    assert (error.name, error.number, error.alias) == ("summary", 1, "production")
    assert "requirement 'rougeL >= 0.4' failed" in str(error)


@pytest.mark.parametrize(("operator", "passes"), [(">=", True), (">", False)])
def test_a_score_equal_to_the_number_meets_only_greater_or_equal(
    summary, measure, operator, passes
):
    """The comparison is exact."""
    measure("summary/1", [0.5] * 20)
    requirement = f"rougeL {operator} 0.5"
    if passes:
        assert summary.promote("summary/1", "production", require=[requirement]).moved
    else:
        assert refusal(summary, "summary/1", requirement)[0].shortfall == 0


def test_the_newest_measurement_counts(summary, measure):
    """On one dataset a later score replaces an earlier one."""
    measure("summary/1", TWENTY)
    measure("summary/1", shifted(0.2))
    assert summary.promote("summary/1", "production", require=["rougeL >= 0.5"]).moved


def test_a_version_that_was_not_measured_is_refused(summary):
    """The message says how to measure it."""
    (gate,) = refusal(summary, "summary/1", "rougeL >= 0.1")
    assert "no measured rougeL; measure it with: dovetail evaluate summary/1" in gate.message


def test_a_reported_score_is_shown_and_not_believed(store, tiny_base, make, tmp_path):
    """Nobody knows how it was measured."""
    store.register("told", make.prompt(tmp_path / "p"), base=tiny_base, scores={"rougeL": 0.9})
    (gate,) = refusal(store, "told/1", "rougeL >= 0.1")
    assert "only a reported 0.9000" in gate.message


def test_another_metric_does_not_count(summary, measure):
    """A gate on rougeL looks at rougeL."""
    measure("summary/1", TWENTY, metric="rouge1")
    assert not refusal(summary, "summary/1", "rougeL >= 0.1")[0].passed


def test_a_number_on_several_datasets_asks_which(summary, measure):
    """The message lists them and what to write; with ``on`` it passes, by name or digest."""
    digest = measure("summary/1", TWENTY, dataset="easy set").dataset_digest
    measure("summary/1", shifted(-0.2), dataset="hard")
    (gate,) = refusal(summary, "summary/1", "rougeL >= 0.3")
    assert "easy set (sha256:" in gate.message
    assert "'rougeL >= 0.3 on DATASET'" in gate.message
    for where in ("'easy set'", digest[:20], digest):
        assert (
            summary.promote("summary/1", "production", require=[f"rougeL >= 0.3 on {where}"])
            .gates[0]
            .passed
        )
    assert "0.1400" in refusal(summary, "summary/1", "rougeL >= 0.3 on hard")[0].message
    assert "no measured rougeL on x" in refusal(summary, "summary/1", "rougeL >= 0 on x")[0].message


def test_an_alias_that_is_not_set_demands_nothing(summary, measure):
    """The first promotion has nothing to be compared with."""
    measure("summary/1", TWENTY)
    gate = summary.promote("summary/1", "production", require=["rougeL >= production"]).gates[0]
    assert gate.passed
    assert "not set yet" in gate.message


def test_a_misspelt_alias_opens_no_gate(summary, measure):
    """Only the alias that is moving may be unset; any other name must be one that is set."""
    measure("summary/1", TWENTY)
    gates = refusal(summary, "summary/1", "rougeL >= prodution")
    assert "no alias 'prodution' to compare with" in gates[0].message


@pytest.fixture
def promoted(summary, measure):
    """The registry with ``summary/1`` measured and in production."""
    measure("summary/1", TWENTY)
    summary.promote("summary/1", "production")
    return summary


def test_a_worse_version_is_refused_with_by_how_much(promoted, measure):
    """The message has both scores, the difference and its interval."""
    measure("summary/2", shifted(-0.05))
    (gate,) = refusal(promoted, "summary/2", "rougeL >= production")
    assert gate.shortfall == pytest.approx(0.05)
    for part in ("0.2900, 0.0500 below production (summary/1) at 0.3400", "-0.0500", "n=20"):
        assert part in gate.message
    assert promoted.resolve("summary@production").number == 1


@pytest.mark.parametrize(
    ("by", "at_least", "better"), [(0.0, True, False), (0.05, True, True), (-0.05, False, False)]
)
def test_equal_is_enough_for_at_least_but_not_for_better(promoted, measure, by, at_least, better):
    """``>=`` is met unless measurably worse, ``>`` only when measurably better."""
    measure("summary/2", shifted(by))
    for operator, passes in ((">=", at_least), (">", better)):
        requirement = f"rougeL {operator} production"
        if passes:
            promoted.promote("summary/2", "staging", require=[requirement])
        else:
            refusal(promoted, "summary/2", requirement)


def test_better_needs_an_interval_above_zero(promoted, measure):
    """A mean that is a little better by chance is not measurably better, nor measurably worse."""
    noisy = [value + (0.11 if at % 2 else -0.1) for at, value in enumerate(TWENTY)]
    measure("summary/2", noisy)
    (gate,) = refusal(promoted, "summary/2", "rougeL > production")
    assert "0.0050 above production" in gate.message
    assert gate.shortfall == pytest.approx(-0.005)
    assert promoted.promote("summary/2", "staging", require=["rougeL >= production"]).moved


@pytest.mark.parametrize(
    ("by", "requirement", "passes"),
    [
        (-0.05, "rougeL >= production - 0.06", True),
        (-0.05, "rougeL >= production - 0.04", False),
        (0.05, "rougeL > production + 0.04", True),
        (0.05, "rougeL > production + 0.06", False),
    ],
)
def test_a_margin_moves_the_line(promoted, measure, by, requirement, passes):
    """A known loss can be accepted, a known gain demanded."""
    measure("summary/2", shifted(by))
    if passes:
        assert promoted.promote("summary/2", "production", require=[requirement]).moved
    else:
        (gate,) = refusal(promoted, "summary/2", requirement)
        assert "margin" in gate.message
        assert gate.shortfall == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"dataset": "other"},
            r"the datasets differ: other \(sha256:\w+\) and test \(sha256:\w+\)",
        ),
        ({"settings": {"max_new_tokens": 64}}, "the settings differ: max_new_tokens 64 and 32"),
        ({"settings": {}}, "the settings differ: max_new_tokens None and 32"),
        ({"library": "rouge-score 9"}, "libraries differ: rouge-score 9 and rouge-score 0.1.2"),
        ({"metric": "rouge1"}, "no measured rougeL"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(promoted, measure, change, reason):
    """Scores on other rows, settings or libraries say nothing about which is better."""
    measure("summary/2", shifted(0.3), **change)
    with pytest.raises(GateRefused, match=reason):
        promoted.promote("summary/2", "production", require=["rougeL >= production"])


def test_the_same_dataset_under_another_name_is_comparable(promoted, measure):
    """The digest of the rows counts, not what people call them."""
    measure("summary/2", TWENTY, dataset="renamed", rows="test")
    assert promoted.promote("summary/2", "production", require=["rougeL >= production"]).moved


def test_every_common_dataset_counts(promoted, measure):
    """Being better on one does not make up for being worse on another."""
    measure("summary/1", TWENTY, dataset="hard")
    measure("summary/2", shifted(0.2))
    measure("summary/2", shifted(-0.2), dataset="hard")
    (gate,) = refusal(promoted, "summary/2", "rougeL >= production")
    assert "on hard (" in gate.message
    assert promoted.promote("summary/2", "a", require=["rougeL >= production on test"]).moved


def test_fewer_than_ten_examples_decide_nothing(summary, measure):
    """Nine are refused and ten are not."""
    for count in (9, 10):
        measure("summary/1", [0.5] * count, dataset=f"{count}")
        measure("summary/2", [0.5] * count, dataset=f"{count}")
    summary.promote("summary/1", "production")
    (gate,) = refusal(summary, "summary/2", "rougeL >= production on 9")
    assert "9 examples on 9" in gate.message
    assert "measure on 10 or more" in gate.message
    assert summary.promote("summary/2", "production", require=["rougeL >= production on 10"]).moved


def test_the_bare_base_model_is_an_operand(summary, measure):
    """It must have been measured on the same rows in the same way."""
    measure("summary/1", TWENTY)
    assert "cannot be compared" in refusal(summary, "summary/1", "rougeL > base")[0].message
    measure(None, shifted(-0.1))
    gate = summary.promote("summary/1", "production", require=["rougeL > base + 0.05"]).gates[0]
    assert "above the bare base model at 0.2400" in gate.message


def test_a_gate_looks_at_the_alias_of_the_same_adapter(promoted, measure, make, tmp_path):
    """Another adapter's production version is nothing to be compared with."""
    base = promoted.resolve("summary/1").base_model
    promoted.register("other", make.prompt(tmp_path / "o", seed=9), base=base)
    measure("other/1", shifted(-0.3))
    gate = promoted.promote("other/1", "production", require=["rougeL >= production"]).gates[0]
    assert "not set yet" in gate.message


def test_stored_and_given_requirements_are_all_checked(summary, measure):
    """The stored ones come first, and one written twice is checked once."""
    measure("summary/1", TWENTY)
    summary.require("summary", "production", ["rougeL >= 0.2", "rougeL >= 0.9"])
    gates = refusal(summary, "summary/1", "rougeL >= 0.2", "rougeL >= 0.1")
    assert [gate.requirement for gate in gates] == [
        "rougeL >= 0.2",
        "rougeL >= 0.9",
        "rougeL >= 0.1",
    ]
    assert [gate.passed for gate in gates] == [True, False, True]
    assert summary.promote("summary/1", "staging", require=["rougeL >= 0.1"]).moved


def test_requirements_are_replaced_and_cleared(summary):
    """They belong to one alias of one adapter, and the history has what was there before."""
    assert summary.requirements("summary", "production") == ()
    summary.require("summary", "production", ["rougeL >= 0.2", "rougeL >= 0.2"], reason="policy")
    assert summary.requirements("summary", "production") == ("rougeL >= 0.2",)
    assert summary.requirements("summary", "staging") == ()
    summary.require("summary", "production", [])
    assert summary.requirements("summary", "production") == ()
    first, second = [event for event in summary.history("summary") if event.action == "require"]
    assert first.reason == "policy"
    assert second.details == {"requirements": [], "before": ["rougeL >= 0.2"]}
    assert summary.promote("summary/1", "production").moved


def test_a_refusal_is_in_the_history(summary, measure):
    """With who, which version and alias, and every gate; and nothing moved."""
    measure("summary/1", TWENTY)
    summary.promote("summary/1", "production")
    refusal(summary, "summary/2", "rougeL >= 0.5", reason="try it")
    event = summary.history("summary")[-1]
    assert (event.action, event.number, event.alias) == ("promotion-refused", 2, "production")
    assert (event.previous, event.reason, event.actor) == (1, "try it", "tester")
    assert [gate["passed"] for gate in event.details["gates"]] == [False]
    assert summary.resolve("summary@production").number == 1
    assert summary.broken_history() is None


def test_force_moves_the_alias_and_keeps_the_reason(summary):
    """The history has the refusal that was overruled."""
    found = summary.promote(
        "summary/1", "production", require=["rougeL >= 0.5"], force=True, reason="hot fix"
    )
    assert (found.moved, found.forced) == (True, True)
    event = summary.history("summary")[-1]
    assert (event.action, event.reason, event.details["forced"]) == ("promote", "hot fix", True)
    assert [gate["passed"] for gate in event.details["gates"]] == [False]


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_force_needs_a_reason(summary, reason):
    """Without one, nothing moves."""
    with pytest.raises(InvalidInput, match="needs a reason"):
        summary.promote("summary/1", "production", force=True, reason=reason)
    assert summary.adapter("summary").aliases == {}


def test_force_that_was_not_needed_is_not_called_forced(summary):
    """The word in the history means that a refusal was overruled."""
    assert not summary.promote("summary/1", "production", force=True, reason="sure").forced
