"""An evaluation records scores, and all that must agree for two to be compared."""

from __future__ import annotations

import pytest

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.evaluation import parse_examples
from dovetail.scoring.batch import score_with
from dovetail.scoring.evaluate import dataset_digest, evaluate
from dovetail.scoring.job import ScoreJob

ROWS = [{"text": "abc", "wanted": "cba :muS"}, {"text": "d", "wanted": "nothing"}]


@pytest.fixture
def measured(tmp_path, registry, fakes, write_rows):
    """Evaluate on rows with the fake model and return what was recorded."""

    def measured(rows=ROWS, *, reference="summary@production", name="data.jsonl", **settings):
        measured.model = fakes.FakeModel()
        evaluate(
            reference,
            write_rows(tmp_path / name, rows),
            registry=registry,
            reference_column="wanted",
            opener=measured.model.open,
            **settings,
        )
        return registry.recorded[-1]

    return measured


def test_scores_are_recorded_with_how_they_were_measured(measured, fakes):
    """The version that the alias meant, its base, the settings with defaults written out."""
    found = measured()
    assert str(found["reference"]) == "summary/1"
    assert found["base_model"] == fakes.BASE
    assert found["dataset_name"] == "data.jsonl"
    assert found["n"] == 2
    assert found["settings"] == {
        "do_sample": False,
        "dtype": "checkpoint",
        "max_new_tokens": 64,
        "reference_column": "wanted",
        "rouge_stemmer": True,
        "rougeLsum_sentences": "line breaks and .!?",
    }
    assert set(found["scores"]) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
    assert set(parse_examples(found["examples"])) == set(found["scores"])


def test_settings_of_the_version_and_the_call_are_recorded(measured, registry, fakes):
    """The call goes before the version, the version before the default."""
    registry.add(fakes.make_version("own", generation_config={"max_new_tokens": 8, "num_beams": 2}))
    found = measured(reference="own/1", generation={"num_beams": 4})
    assert found["settings"]["max_new_tokens"] == 8
    assert found["settings"]["num_beams"] == 4
    assert measured(reference="own/1", max_new_tokens=9)["settings"]["max_new_tokens"] == 9


def test_template_and_batch_size_do_not_make_evaluations_incomparable(measured):
    """Neither is a setting, and the dataset is the same."""
    one = measured()
    other = measured(template="Other: {text}", batch_size=2)
    assert one["settings"] == other["settings"]
    assert one["dataset_digest"] == other["dataset_digest"]


def test_the_bare_base_model_is_evaluated(measured):
    """With no reference, and the base named."""
    found = measured(reference=None, base="tiny", metrics=["exact_match"])
    assert found["reference"] is None
    assert list(found["scores"]) == ["exact_match"]
    assert measured.model.requests[0].adapters == []


def test_predictions_that_exist_need_no_model(measured, fakes):
    """They are marked as given, for nobody knows how they were generated."""
    rows = [{**row, "guess": row["wanted"]} for row in ROWS]
    found = measured(rows, predictions_column="guess", metrics=["exact_match"])
    assert measured.model.requests == []
    assert found["scores"]["exact_match"].value == 1
    assert found["settings"]["predictions"] == "given"
    assert found["base_model"] == fakes.BASE
    bare = measured(
        rows, reference=None, base="tiny", predictions_column="guess", metrics=["accuracy"]
    )
    assert bare["base_model"] == fakes.BASE
    with pytest.raises(InvalidInput, match="--base"):
        measured(rows, reference=None, predictions_column="guess")


def test_a_scored_dataset_is_still_the_same_dataset(
    measured, tmp_path, registry, fakes, write_rows
):
    """What scoring added is left out of the digest, with its prefix."""
    digest = measured()["dataset_digest"]
    for prefix in ("", "x_"):
        output = tmp_path / f"{prefix}scored.jsonl"
        job = ScoreJob(
            input=write_rows(tmp_path / "data.jsonl", ROWS),
            output=output,
            reference="summary/1",
            prefix=prefix,
        )
        score_with(job, registry=registry, opener=fakes.FakeModel().open)
        evaluate(
            "summary/1",
            output,
            registry=registry,
            reference_column="wanted",
            predictions_column=f"{prefix}prediction",
        )
        assert registry.recorded[-1]["dataset_digest"] == digest


def test_a_dataset_has_one_digest_in_every_format(measured):
    """Texts are equal in JSONL, CSV and Parquet; order of columns does not count, rows' does."""
    digests = {measured(name=f"data.{s}")["dataset_digest"] for s in ("jsonl", "csv", "parquet")}
    assert len(digests) == 1
    turned = [dict(reversed(row.items())) for row in ROWS]
    assert measured(turned)["dataset_digest"] in digests
    assert measured(ROWS[::-1])["dataset_digest"] not in digests
    assert measured(limit=1)["dataset_digest"] not in digests


def test_the_digest_leaves_out_nulls_only():
    """An absent key is a null; an empty text or a zero is a value."""
    assert dataset_digest([{"a": None}]) == dataset_digest([{}])
    assert len({dataset_digest([{"a": value}]) for value in (None, "", 0, False, [])}) == 5


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"text": "ok", "wanted": None}, "reference 2: column 'wanted'"),
        ({"text": None, "wanted": "x"}, "row 2: column 'text'"),
        ({"text": "too long", "wanted": "x"}, "row 2: the prompt is too long"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_scored_is_not_left_out(measured, registry, bad, said):
    """A score over the other rows would be one of another dataset."""
    with pytest.raises(InvalidRow, match=said) as caught:
        measured([*ROWS, bad])
    assert caught.value.rows == (2,)
    assert registry.recorded == []


def test_labels_may_be_numbers(measured, registry, fakes):
    """A class index in the dataset is compared as text."""
    registry.add(fakes.make_version("label", task="text-classification", template="{text}"))
    found = measured([{"text": "1", "wanted": 1}], reference="label/1", predictions_column="text")
    assert found["scores"]["accuracy"].value == 1


@pytest.mark.parametrize(
    "settings",
    [{"limit": 0}, {"metrics": ["nope"]}, {"generation": {"nope": 1}}, {"template": "{nope}"},
     {"predictions_column": "nope"}],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(measured, settings):
    """With the value in the message."""
    with pytest.raises(InvalidInput, match=r"nope|limit is 0"):
        measured(**settings)


def test_progress_is_told_row_by_row(measured):
    """Rows done, rows in all, none failed."""
    told = []
    measured(progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 2, 0), (2, 2, 0)]
