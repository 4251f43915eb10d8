"""Evaluations: written down once, read back whole."""

import math

import pytest

from dovetail.errors import BaseModelNotFound, DigestMismatch, InvalidInput, VersionNotFound
from dovetail.registry.examples import ExampleScores, format_examples
from dovetail.registry.records import Score

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")

GOOD = {
    "reference": "summary/1",
    "dataset_name": "test",
    "dataset_digest": f"sha256:{'a' * 64}",
    "settings": {"beams": 4},
    "library": "rouge-score 0.1.2",
    "n": 2,
    "scores": {"rougeL": Score(metric="rougeL", value=0.5, ci_low=0.25, ci_high=0.75)},
    "examples": format_examples({"rougeL": ExampleScores("mean", [0.25, 0.75])}),
}


def test_an_evaluation_reads_back_as_it_was_recorded(summary, base_print):
    """Every field, and the event that says so."""
    found = summary.record_evaluation(base_model=base_print, **GOOD)
    assert summary.evaluations("summary/1") == [found]
    assert (found.name, found.number, found.kind) == ("summary", 1, "measured")
    assert (found.base_model, found.dataset_name, found.n) == (base_print, "test", 2)
    assert (found.settings, dict(found.scores)) == ({"beams": 4}, GOOD["scores"])
    assert found.created_by == "tester"
    event = summary.history("summary")[-1]
    assert (event.action, event.number) == ("evaluate", 1)
    assert event.details["scores"] == {"rougeL": 0.5}


def test_the_bare_base_model_has_evaluations_of_its_own(summary, base_print):
    """They belong to no version."""
    found = summary.record_evaluation(base_model=base_print, **{**GOOD, "reference": None})
    assert (found.name, found.number) == (None, None)
    assert summary.evaluations(base="tiny") == [found]
    assert summary.evaluations("summary/1") == []
    assert summary.history()[-1].details["base_model"] == base_print


def test_evaluations_come_newest_first(summary, measure):
    """Of one version, of the base, and of all."""
    made = [
        measure("summary/1", [0.1] * 3),
        measure(None, [0.2] * 3),
        measure("summary/1", [0.3] * 3),
    ]
    assert summary.evaluations() == made[::-1]
    assert summary.evaluations("summary/1") == [made[2], made[0]]


def test_reported_scores_are_evaluations_without_examples(store, tiny_base, make, tmp_path):
    """Nothing is known of dataset, settings and n."""
    store.register("told", make.prompt(tmp_path / "p"), base=tiny_base, scores={"loss": 2.5})
    (found,) = store.evaluations("told/1")
    assert (found.kind, found.dataset_digest, found.n) == ("reported", None, None)
    assert found.scores["loss"] == Score(metric="loss", value=2.5)
    assert found.examples_digest is None


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0},
        {"scores": {}},
        {"scores": {"rougeL": Score(metric="rougeL", value=math.nan)}},
        {"scores": {"rougeL": Score(metric="rougeL", value=math.inf)}},
        {"scores": {"a b": Score(metric="a b", value=1)}},
        {"settings": {"x": math.nan}},
        {"settings": {"x": {1, 2}}},
        {"dataset_name": "a\0b"},
    ],
    ids=str,
)
def test_what_cannot_be_kept_is_refused(summary, base_print, change):
    """And nothing is recorded."""
    with pytest.raises(InvalidInput):
        summary.record_evaluation(base_model=base_print, **{**GOOD, **change})
    assert summary.evaluations() == []


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        (b"{}", "no per-example scores"),
        (format_examples({"rougeL": ExampleScores("mean", [0.5])}), "1 values of 'rougeL'; n is 2"),
        (format_examples({"bleu": ExampleScores("mean", [0.5, 0.5])}), "0 values of 'rougeL'"),
    ],
)
def test_examples_of_another_evaluation_are_refused(summary, base_print, examples, words):
    """A gate must be able to rely on them later."""
    with pytest.raises(InvalidInput, match=words):
        summary.record_evaluation(base_model=base_print, **{**GOOD, "examples": examples})
    assert summary.evaluations("summary/1") == []


def test_a_version_or_base_that_does_not_exist_is_refused(summary, base_print):
    """With the error that says which."""
    with pytest.raises(VersionNotFound):
        summary.record_evaluation(base_model=base_print, **{**GOOD, "reference": "summary/9"})
    with pytest.raises(BaseModelNotFound):
        summary.record_evaluation(base_model=f"sha256:{'0' * 64}", **GOOD)


def test_examples_that_were_changed_in_storage_decide_nothing(summary, measure, place):
    """A gate hashes them before it believes them."""
    digest = measure("summary/1", [0.5] * 20).examples_digest
    measure("summary/2", [0.25] * 20)
    summary.promote("summary/1", "production")
    (path,) = place.objects.rglob(f"*{digest.removeprefix('sha256:')[-20:]}*")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.1"))
    with pytest.raises(DigestMismatch):
        summary.promote("summary/2", "production", require=["rougeL >= production"])
    assert summary.resolve("summary@production").number == 1
