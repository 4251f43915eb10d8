"""Score and evaluate with a real base model, real adapters and a real registry."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("peft")

from dovetail.errors import (
    DigestMismatch,
    IncompatibleBaseModel,
    InvalidRow,
    NotFoundError,
)
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
make_base, make_lora, TEXTS = tiny.make_base, tiny.make_lora, tiny.TEXTS


def register_lora(registry, name, base, seed):
    """Register an adapter of a base model."""
    return registry.register(
        name,
        make_lora(base.parent / f"lora{seed}", base, seed),
        base=base,
        task="summarization",
        input_template="w3 {text}",
        generation_config={"max_new_tokens": 4},
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base model, another one, and a registry with one adapter of two versions."""
    root = tmp_path_factory.mktemp("world")
    base = make_base(root / "base", 1)
    with Registry.open(
        f"sqlite:///{root / 'r.db'}", (root / "objects").as_uri(), cache_dir=root / "cache"
    ) as registry:
        registry.register_base(base, name="tiny")
        for seed in (2, 3):
            register_lora(registry, "summary", base, seed)
        yield registry, base, make_base(root / "other", 9)


@pytest.fixture
def mixed(tmp_path, write_rows):
    """Open a registry of adapters of two base models; give it and a job whose rows need both.

    The registry is its own, for what the tests do to it. The rows of the base model that is opened
    second need two versions.
    """
    with Registry.open(
        f"sqlite:///{tmp_path / 'r.db'}",
        (tmp_path / "objects").as_uri(),
        cache_dir=tmp_path / "cache",
    ) as registry:
        first, second = (make_base(tmp_path / f"base{seed}", seed) for seed in (1, 9))
        register_lora(registry, "summary", first, 2)
        for seed in (3, 4):
            register_lora(registry, "title", second, seed)
        who = ("summary/1", "title/1", "title/2")
        rows = [{"text": text, "who": who[at % 3]} for at, text in enumerate(TEXTS)]
        yield (
            registry,
            ScoreJob(
                input=write_rows(tmp_path / "mixed.jsonl", rows),
                output=tmp_path / "out.jsonl",
                adapter_column="who",
                checkpoint_every=2,
            ),
        )


def once(done, action):
    """Make a progress callback that does something when so many rows are done."""

    def told(rows, _total, _failed):
        if rows == done:
            action()

    return told


def damage(registry, reference):
    """Change a byte in the shared copy of an adapter's weights."""
    weights = registry.pull(reference) / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o600)
    weights.write_bytes(data)


@pytest.fixture
def rows(tmp_path, write_rows):
    """A dataset whose rows name both versions by turns."""
    return write_rows(
        tmp_path / "rows.jsonl",
        [
            {"text": text, "wanted": text, "who": f"summary/{1 + n % 2}"}
            for n, text in enumerate(TEXTS)
        ],
    )


def test_a_mixed_file_is_scored_as_the_loader_scores_each_row(world, rows, tmp_path, read_rows):
    """With the template and the generation defaults of each version."""
    registry, directory, _ = world
    report = score(
        ScoreJob(input=rows, output=tmp_path / "out.parquet", adapter_column="who", batch_size=4),
        registry=registry,
    )
    found = read_rows(report.output)
    with open_base(directory, registry=registry) as base:
        for version in ("summary/1", "summary/2"):
            base.attach(version)
        wanted = [next(base.generate([Row(f"w3 {row['text']}", row["who"])])).text for row in found]
        assert {row["base_model"] for row in found} == {report.base_model} == {base.fingerprint}
    assert [row["prediction"] for row in found] == wanted
    assert report.failed == 0


def test_a_row_that_is_too_long_has_its_error_in_the_file(world, tmp_path, write_rows, read_rows):
    """The model's limit is 32 tokens."""
    data = write_rows(tmp_path / "in.jsonl", [{"text": "w5 " * 40}, {"text": "w5"}])
    job = ScoreJob(input=data, output=tmp_path / "out.jsonl", reference="summary@latest")
    assert score(job, registry=world[0]).failed == 1
    found = read_rows(tmp_path / "out.jsonl")
    assert found[0]["error"]
    assert found[1]["error"] is None


def test_other_weights_are_refused_unless_asked_for(world, rows, tmp_path):
    """The fingerprint that counts is that of the weights which were opened."""
    registry, _, other = world
    job = {"input": rows, "output": tmp_path / "out.jsonl", "reference": "summary/1"}
    with pytest.raises(IncompatibleBaseModel):
        score(ScoreJob(**job, base=str(other)), registry=registry)
    allowed = ScoreJob(**job, base=str(other), allow_base_mismatch=True)
    report = score(allowed, registry=registry)
    assert report.base_model != registry.resolve("summary/1").base_model


def test_evaluations_of_two_versions_can_be_compared(world, rows):
    """What is recorded lets the registry compare them example by example."""
    registry = world[0]
    for version in ("summary/1", "summary/2"):
        found = evaluate(version, rows, registry=registry, reference_column="wanted")
        assert found.n == len(TEXTS)
        assert found.settings["max_new_tokens"] == 4
    first, second = (registry.evaluations(f"summary/{n}")[0] for n in (1, 2))
    assert first.dataset_digest == second.dataset_digest
    assert (first.settings, first.library) == (second.settings, second.library)
    registry.promote(
        "summary/2", "staging", require=["rougeL >= 0"], reason="a gate reads the scores"
    )


def test_the_bare_base_model_is_evaluated(world, rows):
    """By its registered name, with no adapter attached."""
    registry = world[0]
    found = evaluate(
        None, rows, registry=registry, base="tiny", reference_column="wanted", max_new_tokens=4
    )
    assert found.name is None
    assert registry.evaluations(base="tiny")


def test_an_evaluation_with_a_row_that_is_too_long_is_refused(world, tmp_path, write_rows):
    """The row is named."""
    data = write_rows(tmp_path / "in.jsonl", [{"text": "w5 " * 40, "wanted": "w5"}])
    with pytest.raises(InvalidRow, match="row 0"):
        evaluate("summary/1", data, registry=world[0], reference_column="wanted")


def test_rows_of_two_base_models_are_scored_as_in_jobs_of_their_own(
    mixed, tmp_path, write_rows, read_rows
):
    """Interleaved in, interleaved out; the report says how many rows each base model scored."""
    registry, job = mixed
    report = score(job, registry=registry)
    found = read_rows(job.output)
    for name, count in (("summary", 3), ("title", 6)):
        own = [row for row in found if row["who"].startswith(name)]
        rows = [{"text": row["text"], "who": row["who"]} for row in own]
        alone = replace(
            job,
            input=write_rows(tmp_path / f"{name}-in.jsonl", rows),
            output=tmp_path / f"{name}.jsonl",
        )
        alone_report = score(alone, registry=registry)
        assert own == read_rows(alone.output)
        assert report.base_models[alone_report.base_model] == count == alone_report.rows
    assert [row["text"] for row in found] == TEXTS
    assert [row["base_model"] for row in found] == [
        registry.resolve(row["who"]).base_model for row in found
    ]
    assert (report.failed, report.base_model) == (0, None)


def test_a_version_deleted_while_a_job_runs_is_scored_all_the_same(mixed, tmp_path):
    """The job began with it, whether its base model is open by then or comes later."""
    registry, job = mixed
    score(replace(job, output=tmp_path / "whole.jsonl"), registry=registry)

    def delete():
        registry.delete("summary/1")
        registry.delete("title/1")

    report = score(job, registry=registry, progress=once(1, delete))
    assert report.failed == 0
    assert job.output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(NotFoundError, match=r"title/1 was deleted.*\[rows 1, 4, 7,"):
        score(replace(job, overwrite=True), registry=registry)


def test_a_copy_damaged_while_a_job_runs_is_repaired(mixed, tmp_path):
    """It is hashed before it is attached, and fetched again."""
    registry, job = mixed
    score(replace(job, output=tmp_path / "whole.jsonl"), registry=registry)
    score(job, registry=registry, progress=once(1, lambda: damage(registry, "title/1")))
    assert job.output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    damage(registry, "title/2")
    score(replace(job, overwrite=True), registry=registry)
    assert job.output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_copy_damaged_beyond_repair_is_refused(mixed, tmp_path):
    """What was scored is kept, the registry is as before, and a repaired job goes on."""
    registry, job = mixed
    score(replace(job, output=tmp_path / "whole.jsonl"), registry=registry)
    before = [registry.resolve(f"{name}/1") for name in ("summary", "title")]
    blobs = {
        path: path.read_bytes() for path in (tmp_path / "objects").rglob("*") if path.is_file()
    }

    def rot():
        damage(registry, "title/1")
        for path, data in blobs.items():
            path.chmod(0o600)
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(DigestMismatch):
        score(job, registry=registry, progress=once(1, rot))
    assert not job.output.exists()
    assert [registry.resolve(f"{name}/1") for name in ("summary", "title")] == before
    assert [event.action for event in registry.history("title")] == ["register"] * 2
    for path, data in blobs.items():
        path.write_bytes(data)
    report = score(replace(job, resume=True), registry=registry)
    assert report.resumed_at == 3
    assert job.output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_stored_file_that_is_corrupt_is_found_before_a_row_is_scored(mixed, tmp_path):
    """Though only the base model that comes second needs it; nothing is left behind."""
    registry, job = mixed
    told = []
    for path in (tmp_path / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DigestMismatch):
        score(job, registry=registry, progress=lambda *numbers: told.append(numbers))
    assert not told
    assert sorted(tmp_path.iterdir()) == before


def test_a_job_interrupted_in_the_second_base_model_goes_on(mixed, tmp_path):
    """The result is that of a job that was not; the first base model is not needed any more."""
    registry, job = mixed
    score(replace(job, output=tmp_path / "whole.jsonl"), registry=registry)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(job, registry=registry, progress=once(6, interrupt))
    shutil.move(tmp_path / "base1", tmp_path / "gone")
    report = score(replace(job, resume=True), registry=registry)
    assert report.resumed_at == 5
    assert report.base_models == {
        registry.resolve("summary/1").base_model: 3,
        registry.resolve("title/1").base_model: 6,
    }
    assert job.output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_given_base_model_that_is_another_is_refused(mixed, tmp_path):
    """For adapters of several base models, and for those of one."""
    registry, job = mixed
    with pytest.raises(IncompatibleBaseModel, match="2 different"):
        score(replace(job, base=str(tmp_path / "base1")), registry=registry)
    alone = replace(job, adapter_column=None, reference="title/1", base=str(tmp_path / "base1"))
    with pytest.raises(IncompatibleBaseModel):
        score(alone, registry=registry)
    assert not job.output.exists()


def test_a_file_of_empty_texts_has_an_error_in_each_row(world, tmp_path, write_rows, read_rows):
    """Whether a template sees it, or only the tokenizer."""
    texts = ["", " ", "\n", "\u3000"]
    data = write_rows(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    for name, settings in (("own", {}), ("given", {"template": "{text}\u200b"})):
        job = ScoreJob(
            input=data, output=tmp_path / f"{name}.jsonl", reference="summary/1", **settings
        )
        report = score(job, registry=world[0])
        assert (report.rows, report.failed) == (4, 4)
        assert all(row["error"] and row["prediction"] is None for row in read_rows(job.output))
