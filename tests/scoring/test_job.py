"""What a batch job writes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from pyarrow import parquet

from dovetail.errors import (
    BaseModelNotFound,
    InvalidInput,
    NotFoundError,
    VersionNotFound,
)
from dovetail.scoring.batch import score_with
from dovetail.scoring.job import ScoreJob


@pytest.fixture
def run(tmp_path, registry, fakes, write_rows, read_rows):
    """Score rows with the fake model and return report and output rows."""

    def run(rows, *, input="in.jsonl", output="out.jsonl", **settings):  # noqa: A002
        given = {"reference": "summary@production"} if "adapter_column" not in settings else {}
        job = ScoreJob(
            input=write_rows(tmp_path / input, rows) if rows else tmp_path / input,
            output=tmp_path / output,
            **{**given, **settings},
        )
        run.model = fakes.FakeModel()
        report = score_with(job, registry=registry, opener=run.model.open)
        return report, read_rows(job.output)

    return run


def test_every_row_comes_back_with_what_was_made_of_it(run, registry, fakes):
    """Input columns first, then prediction, version, payload, base and error."""
    report, rows = run([{"id": 7, "text": "abc"}])
    version = registry.resolve("summary/1")
    assert rows == [
        {
            "id": 7,
            "text": "abc",
            "prediction": "summary/1|cba :muS",
            "adapter": "summary/1",
            "payload_digest": version.payload_digest,
            "base_model": fakes.BASE,
            "error": None,
        }
    ]
    assert list(rows[0]) == [
        "id", "text", "prediction", "adapter", "payload_digest", "base_model", "error"
    ]  # fmt: skip
    assert (report.rows, report.failed) == (1, 0)
    assert report.references == {"summary@production": "summary/1"}
    assert report.base_model == fakes.BASE


def test_a_row_that_fails_stops_nothing(run):
    """Its error is in the row; the others are scored."""
    rows = [
        {"text": "fine"},
        {"text": None},
        {"other": 1},
        {"text": ""},
        {"text": ["list"]},
        {"text": "too long"},
        {"text": 5},
    ]
    report, found = run(rows)
    assert report.failed == 5
    assert [row["prediction"] is None for row in found] == [
        False, True, True, True, True, True, False
    ]  # fmt: skip
    assert [row["error"] is None for row in found] == [
        row["prediction"] is not None for row in found
    ]
    assert "missing or null" in found[1]["error"]
    assert "list" in found[4]["error"]
    assert found[5]["error"] == "the prompt is too long"
    assert {row["adapter"] for row in found} == {"summary/1"}


def test_each_row_can_name_its_adapter(run, registry, fakes):
    """Each is scored under its own version's template; an empty cell is that row's error."""
    registry.add(fakes.make_version("title", 3, template="Title of {text}"))
    report, rows = run(
        [
            {"who": "summary@production", "text": "a"},
            {"who": "title/3", "text": "b"},
            {"who": "  ", "text": "c"},
            {"who": "title/3", "text": "d"},
        ],
        adapter_column="who",
    )
    assert [row["adapter"] for row in rows] == ["summary/1", "title/3", None, "title/3"]
    assert rows[1]["prediction"] == "title/3|b fo eltiT"
    assert "'who'" in rows[2]["error"]
    assert [row["base_model"] for row in rows] == [fakes.BASE, fakes.BASE, None, fakes.BASE]
    assert report.references == {"summary@production": "summary/1", "title/3": "title/3"}
    assert report.base_models == {fakes.BASE: 3}
    assert run.model.requests[0].adapters == ["summary/1", "title/3"]


def test_adapters_that_do_not_exist_are_listed_before_anything_runs(run):
    """All of them, in one error of the not-found kind."""
    with pytest.raises(NotFoundError, match=r"2 adapters.*summary/9.*no@where") as caught:
        run(
            [{"who": "summary/9", "text": "a"}, {"who": "no@where", "text": "a"}],
            adapter_column="who",
        )
    assert caught.value.references == ["no@where", "summary/9"]
    with pytest.raises(VersionNotFound, match=r"there is no summary/9$"):
        run([{"text": "a"}], reference="summary/9")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_an_adapter_that_does_not_exist_is_found_in_the_last_of_many_rows(run, tmp_path, suffix):
    """Before the first row is scored, with the numbers of its rows; nothing is left behind."""
    rows = [{"who": "summary/1", "text": "a"} for _ in range(17_001)]
    rows[3]["who"] = rows[17_000]["who"] = " nobody/1 "
    with pytest.raises(VersionNotFound, match=r"nobody/1 \[rows 3, 17000, counted from 0\]") as one:
        run(rows, input=f"in.{suffix}", adapter_column="who")
    assert one.value.rows == {"nobody/1": (3, 17_000)}
    rows[16_999]["who"] = "summary"
    with pytest.raises(NotFoundError, match=r"(?s)\[rows 3, 17000,.*\[row 16999,") as both:
        run(rows, input=f"in.{suffix}", adapter_column="who")
    assert both.value.rows == {"nobody/1": (3, 17_000), "summary": (16_999,)}
    assert not run.model.requests
    assert [path.name for path in tmp_path.iterdir()] == [f"in.{suffix}"]


def test_rows_behind_the_limit_may_name_what_does_not_exist(run):
    """They are not scored."""
    rows = [{"who": "summary/1", "text": "a"}, {"who": "nobody/1", "text": "a"}]
    assert run(rows, adapter_column="who", limit=1)[0].rows == 1


@pytest.mark.parametrize(
    ("settings", "prompt"),
    [
        ({}, "Sum: abc"),
        ({"template": "<{id}> {text}"}, "<7> abc"),
        ({"text_column": "id"}, "7"),
    ],
    ids=str,
)
def test_a_given_template_goes_before_that_of_the_version(run, settings, prompt):
    """Then a text column, then what the version was registered with."""
    _, rows = run([{"id": 7, "text": "abc"}], **settings)
    assert rows[0]["prediction"] == f"summary/1|{prompt[::-1]}"


def test_a_version_without_a_template_takes_the_text_column(run, registry, fakes):
    """And says what to give where there is none."""
    registry.add(fakes.make_version("bare", template=None))
    _, rows = run([{"text": "abc"}], reference="bare/1")
    assert rows[0]["prediction"] == "bare/1|cba"
    with pytest.raises(InvalidInput, match=r"template such as.*'dialogue'"):
        run([{"dialogue": "abc"}], reference="bare/1", overwrite=True)


@pytest.mark.parametrize("allowed", [False, True])
def test_the_bare_base_model_can_be_scored(run, fakes, allowed):
    """With no adapter in any row; which base model must be said."""
    report, rows = run([{"text": "abc"}], reference=None, base="tiny", allow_base_mismatch=allowed)
    assert report.base_models == {fakes.BASE: 1}
    assert rows[0]["prediction"] == "None|cba"
    assert rows[0]["adapter"] is None
    assert rows[0]["base_model"] == fakes.BASE
    with pytest.raises(InvalidInput, match="--base"):
        run([{"text": "abc"}], reference=None, overwrite=True)


def test_the_base_model_is_opened_where_the_registry_saw_it(run, registry, tmp_path):
    """With the fingerprint that the adapters need; if it has moved, that is said."""
    run([{"text": "abc"}])
    request = run.model.requests[0]
    assert (request.base, request.expected) == (
        str(tmp_path),
        registry.resolve("summary/1").base_model,
    )
    registry.location = str(tmp_path / "gone")
    with pytest.raises(BaseModelNotFound, match="gone"):
        run([{"text": "abc"}], overwrite=True)


def test_generation_settings_reach_the_model(run):
    """And one that does not exist is refused at once."""
    run([{"text": "a"}], max_new_tokens=5, generation={"num_beams": 2, "seed": 1}, batch_size=3)
    request = run.model.requests[0]
    assert request.generation == {"max_new_tokens": 5, "num_beams": 2, "seed": 1}
    assert request.batch_size == 3
    with pytest.raises(InvalidInput, match="num_beems"):
        run([{"text": "a"}], generation={"num_beems": 2}, overwrite=True)


@pytest.mark.parametrize("column", ["prediction", "error", "adapter"])
def test_a_column_of_the_input_is_never_overwritten(run, column):
    """A prefix, or leaving the column out, is the way round."""
    rows = [{"text": "a", column: "mine"}]
    with pytest.raises(InvalidInput, match=rf"{column}.*prefix"):
        run(rows)
    _, found = run(rows, prefix="x_")
    assert found[0][column] == "mine"
    assert found[0]["x_prediction"] == "summary/1|a :muS"
    _, found = run(rows, keep_columns=("text",), overwrite=True)
    assert found[0][column] != "mine"


def test_only_the_columns_asked_for_are_kept(run):
    """In the order asked for where the format has one."""
    _, rows = run([{"a": 1, "text": "t", "b": 2}], keep_columns=("b", "a"), output="out.csv")
    assert list(rows[0])[:2] == ["b", "a"]
    with pytest.raises(InvalidInput, match="'zz'"):
        run([{"text": "t"}], keep_columns=("zz",), output="other.csv")


def test_the_limit_counts_rows(run):
    """The rest of the input is not read."""
    report, rows = run([{"text": str(n)} for n in range(9)], limit=4)
    assert report.rows == len(rows) == 4


def test_progress_is_told_row_by_row(tmp_path, registry, fakes, write_rows):
    """Rows done, rows in all, rows failed."""
    told = []
    job = ScoreJob(
        input=write_rows(tmp_path / "in.jsonl", [{"text": "a"}, {"text": ""}, {"text": "b"}]),
        output=tmp_path / "out.jsonl",
        reference="summary/1",
        checkpoint_every=2,
    )
    score_with(
        job,
        registry=registry,
        progress=lambda *numbers: told.append(numbers),
        opener=fakes.FakeModel().open,
    )
    assert told == [(1, 3, 1), (2, 3, 1), (3, 3, 1)]


@pytest.mark.parametrize("input_suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("output_suffix", ["jsonl", "csv", "parquet"])
def test_text_is_the_same_in_every_format(run, input_suffix, output_suffix):
    """Line breaks, quotes and any Unicode survive each way through."""
    texts = ["two\nlines\r\n", 'a "quote", a comma', "é\u2028😀", " spaces "]
    _, rows = run(
        [{"id": str(n), "text": text} for n, text in enumerate(texts)],
        input=f"in.{input_suffix}",
        output=f"out.{output_suffix}",
    )
    assert [row["text"] for row in rows] == texts
    assert [row["prediction"] for row in rows] == [
        f"summary/1|{('Sum: ' + t)[::-1]}" for t in texts
    ]


def test_parquet_keeps_its_schema(run, tmp_path):
    """Types, nulls, nesting and metadata are those of the input; five columns are added."""
    table = pa.table(
        {
            "text": ["a", "b"],
            "when": pa.array([1, None], pa.timestamp("ns", "UTC")),
            "vector": pa.array([[0.5], [1.5, 2.5]], pa.list_(pa.float32())),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "raw": [b"\xff", None],
        }
    ).replace_schema_metadata({"made by": "hand"})
    parquet.write_table(table, tmp_path / "in.parquet")
    run([], input="in.parquet", output="out.parquet", checkpoint_every=1)
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.select(table.schema.names).equals(table)
    assert found.schema.metadata[b"made by"] == b"hand"
    assert found.num_columns == 10


def test_parquet_that_json_has_no_form_for_is_written_as_text(run, tmp_path):
    """Times as Arrow writes them, bytes as Base64, NaN as null."""
    table = pa.table(
        {
            "text": ["a"],
            "when": pa.array([1], pa.timestamp("ns")),
            "number": [float("nan")],
            "raw": [b"\xff\xfe"],
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    _, rows = run([], input="in.parquet")
    assert rows[0]["when"] == "1970-01-01 00:00:00.000000001"
    assert rows[0]["number"] is None
    assert rows[0]["raw"] == "//4="


def test_jsonl_of_mixed_rows_becomes_parquet(run, tmp_path):
    """Columns that agree keep their type; the others hold JSON text."""
    run(
        [
            {"text": "a", "n": 1, "x": 0.5, "mixed": 1, "nested": {"k": [1]}},
            {"text": "b", "n": None, "x": 2, "mixed": "one", "late": True},
        ],
        output="out.parquet",
    )
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.select(["text", "n", "x", "mixed", "nested", "late"]).to_pydict() == {
        "text": ["a", "b"],
        "n": [1, None],
        "x": [0.5, 2.0],
        "mixed": ["1", '"one"'],
        "nested": ['{"k": [1]}', None],
        "late": [None, True],
    }
    assert found.schema.field("n").type == pa.int64()


def test_csv_tells_null_from_empty_text(run, tmp_path):
    """Null is an empty cell; an empty text is a quoted one."""
    run(
        [{"text": "a", "b": None, "c": "", "d": [1]}],
        output="out.csv",
        keep_columns=("b", "c", "d"),
    )
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith('"b","c","d","prediction"')
    assert lines[1].startswith(',"","[1]",')


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"adapter_column": "text"}, "reference and adapter_column"),
        ({"template": "{text}", "text_column": "text"}, "template and text_column"),
        ({"template": "{nothing}"}, "'nothing' is not in the input; its columns are 'text'"),
        ({"text_column": "nothing"}, "'nothing'"),
        ({"batch_size": 0}, "batch_size"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"limit": 0}, "limit"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"generation": {"max_new_tokens": 0}}, "max_new_tokens"),
        ({"output_format": "excel"}, "excel"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(tmp_path, registry, fakes, write_rows, change, said):
    """Before a model is opened, and leaving nothing behind."""
    job = ScoreJob(
        input=write_rows(tmp_path / "in.jsonl", [{"text": "a"}]),
        output=tmp_path / "out.jsonl",
        reference="summary/1",
    )
    model = fakes.FakeModel()
    with pytest.raises(InvalidInput, match=said):
        score_with(replace(job, **change), registry=registry, opener=model.open)
    assert not model.requests
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_adapter_column_that_is_missing_is_named(run):
    """With the columns that there are."""
    with pytest.raises(InvalidInput, match=r"adapter column 'who'.*'text'"):
        run([{"text": "a"}], adapter_column="who")


@pytest.mark.parametrize("output", ["in.jsonl", "no/folder/out.jsonl", "out.jsonl.gz", "out"])
def test_an_output_that_cannot_be_written_is_refused(run, output):
    """The input itself, a missing folder, a compressed file, an unknown format."""
    with pytest.raises(InvalidInput):
        run([{"text": "a"}], output=output, overwrite=True)


def test_an_empty_run_of_rows_costs_no_model_call(run):
    """Rows that all fail before the model are written with their errors."""
    report, rows = run([{"text": ""}] * 3)
    assert report.failed == 3
    assert run.model.calls == []
    assert json.dumps(rows).count("white space") == 3


def test_versions_that_make_vectors_are_refused(run, registry, fakes):
    """No base model is opened for them: what they give is no prediction."""
    config = {"task_type": "FEATURE_EXTRACTION"}
    registry.add(fakes.make_version("meaning", config=config))
    rows = [{"text": "a", "who": "summary/1"}, {"text": "b", "who": "meaning/1"}]
    with pytest.raises(InvalidInput, match=r"meaning/1 was trained to embed .*call embed\(\)"):
        run(rows, adapter_column="who")
    assert not run.model.requests


def test_a_job_without_peft_says_so(run):
    """Nothing is on the reference path."""
    report, _ = run([{"text": "abc"}])
    assert report.reference_path == ()
