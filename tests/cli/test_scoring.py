"""``dovetail score`` and ``evaluate`` with the base model that comes with the package."""

import csv
import json
import shutil
import subprocess
import sys
import warnings

import pytest

pytest.importorskip("peft")

import numpy as np
import peft
import pyarrow.parquet
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification

from dovetail.cli.exits import run
from dovetail.demo import BASE_DIRECTORY
from dovetail.scoring import ScoreJob, score

TEXTS = ["Ann: Hi. Ben: Hello.", "Ben: Shall we meet?", "Ann: Yes, at two."]
TOO_LONG = "very " * 2_000
ADDED = {"prediction", "adapter", "payload_digest", "base_model", "error"}
CHECKPOINT = 512


@pytest.fixture(scope="module")
def model_files(tmp_path_factory, place_at, make):
    """The files of a registry with two soft prompts for the demo's base model."""
    made = place_at(tmp_path_factory.mktemp("model") / "place")
    width = json.loads((BASE_DIRECTORY / "config.json").read_text())["hidden_size"]
    with made.open() as registry:
        registry.register_base(BASE_DIRECTORY, name="demo")
        for seed in (1, 2):
            registry.register(
                "summary",
                make.prompt(tmp_path_factory.mktemp("prompt"), seed=seed, width=width),
                base="demo",
                task="summarization",
                input_template="{text}",
                generation_config={"max_new_tokens": 4},
            )
        registry.promote("summary/1", "production")
    return made.root


@pytest.fixture
def dovetail(place, model_files, monkeypatch, capsys):
    """Run the command line on that registry: exit code, stdout and stderr."""
    shutil.copytree(model_files, place.root)
    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(place.cache))

    def call(*arguments):
        capsys.readouterr()
        code = run([*place.options, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def data(tmp_path):
    """Three rows, each with the right answer and the adapter to use."""
    return write(
        tmp_path / "in.jsonl",
        [
            {"text": text, "wanted": text, "who": f"summary/{1 + at % 2}"}
            for at, text in enumerate(TEXTS)
        ],
    )


@pytest.fixture
def changed_base(tmp_path):
    """The demo's base model with one weight changed."""
    made = shutil.copytree(BASE_DIRECTORY, tmp_path / "changed")
    tensors = load_file(made / "model.safetensors")
    name = next(name for name in tensors if "mlp" in name)
    changed = np.array(tensors[name])
    changed[0, 0] += 1
    save_file({**tensors, name: changed}, made / "model.safetensors", metadata={"format": "pt"})
    return made


def write(path, rows):
    """Write rows as JSONL."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def read(path):
    """Read rows of JSONL."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_score_writes_a_row_for_each_row(dovetail, data, tmp_path):
    """The input's columns and the added ones; the alias is resolved once and said."""
    out = tmp_path / "out.jsonl"
    code, text, err = dovetail("score", "summary@production", data, "-o", out)
    assert code == 0, err
    assert "summary@production is summary/1" in err
    assert text.startswith(f"3 rows in {out}, 0 with errors")
    found = read(out)
    assert [row["text"] for row in found] == TEXTS
    assert {row["adapter"] for row in found} == {"summary/1"}
    assert all(row["prediction"] is not None and row["error"] is None for row in found)


def test_each_row_may_name_its_adapter(dovetail, data, tmp_path):
    """As JSON for programs, from and to Parquet."""
    out = tmp_path / "out.parquet"
    code, text, _ = dovetail("score", data, "--adapter-column", "who", "-o", out, "--json")
    assert code == 0
    assert json.loads(text)["rows"] == 3
    found = pyarrow.parquet.read_table(out).to_pylist()
    assert [row["adapter"] for row in found] == ["summary/1", "summary/2", "summary/1"]


@pytest.fixture
def mood(dovetail, place, tmp_path):
    """A version that classifies, on the demo's base model."""
    model = AutoModelForSequenceClassification.from_pretrained(BASE_DIRECTORY, num_labels=2)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        peft.get_peft_model(model, config).save_pretrained(tmp_path / "mood")
    with place.open() as registry:
        registry.register(
            "mood",
            tmp_path / "mood",
            base="demo",
            task="text-classification",
            hyperparameters={"id2label": {"0": "glum", "1": "glad"}},
        )


@pytest.mark.usefixtures("mood")
def test_adapters_that_classify_give_labels(dovetail, tmp_path):
    """Beside those that write; the report names what ran through PEFT, in words and as JSON."""
    who = ["mood/1", "summary/1", "mood@latest"]
    rows = [{"text": text, "who": name} for text, name in zip(TEXTS, who, strict=True)]
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    arguments = ("score", data, "--adapter-column", "who", "-o", out)
    code, _, err = dovetail(*arguments)
    assert code == 0, err
    assert "through PEFT (reference path): mood/1\n" in err
    found = read(out)
    assert {found[at]["prediction"] for at in (0, 2)} <= {"glum", "glad"}
    assert found[1]["prediction"] not in {"glum", "glad"}
    code, text, _ = dovetail(*arguments, "--overwrite", "--json")
    assert code == 0
    assert json.loads(text)["reference_path"] == ["mood/1"]
    code, text, err = dovetail(
        "evaluate", "mood/1", out, "--reference-column", "prediction", "--json", "--limit", 1
    )
    assert code == 0, err
    assert json.loads(text)["scores"]["accuracy"]["value"] == 1


def test_the_bare_base_model_scores(dovetail, data, tmp_path):
    """Into CSV, with the columns that were asked for."""
    out = tmp_path / "out.csv"
    code, _, err = dovetail(
        "score",
        data,
        "--base",
        "demo",
        "--text-column",
        "text",
        "--max-new-tokens",
        2,
        "--keep",
        "wanted",
        "--prefix",
        "our_",
        "-o",
        out,
    )
    assert code == 0, err
    with out.open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [row["wanted"] for row in found] == TEXTS
    assert set(found[0]) == {"wanted", *(f"our_{name}" for name in ADDED)}


def test_rows_with_errors_are_exit_code_10(dovetail, tmp_path):
    """The other rows have their predictions, and the row says what is wrong."""
    data = write(tmp_path / "in.jsonl", [{"text": TEXTS[0]}, {"text": TOO_LONG}, {"text": None}])
    code, text, _ = dovetail("score", "summary/1", data, "-o", tmp_path / "out.jsonl")
    assert code == 10
    assert "2 with errors" in text
    found = read(tmp_path / "out.jsonl")
    assert [row["error"] is None for row in found] == [True, False, False]
    assert [row["prediction"] is None for row in found] == [False, True, True]


def test_output_that_is_there_is_not_replaced_unasked(dovetail, data, tmp_path):
    """``--overwrite`` replaces it."""
    out = tmp_path / "out.jsonl"
    out.write_text("precious\n")
    code, _, err = dovetail("score", "summary/1", data, "-o", out)
    assert code == 4, err
    assert out.read_text() == "precious\n"
    assert dovetail("score", "summary/1", data, "-o", out, "--overwrite")[0] == 0
    assert len(read(out)) == 3


def test_resume_starts_where_there_is_nothing_yet(dovetail, data, tmp_path):
    """The same command can be run again and again until it is done."""
    arguments = ("score", "summary/1", data, "-o", tmp_path / "out.jsonl", "--resume")
    code, _, err = dovetail(*arguments)
    assert code == 0, err
    assert len(read(tmp_path / "out.jsonl")) == 3


def test_resume_goes_on_where_a_job_was_interrupted(dovetail, place, tmp_path):
    """The result is that of a job that was not."""
    data = write(tmp_path / "in.jsonl", [{"text": f"Ann: {at}"} for at in range(CHECKPOINT + 8)])
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = ("score", "summary/1", data, "--max-new-tokens", 1, "--batch-size", 64)
    assert dovetail(*arguments, "-o", whole)[0] == 0

    def interrupt(done, _total, _failed):
        if done > CHECKPOINT:
            raise KeyboardInterrupt

    job = ScoreJob(input=data, output=out, reference="summary/1", max_new_tokens=1, batch_size=64)
    with place.open() as registry, pytest.raises(KeyboardInterrupt):
        score(job, registry=registry, progress=interrupt)
    assert not out.exists()
    assert dovetail(*arguments, "-o", out)[0] == 4
    code, _, err = dovetail(*arguments, "-o", out, "--resume")
    assert code == 0, err
    assert f"went on after {CHECKPOINT} rows" in err
    assert out.read_bytes() == whole.read_bytes()


CTRL_C = """
import os, signal, sys

from dovetail.cli.exits import run

checkpoints = 0

def press(event, arguments):
    global checkpoints
    if event == "os.rename" and os.path.basename(arguments[1]) == "state.json":
        checkpoints += 1
        if checkpoints == 3:
            os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(press)
sys.exit(run(sys.argv[1:]))
"""
"""Runs a command and presses Ctrl-C in it when the second rows are to be made safe."""


def test_ctrl_c_keeps_what_is_done(dovetail, place, tmp_path):
    """A real signal in a process of its own: exit code 130, and ``--resume`` does the rest."""
    data = write(tmp_path / "in.jsonl", [{"text": f"Ann: {at}"} for at in range(10)])
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = ("score", "summary/1", data, "--max-new-tokens", 2, "--checkpoint-every", 3)
    assert dovetail(*arguments, "-o", whole)[0] == 0
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C, *place.options, *map(str, (*arguments, "-o", out))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "rows up to the last checkpoint are kept" in done.stderr
    assert done.stderr.endswith("interrupted\n")
    assert "Traceback" not in done.stderr
    assert not out.exists()
    code, _, err = dovetail(*arguments, "-o", out, "--resume")
    assert code == 0, err
    assert "went on after 3 rows" in err
    assert out.read_bytes() == whole.read_bytes()


def test_rows_may_need_several_base_models(dovetail, place, data, tmp_path, changed_base, make):
    """Each row is scored on its own, and the report says how many were scored on which."""
    with place.open() as registry:
        registry.register_base(changed_base, name="changed")
        width = json.loads((changed_base / "config.json").read_text())["hidden_size"]
        registry.register(
            "other",
            make.prompt(tmp_path / "other", seed=3, width=width),
            base="changed",
            task="summarization",
            input_template="{text}",
            generation_config={"max_new_tokens": 4},
        )
        first, second = (registry.base_model(name).fingerprint for name in ("demo", "changed"))
    who = ["summary/1", "other/1", "summary/2"]
    write(data, [{"text": text, "who": name} for text, name in zip(TEXTS, who, strict=True)])
    out = tmp_path / "out.jsonl"
    code, text, err = dovetail("score", data, "--adapter-column", "who", "-o", out)
    assert code == 0, err
    assert f"bases {first[:19]} (2 rows), {second[:19]} (1 rows)" in text
    assert [row["base_model"] for row in read(out)] == [first, second, first]
    code, text, _ = dovetail(
        "score", data, "--adapter-column", "who", "-o", out, "--overwrite", "--json"
    )
    assert code == 0
    assert json.loads(text)["base_models"] == {first: 2, second: 1}
    code, _, err = dovetail(
        "score", data, "--adapter-column", "who", "-o", tmp_path / "x.jsonl", "--base", "demo"
    )
    assert code == 6
    assert "other/1 on" in err


def test_other_weights_are_exit_code_6_unless_allowed(
    dovetail, data, tmp_path, changed_base, place
):
    """And then the message, the report and the history say so."""
    arguments = ("score", "summary/1", data, "-o", tmp_path / "out.jsonl", "--base", changed_base)
    code, out, err = dovetail(*arguments)
    assert (code, out) == (6, "")
    assert "mlp" in err
    assert not (tmp_path / "out.jsonl").exists()
    code, _, err = dovetail(*arguments, "--allow-base-mismatch")
    assert code == 0, err
    assert "warning: summary/1 was trained on another base model" in err
    with place.open() as registry:
        event = registry.history("summary")[-1]
        assert (event.action, event.number) == ("base-mismatch", 1)
        assert event.details["trained_on"] == registry.resolve("summary/1").base_model
        assert event.details["attached_to"] not in ("", event.details["trained_on"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("score", "summary@nothing", "DATA", "-o", "OUT"), 3),
        (("score", "nobody/1", "DATA", "-o", "OUT"), 3),
        (("score", "summary/1", "MISSING", "-o", "OUT"), 5),
        (("score", "summary/1", "DATA", "-o", "OUT", "--limit", "0"), 5),
        (("score", "summary/1", "DATA", "-o", "OUT", "--max-new-tokens", "0"), 5),
        (("score", "summary/1", "DATA", "-o", "OUT", "--checkpoint-every", "0"), 5),
        (("score", "summary/1", "DATA", "-o", "OUT", "--template", "{nothing}"), 5),
        (("score", "summary/1", "DATA", "-o", "OUT", "--adapter-column", "who"), 5),
        (("score", "DATA", "-o", "OUT", "--adapter-column", "nothing"), 5),
        (("score", "summary/1", "DATA", "-o", "OUT", "--generation", "nothing=1"), 5),
        (("score", "summary/1", "DATA", "-o", "OUT", "--generation", "x"), 2),
        (("score", "summary/1", "DATA"), 2),
        (("evaluate", "summary/1", "DATA", "--reference-column", "nothing"), 5),
        (("evaluate", "summary/1", "DATA", "--reference-column", "wanted", "--metric", "x"), 5),
        (("evaluate", "DATA", "--reference-column", "wanted", "--predictions-column", "text"), 5),
    ],
)
def test_what_cannot_be_done_is_said_before_a_model_is_opened(
    dovetail, data, tmp_path, arguments, code
):
    """And no output is left behind."""
    places = {"DATA": data, "OUT": tmp_path / "out.jsonl", "MISSING": tmp_path / "missing.jsonl"}
    found, out, err = dovetail(*(places.get(argument, argument) for argument in arguments))
    assert (found, out) == (code, ""), err
    assert [path.name for path in tmp_path.glob("out*")] == []


def test_evaluate_records_scores_that_a_gate_can_use(dovetail, data, place):
    """The bare base model and a version, on the same rows."""
    rows = ("--reference-column", "wanted", "--dataset-name", "test", "--max-new-tokens", 2)
    code, text, err = dovetail("evaluate", "summary/1", data, *rows)
    assert code == 0, err
    assert text.startswith("summary/1 on test (sha256:")
    assert "rougeL" in text
    code, text, _ = dovetail(
        "evaluate", data, *rows, "--base", "demo", "--text-column", "text", "--json"
    )
    assert code == 0
    assert json.loads(text)["name"] is None
    assert dovetail("promote", "summary/1", "staging", "--require", "rougeL >= 0")[0] == 0
    code, _, err = dovetail("promote", "summary/1", "staging", "--require", "rougeL >= base")
    assert code == 7
    assert "3 examples on test" in err
    with place.open() as registry:
        assert registry.evaluations("summary/1")[0].n == 3


def test_evaluate_takes_predictions_that_exist(dovetail, data):
    """No model is run; what is right is all right."""
    code, text, err = dovetail(
        "evaluate",
        "summary/1",
        data,
        "--reference-column",
        "wanted",
        "--predictions-column",
        "text",
        "--metric",
        "exact_match",
        "--json",
    )
    assert code == 0, err
    found = json.loads(text)
    assert list(found["scores"]) == ["exact_match"]
    assert found["scores"]["exact_match"]["value"] == 1


def test_evaluate_refuses_a_dataset_with_rows_that_fail(dovetail, tmp_path):
    """A score over the other rows would be one of another dataset."""
    data = write(tmp_path / "in.jsonl", [{"text": TOO_LONG, "wanted": "x"}])
    code, out, err = dovetail("evaluate", "summary/1", data, "--reference-column", "wanted")
    assert (code, out) == (5, "")
    assert "row 0" in err
