"""An adapter that a run made becomes a version, with all that the run says of it."""

import json
import shutil

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from dovetail.cli.exits import run as run_command
from dovetail.errors import (
    BaseModelNotFound,
    IncompatibleBaseModel,
    InvalidInput,
    NotFoundError,
    StorageError,
)
from dovetail.plugins.mlflow import log_model, register_run
from dovetail.registry.fingerprint import read_base

# MLflow asks pandas for what it has renamed, and warns of its own type hints.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

PARAMETERS = {"learning_rate": "0.0003", "r": "16", "use_rslora": "False", "scheduler": "linear"}
METRICS = {"eval_rougeL": 0.41, "eval_rouge1": 0.5, "train_loss": 1.25}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """The URI of a tracking database of the module's own."""
    folder = tmp_path_factory.mktemp("tracking")
    uri = f"sqlite:///{folder / 'runs.db'}"
    MlflowClient(uri).create_experiment("summaries", (folder / "files").as_uri())
    return uri


@pytest.fixture
def client(tracking):
    """A client of that database."""
    return MlflowClient(tracking)


@pytest.fixture
def run(client):
    """The id of a run with parameters, scores, a dataset and a commit, and no artifact yet."""
    experiment = client.get_experiment_by_name("summaries").experiment_id
    run_id = client.create_run(experiment, run_name="brave-crab").info.run_id
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, 1, 0) for key, value in METRICS.items()],
        params=[Param(key, value) for key, value in PARAMETERS.items()],
        tags=[RunTag("mlflow.source.git.commit", COMMIT)],
    )
    samsum = Dataset("samsum", "3f2a1b0c", "http", '{"url": "http://127.0.0.1/samsum"}')
    client.log_inputs(run_id, [DatasetInput(samsum, [InputTag("mlflow.data.context", "train")])])
    return run_id


@pytest.fixture
def adapter(tmp_path, make, tiny_base):
    """Make a LoRA whose configuration names the tiny base's directory."""
    count = iter(range(100))

    def make_one(**config):
        seed = next(count)
        named = {"base_model_name_or_path": str(tiny_base), **config}
        return make.lora(tmp_path / f"lora-{seed}", seed=seed, **named)

    return make_one


@pytest.fixture
def fluent(tracking):
    """Let ``mlflow``'s own functions use that database."""
    mlflow.set_tracking_uri(tracking)


@pytest.fixture
def logged_model(client):
    """Log a directory as a LoggedModel of a run; give the model."""

    def log(run_id, name, directory, **options):
        experiment = client.get_run(run_id).info.experiment_id
        model = client.create_logged_model(experiment, name, source_run_id=run_id, **options)
        get_artifact_repository(model.artifact_location).log_artifacts(str(directory))
        return client.finalize_logged_model(model.model_id, "READY")

    return log


def test_a_run_becomes_a_version(store, tracking, client, run, adapter, tiny_base):
    """With parameters as numbers, scores under our names, and where it came from."""
    client.log_artifacts(run, str(adapter()), "adapter")
    registration = register_run(
        store,
        "summary",
        run,
        task="summarization",
        input_template="Summarise: {dialogue}",
        hyperparameters={"corpus": "samsum"},
        version_tags={"team": "docs"},
        tracking_uri=tracking,
    )
    version = registration.version
    assert registration.created
    assert str(version.reference) == "summary/1"
    assert version.hyperparameters == {
        "learning_rate": 0.0003,
        "r": 16,
        "use_rslora": False,
        "scheduler": "linear",
        "corpus": "samsum",
    }
    assert version.source_run == run
    assert version.base_model == store.register_base(tiny_base).fingerprint
    experiment = client.get_experiment_by_name("summaries")
    assert version.tags == {
        "mlflow.run_id": run,
        "mlflow.run_name": "brave-crab",
        "mlflow.experiment_id": experiment.experiment_id,
        "mlflow.experiment": "summaries",
        "mlflow.git_commit": COMMIT,
        "mlflow.dataset": version.tags["mlflow.dataset"],
        "team": "docs",
    }
    assert json.loads(version.tags["mlflow.dataset"]) == [
        {
            "name": "samsum",
            "digest": "3f2a1b0c",
            "source": {"url": "http://127.0.0.1/samsum"},
            "context": "train",
        }
    ]
    (evaluation,) = store.evaluations("summary/1")
    assert evaluation.kind == "reported"
    assert {m: s.value for m, s in evaluation.scores.items()} == {"rouge1": 0.5, "rougeL": 0.41}
    assert store.search("params.r = 16 AND metrics.rougeL > 0.4").versions


def test_the_same_run_again_adds_nothing(store, tracking, client, run, adapter):
    """Identical content gives the version that exists."""
    client.log_artifacts(run, str(adapter()), "adapter")
    first = register_run(store, "summary", run, tracking_uri=tracking)
    second = register_run(store, "summary", run, tracking_uri=tracking)
    assert (first.created, second.created) == (True, False)
    assert second.version.number == 1


def test_what_is_given_goes_before_what_the_run_says(store, tracking, client, run, adapter):
    """Scores, hyperparameters and tags."""
    client.log_artifacts(run, str(adapter()), "adapter")
    version = register_run(
        store,
        "summary",
        run,
        scores={"rougeL": 0.3},
        hyperparameters={"r": 8},
        version_tags={"mlflow.git_commit": "mine"},
        tracking_uri=tracking,
    ).version
    assert version.hyperparameters["r"] == 8
    assert version.tags["mlflow.git_commit"] == "mine"
    assert store.evaluations("summary/1")[0].scores["rougeL"].value == 0.3


def test_several_adapters_are_listed_and_one_is_chosen(store, tracking, client, run, adapter):
    """Checkpoints beside the last one, for example."""
    last = adapter()
    client.log_artifacts(run, str(last), "checkpoints/checkpoint-200")
    client.log_artifacts(run, str(adapter()), "checkpoints/checkpoint-100")
    with pytest.raises(InvalidInput, match=r"'checkpoints/checkpoint-100', 'checkpoints/.*-200'"):
        register_run(store, "summary", run, tracking_uri=tracking)
    version = register_run(
        store, "summary", run, artifact="checkpoints/checkpoint-200", tracking_uri=tracking
    ).version
    pulled = store.pull(version.reference) / "adapter_model.safetensors"
    assert pulled.read_bytes() == (last / "adapter_model.safetensors").read_bytes()


def test_an_adapter_in_the_root_of_the_artifacts(store, tracking, client, run, adapter):
    """Its path is a dot."""
    client.log_artifacts(run, str(adapter()))
    client.log_artifacts(run, str(adapter()), "checkpoint-100")
    with pytest.raises(InvalidInput, match=r"'\.', 'checkpoint-100'"):
        register_run(store, "summary", run, tracking_uri=tracking)
    assert register_run(store, "summary", run, artifact=".", tracking_uri=tracking).created


def test_a_logged_model_is_found_by_name_and_id(
    store, tracking, client, run, adapter, logged_model
):
    """Its own parameters and metrics go before the run's, for a run may log several."""
    one = logged_model(run, "last", adapter(), params={"r": "4", "step": "200"})
    two = logged_model(run, "best", adapter())
    metric = Metric("rougeL", 0.6, 2, 0, model_id=one.model_id)
    client.log_batch(run, metrics=[metric, Metric("rougeL", 0.2, 3, 0)])
    with pytest.raises(InvalidInput, match=rf"'last' \({one.model_id}\)"):
        register_run(store, "summary", run, tracking_uri=tracking)
    version = register_run(store, "summary", run, artifact="last", tracking_uri=tracking).version
    assert version.hyperparameters["r"] == 4
    assert version.hyperparameters["step"] == 200
    assert version.tags["mlflow.model_id"] == one.model_id
    assert store.evaluations("summary/1")[0].scores["rougeL"].value == 0.6
    for name in (two.model_id, f"models:/{two.model_id}"):
        found = register_run(store, "summary", run, artifact=name, tracking_uri=tracking)
        assert found.version.number == 2


def test_a_model_of_our_flavor_brings_its_base_along(
    store, tracking, client, run, adapter, make, tmp_path, fluent
):
    """As the base's manifest: the registry need never have seen the weights."""
    base = make.base(tmp_path / "base", seed=5)
    with mlflow.start_run(run_id=run):
        made = log_model(
            str(adapter(base_model_name_or_path=str(base))),
            name="adapter",
            base_model=str(base),
            input_template="Summarise: {dialogue}",
            generation_config={"max_new_tokens": 32},
        )
    fingerprint = read_base(base).manifest.fingerprint
    base.rename(tmp_path / "elsewhere")
    version = register_run(store, "summary", run, tracking_uri=tracking).version
    assert version.base_model == fingerprint
    assert version.input_template == "Summarise: {dialogue}"
    assert version.generation_config == {"max_new_tokens": 32}
    assert version.tags["mlflow.model_id"] == made.model_id
    assert version.hyperparameters["learning_rate"] == 0.0003


def test_a_model_with_two_folders_of_adapters_is_one_candidate(
    store, tracking, run, adapter, logged_model, tiny_base, tmp_path
):
    """It is loaded as one model, so it is listed once."""
    saved = tmp_path / "saved"
    saved.mkdir()
    adapter().rename(saved / "adapter")
    adapter().rename(saved / "before")
    fingerprint = store.register_base(tiny_base).fingerprint
    flavor = {"adapter": "adapter", "base_model": {"fingerprint": fingerprint}}
    (saved / "MLmodel").write_text(json.dumps({"flavors": {"dovetail": flavor}}))
    logged_model(run, "model", saved)
    assert register_run(store, "summary", run, tracking_uri=tracking).created


def test_models_of_one_name_are_told_apart_by_id(store, tracking, run, adapter, logged_model):
    """A name that two have is not enough."""
    models = [logged_model(run, "model", adapter()) for _ in range(2)]
    with pytest.raises(InvalidInput, match=r"2 adapters: .*by a model's id"):
        register_run(store, "summary", run, artifact="model", tracking_uri=tracking)
    for model in models:
        assert register_run(
            store, "summary", run, artifact=model.model_id, tracking_uri=tracking
        ).created


def test_models_of_other_runs_are_not_looked_at(
    store, tracking, client, run, adapter, logged_model
):
    """Though they are in the same experiment."""
    other = client.create_run(client.get_run(run).info.experiment_id).info.run_id
    logged_model(other, "model", adapter())
    with pytest.raises(NotFoundError, match="has no adapter: neither"):
        register_run(store, "summary", run, tracking_uri=tracking)


def test_what_is_named_is_found_beside_a_thousand_folders(
    store, tracking, client, run, adapter, logged_model, tmp_path
):
    """A run may have an artifact for each step; nobody looks through them for nothing."""
    for number in range(1_001):
        (tmp_path / "steps" / str(number)).mkdir(parents=True)
        (tmp_path / "steps" / str(number) / "loss.txt").write_text("1")
    client.log_artifacts(run, str(tmp_path / "steps"), "steps")
    client.log_artifacts(run, str(adapter()), "best/one")
    logged_model(run, "last", adapter())
    with pytest.raises(InvalidInput, match="over 1,000 directories"):
        register_run(store, "summary", run, tracking_uri=tracking)
    for name in ("last", "best/one"):
        assert register_run(store, "summary", run, artifact=name, tracking_uri=tracking).created


def test_an_artifact_that_is_not_there_is_refused(store, tracking, client, run, adapter):
    """With those that are."""
    client.log_artifacts(run, str(adapter()), "adapter")
    with pytest.raises(NotFoundError, match=r"no adapter 'adapters'; it has 'adapter'"):
        register_run(store, "summary", run, artifact="adapters", tracking_uri=tracking)


def test_a_run_that_is_not_there_is_refused(store, tracking):
    """In a sentence that names it."""
    with pytest.raises(NotFoundError, match="run nothing: "):
        register_run(store, "summary", "nothing", tracking_uri=tracking)


def test_the_base_is_found_by_its_registered_name(store, tracking, client, run, adapter, tiny_base):
    """As the adapter's configuration has it."""
    fingerprint = store.register_base(tiny_base, name="org/tiny").fingerprint
    client.log_artifacts(run, str(adapter(base_model_name_or_path="org/tiny")), "adapter")
    version = register_run(store, "summary", run, tracking_uri=tracking).version
    assert version.base_model == fingerprint


def test_a_base_of_the_same_name_at_another_commit_is_not_taken(
    store, tracking, client, run, adapter, tiny_base, tmp_path
):
    """Nothing else would tell that the weights are others."""
    commit, other = "a" * 40, "b" * 40
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / commit
    shutil.copytree(tiny_base, snapshot)
    fingerprint = store.register_base(snapshot).fingerprint
    for folder, revision in (("first", other), ("second", commit), ("third", "main")):
        made = adapter(base_model_name_or_path="org/tiny", revision=revision)
        client.log_artifacts(run, str(made), folder)
    with pytest.raises(BaseModelNotFound, match="'org/tiny'"):
        register_run(store, "summary", run, artifact="first", tracking_uri=tracking)
    for folder in ("second", "third"):
        found = register_run(store, "summary", run, artifact=folder, tracking_uri=tracking)
        assert found.version.base_model == fingerprint


def test_a_base_that_nobody_knows_must_be_given(store, tracking, client, run, adapter, tiny_base):
    """The message says how."""
    client.log_artifacts(run, str(adapter(base_model_name_or_path="/gone/base")), "adapter")
    with pytest.raises(BaseModelNotFound, match=r"'/gone/base'.*--base"):
        register_run(store, "summary", run, tracking_uri=tracking)
    assert register_run(store, "summary", run, base=tiny_base, tracking_uri=tracking).created


def test_another_base_than_the_adapter_was_saved_with_is_refused(
    store, tracking, run, make, adapter, tiny_base, tmp_path, logged_model
):
    """What the MLmodel file says of the weights holds."""
    fingerprint = store.register_base(tiny_base).fingerprint
    other = make.base(tmp_path / "other", seed=9)
    saved = tmp_path / "saved"
    saved.mkdir()
    adapter().rename(saved / "adapter")
    flavor = {"adapter": "adapter", "base_model": {"fingerprint": fingerprint}}
    (saved / "MLmodel").write_text(json.dumps({"flavors": {"dovetail": flavor}}))
    logged_model(run, "model", saved)
    with pytest.raises(IncompatibleBaseModel, match="other weights"):
        register_run(store, "summary", run, base=other, tracking_uri=tracking)
    assert register_run(store, "summary", run, tracking_uri=tracking).created


def test_nothing_that_names_a_tracking_server_makes_no_database(store, tmp_path, monkeypatch):
    """MLflow itself would make an empty one in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match="MLFLOW_TRACKING_URI"):
        register_run(store, "summary", "0123")
    assert sorted(tmp_path.iterdir()) == before


def test_a_server_that_does_not_answer_is_a_storage_error(store, monkeypatch):
    """Not found and not reached are two things."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match="run 0123"):
        register_run(store, "summary", "0123", tracking_uri="http://127.0.0.1:9")


# The command line


def test_register_from_a_run(command, capsys, place, tracking, client, run, adapter, monkeypatch):
    """``--run`` without a directory; the server may be named by the environment."""
    client.log_artifacts(run, str(adapter()), "one")
    client.log_artifacts(run, str(adapter()), "two")
    code, err = command("register", "summary", "--run", run, "--tracking-uri", tracking)
    assert code == 5
    assert "'one', 'two'" in err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    options = ["--artifact", "two", "--param", "seed=3", "--score", "rouge2=0.2"]
    assert command("register", "summary", "--run", run, *options) == (0, "")
    with place.open() as registry:
        version = registry.resolve("summary/1")
        assert version.hyperparameters["seed"] == 3
        assert version.source_run == run
        assert registry.evaluations("summary/1")[0].scores["rouge2"].value == 0.2


def test_run_beside_a_directory_is_an_identifier(command, place, adapter, tiny_base):
    """MLflow is not asked, and need not know it."""
    options = ["--base", tiny_base, "--run", "any-run-7"]
    assert command("register", "summary", adapter(), *options)[0] == 0
    with place.open() as registry:
        assert registry.resolve("summary/1").source_run == "any-run-7"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'DIRECTORY', or --run RUN_ID"),
        (["directory"], "Missing option '--base'"),
        (["directory", "--base", "b", "--artifact", "x"], "--artifact is for --run"),
        (["directory", "--base", "b", "--tracking-uri", "x"], "--tracking-uri is for --run"),
    ],
)
def test_options_that_make_no_sense_together(arguments, message, capsys):
    """Are wrong usage."""
    assert run_command(["register", "summary", *arguments]) == 2
    assert message in capsys.readouterr().err
