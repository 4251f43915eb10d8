"""The command line on a registry that has something to show."""

import hashlib
import json

import pytest

from dovetail.cli.exits import run
from dovetail.registry.examples import ExampleScores, format_examples
from dovetail.registry.records import Score


@pytest.fixture(scope="session")
def stocked_files(tmp_path_factory, place_at, tiny_base, make):
    """The files of a registry with two versions that were measured, one of them promoted."""
    made = place_at(tmp_path_factory.mktemp("stocked") / "place")
    with made.open() as registry:
        base = registry.register_base(tiny_base, name="tiny").fingerprint
        for seed, value in ((1, 0.5), (2, 0.25)):
            registry.register(
                "summary",
                make.prompt(tmp_path_factory.mktemp("prompt"), seed=seed),
                base="tiny",
                task="summarization",
                tags={"team": "support"},
                hyperparameters={"seed": seed},
                input_template="Summarise: {dialogue}",
            )
            registry.record_evaluation(
                reference=f"summary/{seed}",
                base_model=base,
                dataset_name="test",
                dataset_digest=f"sha256:{hashlib.sha256(b'test').hexdigest()}",
                settings={},
                library="rouge-score 0.1.2",
                n=20,
                scores={"rougeL": Score(metric="rougeL", value=value, ci_low=value, ci_high=value)},
                examples=format_examples({"rougeL": ExampleScores("mean", [value] * 20)}),
            )
        registry.promote("summary/1", "production")
    return made.root


@pytest.fixture
def stocked(place, stocked_files):
    """The place of that registry, to be changed at will."""
    place.fill(stocked_files)
    return place


@pytest.fixture
def dovetail(stocked, monkeypatch, capsys):
    """Run the command line on that registry: exit code, stdout and stderr."""
    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(stocked.cache))
    monkeypatch.setenv("DOVETAIL_ACTOR", "tester")

    def call(*arguments):
        capsys.readouterr()
        code = run([*stocked.options, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def as_json(dovetail):
    """Run a command with ``--json`` and return its one document; nothing else is on stdout."""

    def call(*arguments):
        code, out, err = dovetail(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def process_env(stocked, monkeypatch):
    """Variables that make a child process use that registry; here, too."""
    monkeypatch.setenv("DOVETAIL_DATABASE_URL", stocked.urls[0])
    monkeypatch.setenv("DOVETAIL_OBJECTS_URL", stocked.urls[1])
    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(stocked.cache))
