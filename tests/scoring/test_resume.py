"""A job that is stopped anywhere and resumed gives the result of an undisturbed one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import ConflictError, InvalidInput, StorageError
from dovetail.scoring.batch import score_with
from dovetail.scoring.checkpoint import PartialOutput
from dovetail.scoring.job import ScoreJob

ROWS = [
    {
        "id": str(n),
        "text": ["plain", "two\nlines", "too long", ' "quoted", é\u2028', " "][n % 5],
        "who": ["summary/1", "other/1", "", "third/1"][n % 4],
    }
    for n in range(11)
]


@pytest.fixture
def job(tmp_path, write_rows):
    """A job of eleven rows in four checkpoints."""
    return ScoreJob(
        input=write_rows(tmp_path / "rows.jsonl", ROWS),
        output=tmp_path / "out.jsonl",
        reference="summary@production",
        checkpoint_every=3,
    )


def stop(job, registry, fakes, after):
    """Run a job until its model stops it."""
    model = fakes.FakeModel(stop_after=after)
    with pytest.raises(fakes.StoppedError):
        score_with(job, registry=registry, opener=model.open)


@pytest.mark.parametrize(
    ("suffix", "column"),
    [("jsonl", ()), ("csv", ()), ("parquet", ()), ("jsonl", ("who",))],
    ids=["jsonl", "csv", "parquet", "several-bases"],
)
def test_killed_at_every_step_resumes_to_the_same_bytes(
    tmp_path, write_rows, fakes, suffix, column
):
    """SIGKILL at each step that touches the disk, then resume: the file is that of a whole run."""
    write_rows(tmp_path / f"rows.{suffix}", ROWS)
    done = subprocess.run(
        [sys.executable, fakes.__file__, str(tmp_path), suffix, *column],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert len(found["ends"]) > 30
    assert set(found["ends"]) == {9}
    assert set(found["results"]) == {found["whole"]}, done.stderr
    assert not any(found["left_over"])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(), min_size=1, max_size=12),
    st.integers(0, 12),
    st.integers(1, 5),
    st.sampled_from(["jsonl", "csv", "parquet"]),
    st.binary(max_size=20),
)
def test_stopped_anywhere_resumes_to_the_same_bytes(
    write_rows, fakes, texts, after, every, suffix, torn
):
    """Whatever the rows, the place, the checkpoints and the torn end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = fakes.FakeRegistry(name).add(fakes.make_version(), "production")
        job = ScoreJob(
            input=write_rows(folder / "rows.jsonl", [{"text": text} for text in texts]),
            output=folder / f"whole.{suffix}",
            reference="summary/1",
            checkpoint_every=every,
        )
        score_with(job, registry=registry, opener=fakes.FakeModel().open)
        job = replace(job, output=folder / f"torn.{suffix}", resume=True)
        try:
            score_with(job, registry=registry, opener=fakes.FakeModel(stop_after=after).open)
        except fakes.StoppedError:
            with (folder / f".torn.{suffix}.partial" / "rows").open("ab") as stream:
                stream.write(torn)
            score_with(job, registry=registry, opener=fakes.FakeModel().open)
        whole = (folder / f"whole.{suffix}").read_bytes()
        assert (folder / f"torn.{suffix}").read_bytes() == whole


def test_nothing_of_a_checkpoint_is_generated_again(job, registry, fakes):
    """A resumed job starts behind the last checkpoint and says where."""
    stop(job, registry, fakes, after=7)
    model = fakes.FakeModel()
    report = score_with(replace(job, resume=True), registry=registry, opener=model.open)
    assert report.resumed_at == 6
    assert report.rows == 11
    assert model.seen == len([row for row in ROWS[6:] if row["text"].strip()])


def test_a_resumed_job_keeps_the_versions_that_it_began_with(job, registry, fakes, read_rows):
    """An alias that moves between the two runs changes nothing."""
    stop(job, registry, fakes, after=7)
    registry.add(fakes.make_version(number=2), "production")
    model = fakes.FakeModel()
    report = score_with(replace(job, resume=True), registry=registry, opener=model.open)
    assert report.references == {"summary@production": "summary/1"}
    assert {row["adapter"] for row in read_rows(job.output)} == {"summary/1"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("reference", "summary/1"),
        ("template", "Other: {text}"),
        ("prefix", "x_"),
        ("max_new_tokens", 3),
        ("generation", {"num_beams": 2}),
        ("limit", 5),
        ("checkpoint_every", 4),
        ("keep_columns", ("id",)),
        ("dtype", "bfloat16"),
    ],
)
def test_resuming_with_another_setting_is_refused(job, registry, fakes, setting, value):
    """The error names the setting that differs."""
    stop(job, registry, fakes, after=7)
    other = replace(job, resume=True, **{setting: value})
    with pytest.raises(InvalidInput, match=setting) as caught:
        score_with(other, registry=registry, opener=fakes.FakeModel().open)
    assert caught.value.differing == [setting]


def test_resuming_with_a_smaller_batch_is_allowed(job, registry, fakes):
    """That is how a job that ran out of memory goes on."""
    stop(job, registry, fakes, after=7)
    smaller = replace(job, resume=True, batch_size=1)
    assert score_with(smaller, registry=registry, opener=fakes.FakeModel().open).rows == 11


def test_resuming_with_a_changed_input_is_refused(job, registry, fakes, write_rows):
    """A file with other rows is another job."""
    stop(job, registry, fakes, after=7)
    write_rows(job.input, [*ROWS[:-1], {"id": "x", "text": "other"}])
    with pytest.raises(InvalidInput, match="input was"):
        score_with(replace(job, resume=True), registry=registry, opener=fakes.FakeModel().open)


def test_resuming_on_another_base_model_is_refused(job, registry, fakes):
    """One file never mixes the outputs of two sets of weights."""
    stop(job, registry, fakes, after=7)
    other = fakes.FakeModel(fingerprint=fakes.OTHER_BASE)
    with pytest.raises(InvalidInput, match="base_model"):
        score_with(replace(job, resume=True), registry=registry, opener=other.open)


def test_an_input_that_changes_meanwhile_is_noticed(job, registry, fakes, write_rows):
    """The rows that were scored may be those of neither file, so nothing is published."""

    def touch(done, _total, _failed):
        if done == 5:
            write_rows(job.input, [*ROWS, {"id": "new", "text": "new"}])

    with pytest.raises(InvalidInput, match="changed while"):
        score_with(job, registry=registry, progress=touch, opener=fakes.FakeModel().open)
    assert not job.output.exists()


def test_a_partial_result_is_not_taken_without_a_word(job, registry, fakes):
    """Neither resumed nor thrown away unless one of the two is asked for."""
    stop(job, registry, fakes, after=7)
    with pytest.raises(ConflictError, match=r"--resume.*--overwrite"):
        score_with(job, registry=registry, opener=fakes.FakeModel().open)


def test_overwrite_starts_over(job, registry, fakes, read_rows):
    """The partial result is dropped and all rows are generated."""
    stop(job, registry, fakes, after=7)
    report = score_with(
        replace(job, overwrite=True), registry=registry, opener=fakes.FakeModel().open
    )
    assert report.resumed_at is None
    assert len(read_rows(job.output)) == 11


def test_a_finished_output_is_replaced_only_when_asked(job, registry, fakes):
    """The old file stays whole until the new one is."""
    job.output.write_text("precious", encoding="utf-8")
    with pytest.raises(ConflictError, match="exists"):
        score_with(job, registry=registry, opener=fakes.FakeModel().open)
    stop(replace(job, overwrite=True), registry, fakes, after=7)
    assert job.output.read_text(encoding="utf-8") == "precious"
    again = replace(job, overwrite=True, resume=True)
    assert score_with(again, registry=registry, opener=fakes.FakeModel().open).resumed_at == 6
    assert job.output.read_text(encoding="utf-8") != "precious"


def test_two_jobs_cannot_write_one_output(job, registry, fakes):
    """The second one is turned away whatever its options."""
    with (
        PartialOutput.open(job.output, resume=False, overwrite=False),
        pytest.raises(ConflictError, match="another job"),
    ):
        score_with(replace(job, overwrite=True), registry=registry, opener=fakes.FakeModel().open)


def test_a_job_that_cannot_start_leaves_nothing_behind(job, registry, fakes, tmp_path):
    """An error before the first row leaves no partial directory."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match="'nothing'"):
        score_with(
            replace(job, template="{nothing}"), registry=registry, opener=fakes.FakeModel().open
        )
    assert sorted(tmp_path.iterdir()) == before


def test_a_result_that_only_lacks_its_name_is_not_lost(job, registry, fakes, tmp_path):
    """A run that is refused leaves it to be resumed."""
    stop(job, registry, fakes, after=7)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / ".out.jsonl.partial", kept)
    score_with(replace(job, resume=True), registry=registry, opener=fakes.FakeModel().open)
    job.output.rename(kept / "finished")
    whole = (kept / "finished").read_bytes()
    state = {"rows": 11, "failed": 4, "size": len(whole), "finished": True}
    (kept / "state.json").write_text(json.dumps(state), encoding="utf-8")
    kept.rename(tmp_path / ".out.jsonl.partial")
    with pytest.raises(ConflictError, match="partial result"):
        score_with(job, registry=registry, opener=fakes.FakeModel().open)
    report = score_with(replace(job, resume=True), registry=registry, opener=fakes.FakeModel().open)
    assert (report.rows, report.failed, report.resumed_at) == (11, 4, 11)
    assert job.output.read_bytes() == whole


@pytest.mark.parametrize("several", [False, True], ids=["one-base", "several-bases"])
def test_what_ran_through_peft_is_known_after_a_resume(job, registry, fakes, write_rows, several):
    """Also of versions whose rows were all done before; a row with an error ran through nothing."""
    for name in ("early", "late", "failing", "never"):
        base = fakes.OTHER_BASE if several and name != "early" else fakes.BASE
        registry.add(fakes.make_version(name, base=base))
    who = ["early", "summary", "failing", "late", "never", "late"]
    rows = [
        {"text": "too long" if name == "failing" else "text", "who": f"{name}/1"} for name in who
    ]
    job = replace(
        job,
        input=write_rows(job.input, rows),
        reference=None,
        adapter_column="who",
        checkpoint_every=2,
    )
    peft = frozenset({"early/1", "late/1", "failing/1"})
    model = fakes.FakeModel(stop_after=5, by_reference=peft)
    with pytest.raises(fakes.StoppedError):
        score_with(job, registry=registry, opener=model.open)
    model = fakes.FakeModel(by_reference=peft)
    report = score_with(replace(job, resume=True), registry=registry, opener=model.open)
    assert model.seen < len(rows)
    assert report.reference_path == ("early/1", "late/1")
    assert (report.rows, report.failed) == (6, 1)


def test_resume_with_nothing_to_resume_starts(job, registry, fakes):
    """So a scheduled job can always say that it wants to resume."""
    report = score_with(replace(job, resume=True), registry=registry, opener=fakes.FakeModel().open)
    assert report.resumed_at is None


def test_a_result_taken_away_is_made_anew(job, registry, fakes, tmp_path):
    """A leftover that says 'published' does not stand in for a file that is gone."""
    kept = tmp_path / "kept"
    stop(job, registry, fakes, after=7)
    shutil.copytree(tmp_path / ".out.jsonl.partial", kept)
    score_with(replace(job, resume=True), registry=registry, opener=fakes.FakeModel().open)
    state = json.loads((kept / "state.json").read_text(encoding="utf-8"))
    (kept / "state.json").write_text(json.dumps({**state, "finished": True}), encoding="utf-8")
    kept.rename(tmp_path / ".out.jsonl.partial")
    job.output.unlink()
    report = score_with(replace(job, resume=True), registry=registry, opener=fakes.FakeModel().open)
    assert (report.rows, report.resumed_at) == (11, None)


def test_a_partial_result_that_lost_bytes_is_refused(job, registry, fakes, tmp_path):
    """Rows that the state counts but the file lacks cannot be made up."""
    stop(job, registry, fakes, after=7)
    (tmp_path / ".out.jsonl.partial" / "rows").write_bytes(b"")
    with pytest.raises(StorageError, match="shorter"):
        score_with(replace(job, resume=True), registry=registry, opener=fakes.FakeModel().open)
