"""What Dovetail measured is logged to the run that the version came from, when asked to."""

import json

import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_metric_name

from dovetail.errors import InvalidInput, NotFoundError
from dovetail.plugins.mlflow.evaluations import dataset_key, log_evaluation
from dovetail.scoring import evaluate

ROWS = [
    {"summary": "a cat sat", "prediction": "a cat sat"},
    {"summary": "a dog ran far", "prediction": "a dog sat"},
    {"summary": "the end", "prediction": "no idea"},
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a tracking database of the module's own."""
    folder = tmp_path_factory.mktemp("tracking")
    made = MlflowClient(f"sqlite:///{folder / 'runs.db'}")
    made.create_experiment("summaries", (folder / "files").as_uri())
    return made


@pytest.fixture
def run(client):
    """The id of a run that has ended."""
    experiment = client.get_experiment_by_name("summaries").experiment_id
    run_id = client.create_run(experiment).info.run_id
    client.set_terminated(run_id)
    return run_id


@pytest.fixture
def register(place, make, tiny_base, tmp_path):
    """Register a LoRA in the place, with what is given."""

    def call(**options):
        with place.open() as registry:
            made = registry.register(
                "summary",
                make.lora(tmp_path / "lora"),
                base=tiny_base,
                task="summarization",
                **options,
            )
        return made.version

    return call


@pytest.fixture
def data(tmp_path):
    """A dataset with predictions: no model is needed."""
    path = tmp_path / "test set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def measured(place, data):
    """Measure summary/1 on the dataset."""

    def call(registry):
        return evaluate(
            "summary/1",
            data,
            registry=registry,
            reference_column="summary",
            predictions_column="prediction",
            metrics=["rougeL"],
        )

    return call


def test_scores_go_to_the_run_and_to_the_model(place, client, run, register, measured):
    """Under the metric's name, and with the dataset and the interval; tags say how."""
    model = client.create_logged_model(
        client.get_run(run).info.experiment_id, "adapter", source_run_id=run
    )
    version = register(source_run=run, version_tags={"mlflow.model_id": model.model_id})
    with place.open() as registry:
        found = measured(registry)
        logged = log_evaluation(registry, found, tracking_uri=client.tracking_uri)
    score = found.scores["rougeL"]
    expected = {
        "rougeL": score.value,
        "dovetail/test set.jsonl/rougeL": score.value,
        "dovetail/test set.jsonl/rougeL_ci_low": score.ci_low,
        "dovetail/test set.jsonl/rougeL_ci_high": score.ci_high,
    }
    assert (logged.run_id, logged.model_id) == (run, model.model_id)
    assert set(logged.metrics) == set(expected)
    data = client.get_run(run).data
    assert data.metrics == pytest.approx(expected)
    assert data.tags["dovetail.version"] == str(version.reference)
    how = json.loads(data.tags["dovetail.evaluation.test set.jsonl"])
    assert how["n"] == 3
    assert how["dataset_digest"] == found.dataset_digest
    on_model = {m.key: m for m in client.get_logged_model(model.model_id).metrics}
    assert on_model["rougeL"].value == pytest.approx(score.value)
    assert on_model["rougeL"].dataset_name == "test set.jsonl"
    assert found.dataset_digest.partition(":")[2].startswith(on_model["rougeL"].dataset_digest)


@pytest.mark.parametrize("name", ["test set.jsonl", "Prüfung_2.jsonl", "試験.jsonl", "x" * 120])
def test_a_datasets_name_is_kept_where_mlflow_takes_it(name):
    """Letters of every language, as MLflow's own pattern has it."""
    _validate_metric_name(f"dovetail/{name}/rougeL")
    assert dataset_key(name, "sha256:0123456789abcdef") == name


@pytest.mark.parametrize("name", ["a/b", "tést?", "..", ".", "/", "x" * 121, "a\nb"])
def test_a_datasets_name_that_mlflow_does_not_take_has_its_digest(name):
    """So that two datasets never share a key."""
    one, other = (dataset_key(name, f"sha256:{digit * 64}") for digit in "12")
    assert one.endswith("-11111111")
    assert other.endswith("-22222222")
    _validate_metric_name(f"dovetail/{one}/rougeL")
    assert len(one) <= 130


def test_logging_twice_keeps_both(place, client, run, register, measured):
    """An evaluation that is made again is a second point of the same metric."""
    register(source_run=run)
    with place.open() as registry:
        for _ in range(2):
            log_evaluation(registry, measured(registry), tracking_uri=client.tracking_uri)
    assert len(client.get_metric_history(run, "rougeL")) == 2


def test_a_version_of_no_run_cannot_be_logged(place, client, register, measured):
    """The message says what to do."""
    register()
    with place.open() as registry, pytest.raises(InvalidInput, match="--run"):
        log_evaluation(registry, measured(registry), tracking_uri=client.tracking_uri)


def test_a_run_that_mlflow_does_not_know(place, client, register, measured):
    """Is named, with the version that came from it."""
    register(source_run="elsewhere")
    with place.open() as registry, pytest.raises(NotFoundError, match="elsewhere, which summary/1"):
        log_evaluation(registry, measured(registry), tracking_uri=client.tracking_uri)


def test_evaluate_logs_only_when_asked(command, client, run, register, data, monkeypatch):
    """``--log-to-mlflow``; without it no server is looked for."""
    register(source_run=run)
    measure = ["evaluate", "summary/1", data, "--reference-column", "summary"]
    measure += ["--predictions-column", "prediction"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    assert command(*measure)[0] == 0
    assert client.get_run(run).data.metrics == {}
    code, err = command(*measure, "--log-to-mlflow", "--json")
    assert code == 0
    assert f"metrics to run {run}" in err
    assert "rougeLsum" in client.get_run(run).data.metrics


def test_what_cannot_be_logged_is_not_measured(command, place, client, register, data):
    """A run that MLflow does not know is noticed before the model runs for hours."""
    register(source_run="elsewhere")
    measure = ["evaluate", "summary/1", data, "--reference-column", "summary"]
    measure += ["--predictions-column", "prediction", "--log-to-mlflow"]
    code, err = command(*measure, "--tracking-uri", client.tracking_uri)
    assert code == 3
    assert "elsewhere" in err
    with place.open() as registry:
        assert registry.evaluations("summary/1") == []


def test_logging_the_bare_base_is_wrong_usage(command, data):
    """It belongs to no run."""
    measure = ["evaluate", data, "--reference-column", "summary", "--base", "tiny"]
    measure += ["--predictions-column", "prediction"]
    assert command(*measure, "--log-to-mlflow")[0] == 2
    assert command(*measure, "--tracking-uri", "x")[0] == 2
