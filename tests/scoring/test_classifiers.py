"""Jobs in which adapters classify, beside those that write."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("peft")

from dovetail.loader import Row, open_base
from dovetail.registry.store import Registry
from dovetail.scoring import ScoreJob, evaluate, score


def _load_beside(name):
    """Load a module beside this file; under importlib mode it cannot be imported."""
    file = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"dovetail_tests_scoring_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load_beside("tiny")
LABELS = {"id2label": {"0": "bad", "1": "so-so", "2": "good"}}
WHO = ("mood/1", "summary/1", "grade/1", "summary/1")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base model, and a registry with a classifier, a regression and a version that writes."""
    root = tmp_path_factory.mktemp("world")
    base = tiny.make_base(root / "base", 1)
    with Registry.open(
        f"sqlite:///{root / 'r.db'}", (root / "objects").as_uri(), cache_dir=root / "cache"
    ) as registry:
        registry.register_base(base, name="tiny")
        mood = tiny.make_classifier(root / "mood", base, 3, labels=3)
        registry.register("mood", mood, base="tiny", hyperparameters=LABELS)
        grade = tiny.make_classifier(root / "grade", base, 4, labels=1)
        registry.register("grade", grade, base="tiny", input_template="w4 {text}")
        registry.register(
            "summary",
            tiny.make_lora(root / "summary", base, 2),
            base="tiny",
            input_template="w3 {text}",
            generation_config={"max_new_tokens": 4},
        )
        yield registry, base


@pytest.fixture
def job(tmp_path, write_rows):
    """A job whose rows name all three by turns, in chunks that hold some of each."""
    rows = [{"text": text, "who": WHO[at % 4]} for at, text in enumerate(tiny.TEXTS)]
    return ScoreJob(
        input=write_rows(tmp_path / "in.jsonl", rows),
        output=tmp_path / "out.jsonl",
        adapter_column="who",
        checkpoint_every=5,
        batch_size=2,
    )


def test_rows_that_are_classified_stand_beside_rows_that_are_written(world, job, read_rows):
    """In the input's order: labels, the values of a regression, and texts."""
    registry, directory = world
    report = score(job, registry=registry)
    found = read_rows(job.output)
    with open_base(directory, registry=registry) as base:
        for reference in sorted(set(WHO)):
            base.attach(reference)
        for row in found:
            if row["who"] == "mood/1":
                (made,) = base.classify([Row(row["text"], "mood/1")])
                assert row["prediction"] == made.label
            elif row["who"] == "grade/1":
                (made,) = base.classify([Row(f"w4 {row['text']}", "grade/1")])
                assert float(row["prediction"]) == pytest.approx(made.logits[0], rel=1e-4)
            else:
                (written,) = base.generate([Row(f"w3 {row['text']}", "summary/1")])
                assert row["prediction"] == written.text
    assert {row["prediction"] for row in found if row["who"] == "mood/1"} <= {
        "bad", "so-so", "good"
    }  # fmt: skip
    assert [row["text"] for row in found] == tiny.TEXTS
    assert report.failed == 0
    assert report.reference_path == ("grade/1", "mood/1")


def test_an_interrupted_job_with_both_goes_on(world, job, tmp_path):
    """The file is that of a whole run, and so is what is said of the path."""
    registry, _ = world
    whole = score(replace(job, output=tmp_path / "whole.jsonl"), registry=registry)

    def interrupt(done, _total, _failed):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(job, registry=registry, progress=interrupt)
    report = score(replace(job, resume=True), registry=registry)
    assert report.resumed_at == 5
    assert report.reference_path == whole.reference_path
    assert job.output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_row_that_cannot_be_classified_has_its_error(world, tmp_path, write_rows, read_rows):
    """The model's limit is 32 tokens; the label of the row beside it stands."""
    data = write_rows(tmp_path / "in.jsonl", [{"text": "w5 " * 40}, {"text": "w5"}])
    told = []
    report = score(
        ScoreJob(input=data, output=tmp_path / "out.jsonl", reference="mood/1"),
        registry=world[0],
        progress=lambda *numbers: told.append(numbers),
    )
    long, short = read_rows(report.output)
    assert "too long" in long["error"]
    assert (long["prediction"], short["error"]) == (None, None)
    assert short["prediction"] in LABELS["id2label"].values()
    assert told == [(1, 2, 1), (2, 2, 1)]


def test_a_classifier_is_measured_by_its_labels(world, tmp_path, write_rows):
    """By accuracy unless another metric is asked for; generation settings do not concern it."""
    registry, directory = world
    with open_base(directory, registry=registry) as base:
        base.attach("mood/1")
        labels = [each.label for each in base.classify([Row(t, "mood/1") for t in tiny.TEXTS])]
    rows = [{"text": text, "mood": label} for text, label in zip(tiny.TEXTS, labels, strict=True)]
    rows[0]["mood"] = "none of them"
    data = write_rows(tmp_path / "test.jsonl", rows)
    found = evaluate("mood/1", data, registry=registry, reference_column="mood")
    right = (len(rows) - 1) / len(rows)
    assert {name: one.value for name, one in found.scores.items()} == {"accuracy": right}
    assert "max_new_tokens" not in found.settings
    again = evaluate(
        "mood/1", data, registry=registry, reference_column="mood", metrics=["exact_match"]
    )
    assert again.scores["exact_match"].value == right
