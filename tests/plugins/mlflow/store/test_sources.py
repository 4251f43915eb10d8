"""Where a version's adapter comes from: runs, LoggedModels, folders, servers' artifacts."""

import shutil

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from dovetail.plugins.mlflow.store.sources import fetched

pytestmark = pytest.mark.backends("sqlite+local")


@pytest.fixture
def client(tmp_path, runs_uri):
    """A client of a tracking database, with the artifacts of its runs in a folder."""
    file = tmp_path / "runs.db"
    shutil.copy(runs_uri.removeprefix("sqlite:///"), file)
    mlflow.set_tracking_uri(f"sqlite:///{file}")
    opened = MlflowClient()
    opened.create_experiment("tuning", artifact_location=(tmp_path / "artifacts").as_uri())
    return opened


@pytest.fixture
def run(client, payloads):
    """A run that logged parameters, a score and an adapter."""
    made = client.create_run(client.get_experiment_by_name("tuning").experiment_id)
    client.log_param(made.info.run_id, "learning_rate", "0.001")
    client.log_metric(made.info.run_id, "eval_rougeL", 0.41)
    client.set_tag(made.info.run_id, "mlflow.source.git.commit", "abc123")
    client.log_artifacts(made.info.run_id, str(payloads[0]), "adapter")
    return made.info.run_id


@pytest.fixture
def shelf(monkeypatch):
    """Let ``shelf:PATH`` be a store of artifacts that is no local directory to MLflow."""
    stores = artifact_repository_registry._artifact_repository_registry._registry
    monkeypatch.setitem(
        stores, "shelf", lambda uri, **_: LocalArtifactRepository(uri.removeprefix("shelf:"))
    )


def test_what_a_run_says_is_recorded_with_its_adapter(ours, place, run):
    """Parameters become hyperparameters, ROUGE reported scores, the commit a tag."""
    ours.create_registered_model("summary")
    made = ours.create_model_version("summary", f"runs:/{run}/adapter", run_id=run)
    assert made.run_id == run
    assert made.tags["mlflow.git_commit"] == "abc123"
    assert made.tags["dovetail.rougeL"] == "0.4100 reported"
    assert next(iter(made.tags)) == "dovetail.rougeL"  # MLflow shows them in this order
    assert "mlflow.run_id" not in made.tags  # MLflow has a link to the run
    with place.open() as registry:
        assert registry.resolve("summary/1").hyperparameters == {"learning_rate": 0.001}
        assert registry.evaluations("summary/1")[0].kind == "reported"


def test_the_artifacts_of_a_run_may_hold_one_adapter(ours, run):
    """The folder need not be named where there is only one."""
    ours.create_registered_model("summary")
    assert (
        ours.create_model_version("summary", f"runs:/{run}/").tags["dovetail.peft_type"] == "LORA"
    )


def test_a_folder_with_several_adapters_is_refused(ours, client, run, payloads):
    """Which is meant must be said."""
    client.log_artifacts(run, str(payloads[1]), "other")
    ours.create_registered_model("summary")
    with pytest.raises(MlflowException, match="holds 2 adapters") as caught:
        ours.create_model_version("summary", f"runs:/{run}/")
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("scheme", ["", "shelf:"])
def test_an_adapter_among_another_models_files_is_not_taken(scheme, shelf, tmp_path, payloads):
    """The model stays what it is: MLflow loads it by its own flavor."""
    shutil.copytree(payloads[0], tmp_path / "model" / "adapter")
    (tmp_path / "model" / "MLmodel").write_text("flavors: {python_function: {}}")
    with fetched(f"{scheme}{tmp_path / 'model'}") as saved:
        assert saved is None


def test_a_server_reads_its_artifacts_where_they_lie(tmp_path, payloads, monkeypatch):
    """It does not ask itself over HTTP, which it might not answer; and keeps to its folder."""
    shutil.copytree(payloads[0], tmp_path / "kept" / "1" / "adapter")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", (tmp_path / "kept").as_uri())
    with fetched("mlflow-artifacts:/1/adapter") as saved:
        assert saved.base_name == "tiny"
    with pytest.raises(ValueError, match=r"has a '\.\.'"), fetched("mlflow-artifacts:/../x"):
        pass


def test_folders_that_were_not_looked_into_are_told(shelf, payloads, tmp_path, caplog):
    """An adapter may lie in them; where it is named, it is found."""
    source = f"shelf:{tmp_path}/many"
    for number in range(100):
        (tmp_path / "many" / f"{number:03}").mkdir(parents=True)
    with fetched(source) as saved:
        assert saved is None
    assert not caplog.text
    shutil.copytree(payloads[0], tmp_path / "many" / "zzz")
    with fetched(source) as saved:
        assert saved is None
    assert f"{source} of a model version has 101 folders" in caplog.text
    with fetched(f"{source}/zzz") as saved:
        assert saved.base_name == "tiny"


def test_what_cannot_be_asked_of_a_run_is_named(ours, payloads, caplog):
    """The version is registered without it, and the log says what was not read."""
    ours.create_registered_model("summary")
    ours.create_model_version("summary", "models:/m-gone", local_model_path=str(payloads[0]))
    assert "what model m-gone says cannot be read" in caplog.text
    ours.create_model_version("summary", str(payloads[1]), run_id="f" * 32)
    assert f"what run {'f' * 32} says cannot be read" in caplog.text


@pytest.mark.parametrize("source", ["gone/1", "http://127.0.0.1:9/x", "models:/m-gone", "what:/is"])
def test_what_cannot_be_read_holds_no_adapter(source):
    """MLflow's own store keeps any source, so that is no error here."""
    with fetched(source) as saved:
        assert saved is None
