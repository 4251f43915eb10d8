"""``dovetail://`` URIs: a whole MLflow model, made on the fly, in every split of the URI."""

import os
import tempfile
from pathlib import Path

import flavor_models as models
import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

import dovetail.plugins.mlflow as flavor
from dovetail.errors import InvalidInput
from dovetail.plugins.mlflow.artifacts import DovetailArtifactRepository
from dovetail.plugins.mlflow.saved import read_saved
from dovetail.registry.store import Registry

bases, adapters, moved, one_thread = models.bases, models.adapters, models.moved, models.one_thread
TEXTS, NEW = list(models.TEXTS), models.NEW
pytestmark = models.IGNORED

FILES = {
    "MLmodel",
    "adapter",
    "base_model.json",
    "conda.yaml",
    "input_example.json",
    "python_env.yaml",
    "requirements.txt",
    "serving_input_example.json",
}


@pytest.fixture(autouse=True)
def own_downloads(tmp_path, monkeypatch):
    """Let MLflow download into the test's own folder; it removes nothing."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(downloads))


@pytest.fixture
def registered(bases, adapters):
    """A registry with chat/1 in production and chat/2."""
    with Registry.open() as registry:
        for seed in range(2):
            registry.register(
                "chat",
                adapters(seed=seed),
                base=bases("gpt2"),
                task="summarization",
                input_template="w5 {text}",
                generation_config={"max_new_tokens": NEW},
            )
        registry.promote("chat/1", "production")
        yield registry


def names(path):
    """Return the names in a directory."""
    return {entry.name for entry in Path(path).iterdir()}


@pytest.mark.parametrize(
    "uri", ["dovetail://chat@production", "dovetail://chat/1", "dovetail://chat/1/"]
)
def test_version_comes_as_a_whole_model(uri, registered, tmp_path):
    """What is downloaded is an MLflow model with the version's payload and what is known of it."""
    place = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "here")))
    assert names(place) == FILES
    saved = read_saved(place)
    version = registered.resolve("chat/1")
    assert (saved.reference, saved.payload_digest) == ("chat/1", version.payload_digest)
    assert (saved.input_template, saved.task) == ("w5 {text}", "summarization")
    assert saved.base_fingerprint == version.base_model
    for file in version.files:
        assert (place / "adapter" / file.path).stat().st_size == file.size


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("dovetail://chat/1/MLmodel", None),
        ("dovetail://chat@production/MLmodel", None),
        ("dovetail://chat@production/adapter/adapter_config.json", None),
        ("dovetail://chat/2/adapter", {"README.md", "adapter_config.json"}),
    ],
)
def test_part_of_a_model_can_be_downloaded(uri, found, registered, tmp_path):
    """A file or a directory of a model is had by itself."""
    place = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "here")))
    assert place.name == uri.rpartition("/")[2]
    if found is None:
        assert place.is_file()
    else:
        assert found < names(place)


def test_model_is_loaded_from_its_uri(bases, adapters, registered):
    """pyfunc, the flavor and get_model_info take the URI."""
    expected = models.expected(bases("gpt2"), adapters(), [f"w5 {text}" for text in TEXTS])
    uri = "dovetail://chat@production"
    assert mlflow.pyfunc.load_model(uri).predict(TEXTS) == expected
    assert [one.text for one in flavor.load_model(uri).generate(TEXTS)] == expected
    info = mlflow.models.get_model_info("dovetail://chat/2")
    assert info.flavors["dovetail"]["reference"] == "chat/2"
    assert info.signature.params.params[0].name == "max_new_tokens"


def test_alias_is_looked_up_at_each_download(adapters, registered, tmp_path):
    """When production moves, the next download is of the new version."""
    registered.promote("chat/2", "production")
    place = mlflow.artifacts.download_artifacts("dovetail://chat@production")
    assert read_saved(place).reference == "chat/2"


def test_download_is_a_copy_of_its_own(registered):
    """Whatever is written into it, the next download and the shared cache stay as they were."""
    place = Path(mlflow.artifacts.download_artifacts("dovetail://chat/1"))
    config = place / "adapter" / "adapter_config.json"
    assert os.access(config, os.W_OK)
    config.write_text("{}")
    other = Path(mlflow.artifacts.download_artifacts("dovetail://chat/1"))
    assert other != place
    assert flavor.load_model(str(other)).predict(TEXTS)
    with pytest.raises(InvalidInput, match="holds none"):
        flavor.load_model(str(place))


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("dovetail://chat", "1"),
        ("dovetail://chat/1", ""),
        ("dovetail:/chat", "1"),
        ("dovetail://chat@production", ""),
        ("dovetail://chat@production/", None),
    ],
)
def test_every_split_of_a_uri_lists_the_model(root, path, registered):
    """Repository and path are put together before they are understood."""
    repository = get_artifact_repository(root)
    assert isinstance(repository, DovetailArtifactRepository)
    listed = {Path(entry.path).name: entry for entry in repository.list_artifacts(path)}
    assert listed.keys() == FILES
    assert (listed["adapter"].is_dir, listed["adapter"].file_size) == (True, None)
    inside = repository.list_artifacts(listed["adapter"].path)
    assert {Path(entry.path).name for entry in inside} > {"adapter_config.json"}
    assert repository.list_artifacts(listed["MLmodel"].path) == []


@pytest.mark.parametrize(
    ("uri", "status", "match"),
    [
        ("dovetail://chat/7", 404, "chat.*DOVETAIL_DATABASE_URL"),
        ("dovetail://chat@staging", 400, "staging"),  # as in MLflow's own store
        ("dovetail://nobody/1", 404, "nobody"),
        ("dovetail://chat/1/nothing", 404, "has no 'nothing'"),
        ("dovetail://chat/1/../2", 404, "has no"),
        ("dovetail://chat", 400, "names an adapter, not a version"),
        ("dovetail://chat/one", 400, "no version number"),
    ],
)
def test_what_is_not_there_is_a_readable_error(uri, status, match, registered):
    """The message says what is missing, and the code is that of the caller's mistake."""
    with pytest.raises(MlflowException, match=match) as caught:
        mlflow.artifacts.download_artifacts(uri)
    assert caught.value.get_http_status_code() == status


def test_nothing_can_be_written(registered, tmp_path):
    """A version is made by registering it, never by uploading into it."""
    repository = get_artifact_repository("dovetail://chat/1")
    (tmp_path / "file").write_text("x")
    for attempt in (
        lambda: repository.log_artifact(str(tmp_path / "file")),
        lambda: repository.log_artifacts(str(tmp_path)),
        lambda: repository.delete_artifacts("MLmodel"),
    ):
        with pytest.raises(MlflowException, match="can only be read"):
            attempt()
