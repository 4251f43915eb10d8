"""A file may name adapters of several base models; each is opened once, and no two at a time."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import (
    BaseModelNotFound,
    IncompatibleBaseModel,
    InvalidInput,
    StorageError,
)
from dovetail.scoring.batch import score_with
from dovetail.scoring.job import ScoreJob

WHO = ["summary/1", "other/1", " ", "third/1", "summary@production"]
ROWS = [{"text": f"t{n}", "who": WHO[n % 5]} for n in range(20)]


@pytest.fixture
def registry(tmp_path, fakes):
    """Adapters of three base models."""
    return fakes.many_bases(str(tmp_path))


@pytest.fixture
def job(tmp_path, write_rows):
    """A job of twenty interleaved rows."""
    return ScoreJob(
        input=write_rows(tmp_path / "rows.jsonl", ROWS),
        output=tmp_path / "out.jsonl",
        adapter_column="who",
        checkpoint_every=3,
    )


def test_rows_come_back_in_their_order_whatever_base_model_they_need(
    job, registry, fakes, read_rows
):
    """Each with its own base model; a row that names no adapter has none."""
    model = fakes.FakeModel()
    report = score_with(job, registry=registry, opener=model.open)
    bases = {"summary/1": fakes.BASE, "other/1": fakes.OTHER_BASE, "third/1": fakes.THIRD_BASE}
    names = {"summary@production": "summary/1", " ": None}
    found = read_rows(job.output)
    assert [row["text"] for row in found] == [row["text"] for row in ROWS]
    for row, given_row in zip(found, ROWS, strict=True):
        adapter = names.get(given_row["who"], given_row["who"])
        prompt = f"Sum: {row['text']}"
        assert row["adapter"] == adapter
        assert row["base_model"] == bases.get(adapter)
        assert row["prediction"] == (adapter and f"{adapter}|{prompt[::-1]}")
        assert (row["error"] is None) == (adapter is not None)
    assert report.base_model is None
    assert report.base_models == {fakes.BASE: 8, fakes.OTHER_BASE: 4, fakes.THIRD_BASE: 4}
    assert (report.rows, report.failed) == (20, 4)
    assert [request.expected for request in model.requests] == list(report.base_models)


def test_rows_of_a_base_model_are_gathered_for_a_call(job, registry, fakes):
    """As many as make a checkpoint, though they stand far apart."""
    model = fakes.FakeModel()
    score_with(job, registry=registry, opener=model.open)
    assert [len(call) for call in model.calls] == [3, 3, 2, 3, 1, 3, 1]


def test_progress_counts_the_rows_of_all_base_models(job, registry, fakes):
    """From one to all; rows that name no adapter are the first to be done."""
    told = []
    score_with(
        job,
        registry=registry,
        progress=lambda *numbers: told.append(numbers),
        opener=fakes.FakeModel().open,
    )
    assert told == [(n, 20, min(n, 4)) for n in range(1, 21)]


def test_a_job_stopped_in_the_second_base_model_goes_on_there(job, registry, fakes):
    """The first is not opened again, and progress starts where it was."""
    score_with(replace(job, output=job.output.with_name("whole.jsonl")), registry=registry,
               opener=fakes.FakeModel().open)  # fmt: skip
    with pytest.raises(fakes.StoppedError):
        score_with(job, registry=registry, opener=fakes.FakeModel(stop_after=11).open)
    model, told = fakes.FakeModel(), []
    report = score_with(
        replace(job, resume=True),
        registry=registry,
        progress=lambda *numbers: told.append(numbers),
        opener=model.open,
    )
    assert [request.expected for request in model.requests] == [fakes.OTHER_BASE, fakes.THIRD_BASE]
    assert model.seen == 1 + 4
    assert told[-1] == (20, 20, 4)
    assert told[0][0] == 8 + 3 + 1
    assert report.resumed_at == 8 + 3
    assert report.base_models[fakes.BASE] == 8
    assert job.output.read_bytes() == job.output.with_name("whole.jsonl").read_bytes()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.text(), st.sampled_from(WHO)), min_size=1, max_size=14),
    st.integers(0, 14),
    st.integers(1, 5),
    st.sampled_from(["jsonl", "csv", "parquet"]),
)
def test_stopped_anywhere_resumes_to_the_same_bytes(write_rows, fakes, rows, after, every, suffix):
    """Whatever base models the rows name, in whatever order; each row is scored as if alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = fakes.many_bases(name)
        job = ScoreJob(
            input=write_rows(
                folder / f"rows.{suffix}", [{"text": text, "who": who} for text, who in rows]
            ),
            output=folder / f"whole.{suffix}",
            adapter_column="who",
            checkpoint_every=every,
        )
        whole = score_with(job, registry=registry, opener=fakes.FakeModel().open)
        job = replace(job, output=folder / f"torn.{suffix}", resume=True)
        try:
            score_with(job, registry=registry, opener=fakes.FakeModel(stop_after=after).open)
        except fakes.StoppedError:
            again = score_with(job, registry=registry, opener=fakes.FakeModel().open)
            assert (again.failed, again.base_models) == (whole.failed, whole.base_models)
        assert whole.output.read_bytes() == job.output.read_bytes()


def test_resuming_on_other_weights_is_refused(job, registry, fakes):
    """One file never mixes the outputs of two sets of weights that stand for one base model."""
    with pytest.raises(fakes.StoppedError):
        score_with(job, registry=registry, opener=fakes.FakeModel(stop_after=11).open)
    changed = fakes.FakeModel(weights={fakes.OTHER_BASE: f"sha256:{'e' * 64}"})
    with pytest.raises(InvalidInput, match="base_model") as caught:
        score_with(replace(job, resume=True), registry=registry, opener=changed.open)
    assert caught.value.differing == ["base_model"]


def test_a_partial_result_of_other_rows_is_refused(job, registry, fakes, tmp_path):
    """A file that somebody wrote to is never taken for the rows that it should hold."""
    with pytest.raises(fakes.StoppedError):
        score_with(job, registry=registry, opener=fakes.FakeModel(stop_after=11).open)
    spool = tmp_path / ".out.jsonl.partial" / "base-0"
    lines = spool.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[1:3] = reversed(lines[1:3])
    spool.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(StorageError, match="--overwrite"):
        score_with(replace(job, resume=True), registry=registry, opener=fakes.FakeModel().open)
    assert not job.output.exists()


def test_an_input_that_changes_meanwhile_is_noticed(job, registry, fakes, write_rows):
    """Before the next base model is opened."""

    def touch(done, _total, _failed):
        if done == 6:
            write_rows(job.input, [*ROWS, {"text": "new", "who": "other/1"}])

    model = fakes.FakeModel()
    with pytest.raises(InvalidInput, match="changed while"):
        score_with(job, registry=registry, progress=touch, opener=model.open)
    assert len(model.requests) == 1
    assert not job.output.exists()


def test_one_given_base_model_for_adapters_of_several_is_refused(job, registry, fakes, tmp_path):
    """The error names a version of each, and what to leave out."""
    model = fakes.FakeModel()
    with pytest.raises(IncompatibleBaseModel, match=r"summary/1 on.*other/1 on.*--base"):
        score_with(replace(job, base="tiny"), registry=registry, opener=model.open)
    assert not model.requests
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_one_given_base_model_scores_all_where_that_is_allowed(job, registry, fakes, read_rows):
    """The report names the versions that were trained on others."""
    model = fakes.FakeModel()
    allowed = replace(job, base="tiny", allow_base_mismatch=True)
    report = score_with(allowed, registry=registry, opener=model.open)
    assert report.base_models == {fakes.BASE: 16}
    assert report.base_model == fakes.BASE
    assert report.base_mismatches == ("other/1", "third/1")
    assert len(model.requests) == 1
    assert {row["base_model"] for row in read_rows(job.output)} == {fakes.BASE, None}


def test_files_of_every_base_model_are_looked_for_first(job, registry, fakes, tmp_path):
    """No base model is opened, and nothing is left behind, where those of one are gone."""
    registry.location = str(tmp_path / "gone")
    model = fakes.FakeModel()
    with pytest.raises(BaseModelNotFound, match="gone"):
        score_with(job, registry=registry, opener=model.open)
    assert not model.requests
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_files_of_all_adapters_are_pulled_first(job, registry, fakes):
    """Each once, before a base model is opened."""
    pulled = []

    def opener(request):
        pulled.append(list(registry.pulled))
        return fakes.FakeModel().open(request)

    score_with(job, registry=registry, opener=opener)
    assert pulled == [["summary/1", "other/1", "third/1"]] * 3


def test_rows_that_name_no_adapter_at_all_need_no_base_model(tmp_path, registry, fakes, write_rows):
    """Each has its error."""
    job = ScoreJob(
        input=write_rows(tmp_path / "in.jsonl", [{"who": "", "text": "a"}] * 4),
        output=tmp_path / "out.jsonl",
        adapter_column="who",
        checkpoint_every=3,
    )
    model = fakes.FakeModel()
    report = score_with(job, registry=registry, opener=model.open)
    assert (report.rows, report.failed, report.base_models) == (4, 4, {})
    assert not model.requests
    lines = job.output.read_text(encoding="utf-8").splitlines()
    assert all("'who'" in json.loads(line)["error"] for line in lines)
