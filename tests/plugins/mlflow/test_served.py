"""Adapters on a machine that has only an MLflow server's URL: fetched, checked, used."""

import base64
import http.client
import json
import tempfile
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import flavor_models as models
import mlflow
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

import dovetail.plugins.mlflow as flavor
from dovetail.plugins.mlflow.saved import read_saved
from dovetail.plugins.mlflow.whereabouts import find_registry
from dovetail.registry.store import Registry

bases, adapters, one_thread = models.bases, models.adapters, models.one_thread
TEXTS, NEW = list(models.TEXTS), models.NEW
pytestmark = [*models.IGNORED, pytest.mark.heavy, pytest.mark.xdist_group("mlflow-served")]

WEIGHTS = "adapter/adapter_model.safetensors"


class Between:
    """A server that hands on what another answers, and may change it on the way."""

    def __init__(self, upstream):
        self.upstream = urlsplit(upstream).netloc
        self.change = None  # called with the path of a file, the status and the body
        self.seen = deque()  # path and headers of requests

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.between = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        between = self.server.between
        between.seen.append((self.path, dict(self.headers)))
        upstream = http.client.HTTPConnection(between.upstream, timeout=120)
        upstream.request("GET", self.path, headers={"Accept": "*/*"})
        answer = upstream.getresponse()
        status, body = answer.status, answer.read()
        upstream.close()
        promised = None
        parts = urlsplit(self.path)
        if between.change and parts.path == "/model-versions/get-artifact":
            path = parse_qs(parts.query)["path"][0]
            status, body, *rest = between.change(path, status, body)
            promised = rest[0] if rest else None
        self.send_response(status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def team(tmp_path_factory, servers, bases, adapters):
    """A team's server, and its registry with chat/1 in production and chat/2."""
    root = tmp_path_factory.mktemp("team")
    database, objects = f"sqlite:///{root}/registry.db", (root / "objects").as_uri()
    with Registry.open(database, objects, cache_dir=root / "filled") as registry:
        for seed in range(2):
            registry.register(
                "chat",
                adapters(seed=seed),
                base=bases("gpt2"),
                input_template="w5 {text}",
                generation_config={"max_new_tokens": NEW},
            )
        registry.promote("chat/1", "production")
        environment = {"DOVETAIL_OBJECTS_URL": objects, "DOVETAIL_CACHE_DIR": str(root / "cache")}
        # What the server is told by its option is all that it knows of the registry.
        with servers.MlflowServer(f"dovetail+{database}", environment=environment) as server:
            client = server.client()
            client.create_registered_model("churn")
            (root / "churn").mkdir()
            (root / "churn" / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: p\n")
            run_id = client.create_run("0").info.run_id
            client.log_artifacts(run_id, str(root / "churn"), "churn")
            client.create_model_version("churn", f"runs:/{run_id}/churn", run_id)
            yield server, registry


@pytest.fixture
def between(team, tmp_path, monkeypatch):
    """The server's URL is all that this machine has; what passes can be seen and changed."""
    for variable in ("DOVETAIL_DATABASE_URL", "DOVETAIL_OBJECTS_URL"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(downloads))  # MLflow removes nothing
    with Between(team[0].url) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.url)
        yield running
    assert not (tmp_path / "data").exists(), "a registry was made in the home directory"


def download(uri):
    """Download an artifact."""
    return Path(mlflow.artifacts.download_artifacts(uri))


def contents(directory):
    """Return the files below a directory, but those that MLflow adds or that tell the time."""
    left_out = {"MLmodel", "registered_model_meta"}
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in Path(directory).rglob("*")
        if path.is_file() and path.name not in left_out
    }


@pytest.mark.parametrize(
    "uri",
    [
        "models:/chat@production",
        "models:/chat/1",
        "dovetail://chat@production",
        "dovetail://chat/1",
    ],
)
def test_a_model_comes_whole(uri, team, between):
    """Every byte is what the registry itself would have given."""
    _, registry = team
    place = download(uri)
    saved = read_saved(place)
    assert saved.reference == "chat/1"
    assert saved.payload_digest == registry.resolve("chat/1").payload_digest
    found = contents(place)
    payload = registry.pull("chat/1")
    for file in registry.resolve("chat/1").files:
        assert found[f"adapter/{file.path}"] == (payload / file.path).read_bytes()
    listed = yaml.safe_load((place / "MLmodel").read_text())["flavors"]["dovetail"]["files"]
    assert {entry["path"] for entry in listed} == found.keys()


def test_a_model_is_loaded(bases, adapters, between):
    """By pyfunc and by the flavor; rows may name other versions."""
    base, prompts = bases("gpt2"), [f"w5 {text}" for text in TEXTS]
    first, second = (models.expected(base, adapters(seed=seed), prompts) for seed in range(2))
    assert first != second
    loaded = mlflow.pyfunc.load_model("models:/chat@production")
    assert loaded.predict(TEXTS) == first
    assert [one.text for one in flavor.load_model("dovetail://chat/2").generate(TEXTS)] == second
    mixed = {"text": [TEXTS[0]] * 3, "adapter": ["", "chat/2", "chat@latest"]}
    assert loaded.predict(mixed) == [first[0], second[0], second[0]]
    with pytest.raises(MlflowException, match="chat") as caught:
        loaded.predict({"text": ["w3"], "adapter": ["chat/7"]})
    assert caught.value.get_http_status_code() == 400


def test_a_version_is_saved_anew(tmp_path, team, between):
    """`save_model` takes a reference here, too."""
    flavor.save_model("chat/2", tmp_path / "saved")
    saved = read_saved(tmp_path / "saved")
    assert saved.payload_digest == team[1].resolve("chat/2").payload_digest
    assert saved.base_fingerprint == team[1].resolve("chat/2").base_model


def test_part_of_a_model_comes_alone(between):
    """What was not asked for is not sent."""
    assert download("dovetail://chat/1/adapter/adapter_config.json").stat().st_size > 2
    assert not any(WEIGHTS.partition("/")[2] in path for path, _ in between.seen)
    repository = get_artifact_repository("dovetail://chat/1")
    listed = {entry.path: entry for entry in repository.list_artifacts()}
    assert listed["adapter"].is_dir
    assert listed["MLmodel"].file_size == download("dovetail://chat/1/MLmodel").stat().st_size


@pytest.mark.parametrize(
    ("uri", "status", "match"),
    [
        ("dovetail://chat/7", 404, "version=7.*not found.*MLflow server at http://127.0.0.1"),
        ("dovetail://nobody/1", 404, "nobody"),
        ("dovetail://chat@staging", 400, "staging"),
        ("dovetail://chat/1/nothing", 404, "has no 'nothing'"),
        ("dovetail://chat/1/../2", 404, "has no"),
        ("dovetail://churn/1", 400, "churn/1 is no adapter.*models:/churn/1"),
    ],
)
def test_what_is_not_there_is_a_readable_error(uri, status, match, between):
    """The server's words, its address, and the code of the caller's mistake."""
    with pytest.raises(MlflowException, match=match) as caught:
        download(uri)
    assert caught.value.get_http_status_code() == status


def spoiled(body):
    """Change one byte in the middle."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def only(wanted, change):
    """Change one file's answer."""
    return lambda path, status, body: change(status, body) if path == wanted else (status, body)


@pytest.mark.parametrize("path", [WEIGHTS, "base_model.json", "requirements.txt"])
@pytest.mark.parametrize(
    "change", [spoiled, lambda body: body[:-1], lambda body: body + b"x"], ids=["byte", "cut", "on"]
)
def test_a_file_that_was_tampered_with_is_refused(path, change, tmp_path, between):
    """It is named, and nothing of it stays."""
    between.change = only(path, lambda status, body: (status, change(body)))
    (tmp_path / "here").mkdir()
    with pytest.raises(MlflowException, match=f"{path} of chat/1 (came corrupt|is larger)"):
        mlflow.artifacts.download_artifacts("dovetail://chat/1", dst_path=str(tmp_path / "here"))
    assert not (tmp_path / "here" / path).exists()


def test_the_files_of_another_version_are_refused(between):
    """A list that is sound in itself has to be that of the version that was asked for."""
    other = download("dovetail://chat/2/MLmodel").read_bytes()
    between.change = only("MLmodel", lambda status, _: (status, other))
    with pytest.raises(MlflowException, match=r"chat/1.*its registry says.*another"):
        download("dovetail://chat/1")


def relist(change):
    """Change the list of files in an MLmodel file."""

    def rewrite(status, body):
        model = yaml.safe_load(body)
        entry = model["flavors"]["dovetail"]
        entry["files"] = change(entry["files"])
        return status, yaml.safe_dump(model).encode()

    return only("MLmodel", rewrite)


def named(path):
    """Give the first file another path."""
    return lambda files: [{**files[0], "path": path}, *files[1:]]


DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (named("../outside"), r"lists a file at '../outside'.*'\.\.'"),
        (named("/etc/outside"), "it is absolute"),
        (named("a\\b"), "backslash"),
        (named("MLmodel"), "the MLmodel file itself"),
        (named(7), "lists a file at 7"),
        (lambda files: [*files, files[-1]], "twice"),
        (lambda files: [{**files[0], "size": 10**12}, *files[1:]], "of size 1000000000000"),
        (lambda files: [{**files[0], "size": -1}, *files[1:]], "of size -1"),
        (lambda files: [{**files[0], "digest": "md5:0"}, *files[1:]], "md5:0"),
        (lambda files: [{**files[0], "digest": DIGEST}, *files[1:]], "corrupt"),
        (lambda files: files[1:], "corrupt"),
        (lambda files: ["README.md", *files], "is no file"),
        (lambda _: None, "older than this one"),
        (lambda files: files * 10_000, "does not list"),
    ],
)
def test_a_hostile_list_is_refused(change, match, tmp_path, between):
    """No path leads out of the directory, and nothing is without a bound."""
    between.change = relist(change)
    (tmp_path / "here").mkdir()
    with pytest.raises(MlflowException, match=match) as caught:
        mlflow.artifacts.download_artifacts("dovetail://chat/1", dst_path=str(tmp_path / "here"))
    assert caught.value.get_http_status_code() == 400
    assert list((tmp_path / "here").iterdir()) == []


JSON = json.dumps({"error_code": "RESOURCE_EXHAUSTED", "message": "come back later"}).encode()


@pytest.mark.parametrize(
    ("answer", "status", "match"),
    [
        ((503, b"<html>out of order</html>"), 503, "out of order.*status 503"),
        ((401, b"You are not authenticated."), 401, "not authenticated"),
        ((429, JSON), 429, r"come back later \(status 429"),
        ((500, b'["a list"]'), 500, "a list"),
        ((200, b"{}"), 400, "no MLmodel file"),
        ((200, b"flavors: ["), 400, "no MLmodel file"),
        ((200, b"x", 1000), 503, "the connection broke while MLmodel of chat/1"),
        ((200, b"#" * (17 * 2**20)), 400, "larger than the 16,777,216 bytes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_servers_error_is_told_in_its_words(answer, status, match, between):
    """With its code, so that a caller can tell what may go away from what will not."""
    between.change = only("MLmodel", lambda *_: answer)
    with pytest.raises(MlflowException, match=match) as caught:
        download("dovetail://chat/1")
    assert caught.value.get_http_status_code() == status


def test_a_connection_that_breaks_leaves_no_file(tmp_path, between):
    """The error says which file it was."""
    between.change = only(WEIGHTS, lambda status, body: (status, body[:100], len(body)))
    (tmp_path / "here").mkdir()
    with pytest.raises(MlflowException, match=f"connection broke while {WEIGHTS}"):
        mlflow.artifacts.download_artifacts("dovetail://chat/1", dst_path=str(tmp_path / "here"))
    assert not (tmp_path / "here" / WEIGHTS).exists()


def test_every_request_has_mlflows_credentials(between, monkeypatch):
    """Those that MLflow's clients take from the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    download("models:/chat@production")
    expected = f"Basic {base64.b64encode(b'ann:secret').decode()}"
    assert len(between.seen) > 5
    assert {headers.get("Authorization") for _, headers in between.seen} == {expected}


@pytest.mark.parametrize(
    ("environment", "given", "found"),
    [
        ({}, None, "dovetail://"),
        ({"MLFLOW_TRACKING_URI": "http://ml:5000"}, None, "http://ml:5000"),
        ({"MLFLOW_REGISTRY_URI": "https://ml"}, None, "https://ml"),
        ({"MLFLOW_TRACKING_URI": "http://ml:5000"}, "https://other", "https://other"),
        ({"MLFLOW_TRACKING_URI": "http://ml", "DOVETAIL_DATABASE_URL": "x"}, None, "dovetail://"),
        ({"MLFLOW_REGISTRY_URI": "dovetail+sqlite:////r.db"}, None, "dovetail+sqlite:////r.db"),
        (
            {"MLFLOW_TRACKING_URI": "http://ml", "DOVETAIL_DATABASE_URL": "x"},
            "dovetail+sqlite:////r.db",
            "dovetail+sqlite:////r.db",
        ),
        (
            {
                "MLFLOW_TRACKING_URI": "http://itself",
                "_MLFLOW_SERVER_REGISTRY_STORE": "dovetail+sqlite:////r.db",
            },
            None,
            "dovetail+sqlite:////r.db",
        ),
        (
            {
                "MLFLOW_TRACKING_URI": "http://itself",
                "_MLFLOW_SERVER_REGISTRY_STORE": "sqlite:////mlflow.db",
            },
            None,
            "dovetail://",
        ),
        ({"MLFLOW_TRACKING_URI": "databricks"}, None, "dovetail://"),
    ],
)
def test_what_is_said_most_plainly_names_the_registry(environment, given, found, monkeypatch):
    """A server never asks itself, and settings of Dovetail's go before a server's URL."""
    monkeypatch.delenv("DOVETAIL_DATABASE_URL")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert find_registry(given) == found


def test_a_registry_that_is_named_is_read_itself(team, between, monkeypatch):
    """No request goes to the server."""
    settings = team[1].settings
    monkeypatch.setenv("DOVETAIL_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("DOVETAIL_OBJECTS_URL", settings.objects_url)
    assert read_saved(download("dovetail://chat@production")).reference == "chat/1"
    assert not between.seen
