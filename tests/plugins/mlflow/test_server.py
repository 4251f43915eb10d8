"""A real ``mlflow server`` over Dovetail's registry, with MLflow's own clients and plain REST."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import queue
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException

pytestmark = pytest.mark.heavy

SECRET = "swallow-tail"  # noqa: S105 (of this test alone)
KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
CLIENTS = 8
EACH = 3

LOG_MODEL = """
import sys
import mlflow
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import dovetail.plugins.mlflow as flavor

base = sys.argv[1]
torch.manual_seed(3)
config = GPT2Config(
    n_layer=2, n_embd=32, n_head=4, vocab_size=64, bos_token_id=1, eos_token_id=2, pad_token_id=0
)
GPT2LMHeadModel(config).save_pretrained(base)
lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
model = get_peft_model(GPT2LMHeadModel.from_pretrained(base), lora)
for parameter in model.parameters():
    if parameter.requires_grad:
        torch.nn.init.normal_(parameter)
with mlflow.start_run() as run:
    mlflow.log_params({"learning_rate": 0.001, "r": 2})
    mlflow.log_metric("eval_rougeL", 0.44)
    flavor.log_model(model, name="adapter", registered_model_name="logged")
print(run.info.run_id)
"""


@dataclass(frozen=True)
class Team:
    """A server, the registry behind it, and a run with artifacts to register."""

    server: Any
    place: Any
    folder: Any
    run_id: str

    @property
    def client(self) -> MlflowClient:
        """A client of the server."""
        return self.server.client()

    def log(self, directory, name) -> str:
        """Log a directory as an artifact of the run, and return its URI."""
        self.client.log_artifacts(self.run_id, str(directory), name)
        return f"runs:/{self.run_id}/{name}"

    def post(self, path, **body) -> requests.Response:
        """Send a request as a program without MLflow would."""
        return requests.post(f"{self.server.url}/api/2.0/mlflow/{path}", json=body, timeout=120)


@pytest.fixture(
    scope="module",
    params=[
        # A server for all tests of a database, not one in every worker.
        pytest.param(backend, marks=pytest.mark.xdist_group(f"mlflow-server-{backend}"))
        for backend in ("sqlite", "postgresql")
    ],
)
def team(request, tmp_path_factory, place_at, tiny_base, servers):
    """A team's server, on either database."""
    root = tmp_path_factory.mktemp("team") / "place"
    root.mkdir()
    with contextlib.ExitStack() as after:
        if request.param == "postgresql":
            databases = request.getfixturevalue("databases")
            url = databases.create()
            after.callback(databases.drop, url)
            place = place_at(root, url, None, databases)
        else:
            place = place_at(root)
        with place.open() as registry:
            registry.register_base(tiny_base, name="tiny")
        server = after.enter_context(
            servers.MlflowServer(
                f"dovetail+{place.urls[0]}",
                environment={
                    "DOVETAIL_OBJECTS_URL": place.urls[1],
                    "DOVETAIL_CACHE_DIR": str(place.cache),
                    "DOVETAIL_ACTOR": "the team's server",
                    # MLflow's webhooks go to https and public addresses alone unless told so.
                    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
                    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
                    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
                    # Two processes must read what either wrote.
                    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": KEY,
                },
                workers=2,
            )
        )
        run_id = server.client().create_run("0").info.run_id
        yield Team(server, place, root, run_id)


@pytest.fixture
def client(team):
    """A client of the team's server."""
    return team.client


@pytest.fixture
def adapter(tmp_path, make):
    """Write a LoRA for the base that the registry knows as ``tiny``."""
    return lambda seed: make.lora(tmp_path / f"lora-{seed}", seed=seed)


@pytest.fixture
def registered(team, client, adapter):
    """Register adapters with the server under a name of the test's own."""

    def call(name, *seeds, **options):
        client.create_registered_model(name)
        return [
            client.create_model_version(
                name, team.log(adapter(seed), f"{name}-{seed}"), team.run_id, **options
            )
            for seed in seeds
        ]

    return call


def test_log_model_in_another_process_registers_a_version(team, tmp_path):
    """``registered_model_name`` is all that a training script needs."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": team.server.url,
        "MLFLOW_REGISTRY_URI": team.server.url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOG_MODEL, tmp_path / "base"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.split()[-1]
    with team.place.open() as registry:
        version = registry.resolve("logged/1")
        assert version.source_run == run_id
        assert version.peft_type == "LORA"
        assert version.hyperparameters["learning_rate"] == 0.001
        assert version.tags["mlflow.run_id"] == run_id
        assert registry.search("metrics.rougeL > 0.4 AND name = 'logged'").versions
        assert registry.base_model(version.base_model).architecture == "GPT2LMHeadModel"
        assert (registry.pull("logged/1") / "adapter_model.safetensors").is_file()


def test_a_version_is_the_same_for_both(team, client, registered):
    """What MLflow registers Dovetail has at once, and what Dovetail does MLflow shows at once."""
    (made,) = registered("shared", 1)
    with team.place.open() as registry:
        version = registry.resolve("shared/1")
        assert version.source_run == team.run_id
        registry.promote("shared/1", "staging")
        registry.edit_version("shared/1", description="From the command line.")
    assert made.version in (1, "1")
    found = client.get_model_version_by_alias("shared", "staging")
    assert found.description == "From the command line."
    assert found.run_id == team.run_id
    assert found.tags["dovetail.base_fingerprint"] == version.base_model
    assert client.get_registered_model("shared").aliases == {"staging": "1"}


def test_tags_and_descriptions(team, client, registered):
    """Of models and versions; those that Dovetail makes cannot be changed."""
    registered("tagged", 1)
    client.set_registered_model_tag("tagged", "team", "docs")
    client.set_model_version_tag("tagged", "1", "reviewed", "yes")
    client.update_model_version("tagged", "1", "Short.")
    with team.place.open() as registry:
        assert registry.adapter("tagged").tags == {"team": "docs"}
        version = registry.resolve("tagged/1")
        assert version.tags["reviewed"] == "yes"
        assert version.description == "Short."
    client.delete_model_version_tag("tagged", "1", "reviewed")
    assert "reviewed" not in client.get_model_version("tagged", "1").tags
    answer = team.post(
        "model-versions/set-tag", name="tagged", version="1", key="dovetail.peft_type", value="X"
    )
    assert answer.status_code == 400
    assert "made by Dovetail" in answer.json()["message"]


def test_search_by_scores(team, client, registered, adapter, tiny_base):
    """In Dovetail's language, which MLflow's clients hand on as it is; aliases come along."""
    registered("scored", 1)
    with team.place.open() as registry:
        registry.register("scored", adapter(2), base="tiny", scores={"rougeL": 0.45})
        registry.register("scored", adapter(3), base="tiny", scores={"rougeL": 0.35})
        registry.promote("scored/2", "production")
    (found,) = client.search_model_versions("name = 'scored' AND metrics.rougeL > 0.4")
    assert str(found.version) == "2"
    assert found.aliases == ["production"]
    assert found.tags["dovetail.rougeL"].startswith("0.4500")
    ordered = client.search_model_versions("name = 'scored'", order_by=["metrics.rougeL DESC"])
    assert [str(one.version) for one in ordered] == ["2", "3", "1"]
    assert len(client.search_model_versions("name = 'scored' AND alias = 'production'")) == 1


def test_a_refused_promotion_says_why(team, client, registered):
    """Status 400 with the gate's own words, once: the client does not try again."""
    registered("gated", 1)
    with team.place.open() as registry:
        registry.require("gated", "production", ["rougeL >= 0.9"])
    before = team.server.log.count("registered-models/alias")
    with pytest.raises(RestException, match=r"rougeL >= 0\.9") as caught:
        client.set_registered_model_alias("gated", "production", "1")
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert team.server.log.count("registered-models/alias") == before + 1
    answer = team.post("registered-models/alias", name="gated", alias="production", version="1")
    assert answer.status_code == 400
    assert "rougeL" in answer.json()["message"]
    with team.place.open() as registry:
        assert registry.adapter("gated").aliases == {}
        refused = [event for event in registry.history("gated") if "refused" in event.action]
        assert len(refused) == 2


def test_other_models_are_kept_as_mlflow_keeps_them(team, client, tmp_path):
    """By their source; one registry serves a team."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.pkl\n")
    source = team.log(folder, "sklearn-model")
    client.create_registered_model("churn")
    made = client.create_model_version("churn", source, team.run_id, tags={"kind": "forest"})
    assert str(made.version) == "1"
    client.set_registered_model_alias("churn", "champion", "1")
    found = client.get_model_version_by_alias("churn", "champion")
    assert found.source == source or found.source.endswith("sklearn-model")
    assert found.tags == {"kind": "forest"}
    with team.place.open() as registry:
        assert "churn" not in [adapter.name for adapter in registry.adapters()]


def test_models_and_adapters_are_listed_together(client, registered):
    """In one order, page by page."""
    registered("list-b", 1)
    for name in ("list-a", "list-c"):
        client.create_registered_model(name)
    names, token = [], None
    while True:
        page = client.search_registered_models("name LIKE 'list-%'", 1, ["name ASC"], token)
        names += [model.name for model in page]
        token = page.token
        if not token:
            break
    assert names == ["list-a", "list-b", "list-c"]


def test_prompts_work(team):
    """`mlflow.genai.register_prompt` and what belongs to it; they are no models."""
    mlflow.set_tracking_uri(team.server.url)
    mlflow.set_registry_uri(team.server.url)
    made = mlflow.genai.register_prompt("greeting", "Hello {{name}}!")
    assert made.version == 1
    mlflow.genai.set_prompt_alias("greeting", "live", 1)
    assert mlflow.genai.load_prompt("prompts:/greeting@live").format(name="Ann") == "Hello Ann!"
    assert [one.name for one in mlflow.genai.search_prompts()] == ["greeting"]
    names = [model.name for model in team.client.search_registered_models()]
    assert "greeting" not in names


def test_eight_clients_at_once(team, client, make, tmp_path):
    """Numbers have no gaps, no version is lost, and each alias is where its owner put it last."""
    client.create_registered_model("busy")
    sources = [
        [
            team.log(make.lora(tmp_path / f"{who}-{number}", seed=100 * who + number), name)
            for number in range(EACH)
            for name in [f"busy-{who}-{number}"]
        ]
        for who in range(CLIENTS)
    ]
    together = threading.Barrier(CLIENTS)

    def work(who):
        own = team.client
        together.wait()
        numbers = []
        for source in sources[who]:
            version = str(own.create_model_version("busy", source, team.run_id).version)
            own.set_registered_model_alias("busy", f"client-{who}", version)
            own.set_registered_model_alias("busy", "newest", version)
            numbers.append(int(version))
        return numbers

    with ThreadPoolExecutor(CLIENTS) as pool:
        made = list(pool.map(work, range(CLIENTS)))
    everything = sorted(number for numbers in made for number in numbers)
    assert everything == list(range(1, CLIENTS * EACH + 1))
    with team.place.open() as registry:
        versions = registry.versions("busy")
        assert len({version.payload_digest for version in versions}) == CLIENTS * EACH
        aliases = registry.adapter("busy").aliases
        for who, numbers in enumerate(made):
            assert aliases[f"client-{who}"] == numbers[-1]
        moved = [event for event in registry.history("busy") if event.action == "promote"]
        newest = [event for event in moved if event.alias == "newest"]
        assert aliases["newest"] == newest[-1].number
        assert [event.previous for event in newest] == [None, *(e.number for e in newest[:-1])]
        assert registry.broken_history() is None
    found = client.search_model_versions("name = 'busy'")
    assert sorted(int(one.version) for one in found) == everything


class Receiver(ThreadingHTTPServer):
    """A server that keeps what is posted to it."""

    def __init__(self):
        self.received = queue.Queue()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.put((dict(self.headers), body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def receiver():
    """A server on loopback that webhooks can be sent to."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_webhooks_tell_of_versions_and_aliases(team, client, receiver, registered):
    """MLflow's own, signed; for adapters as for other models."""
    hook = client.create_webhook(
        "announce",
        f"http://127.0.0.1:{receiver.server_port}/hook",
        ["model_version.created", "model_version_alias.created", "model_version_alias.deleted"],
        secret=SECRET,
    )
    try:
        registered("announced", 1)
        client.set_registered_model_alias("announced", "production", "1")
        client.delete_registered_model_alias("announced", "production")
        seen = {}
        for _ in range(3):
            headers, body = receiver.received.get(timeout=120)
            _check_signature(headers, body)
            message = json.loads(body)
            seen[message["entity"], message["action"]] = message["data"]
    finally:
        client.delete_webhook(hook.webhook_id)
    assert seen.keys() == {
        ("model_version", "created"),
        ("model_version_alias", "created"),
        ("model_version_alias", "deleted"),
    }
    assert seen["model_version", "created"]["name"] == "announced"
    assert seen["model_version", "created"]["version"] == "1"
    assert seen["model_version_alias", "created"]["alias"] == "production"


def test_deleting(team, client, registered):
    """Hides versions and names as Dovetail does; numbers are never given again."""
    registered("gone", 1, 2)
    client.set_registered_model_alias("gone", "production", "2")
    with pytest.raises(RestException, match="production"):
        client.delete_model_version("gone", "2")
    client.delete_model_version("gone", "1")
    assert [str(one.version) for one in client.search_model_versions("name = 'gone'")] == ["2"]
    client.delete_registered_model("gone")
    with pytest.raises(RestException) as caught:
        client.get_registered_model("gone")
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    with team.place.open() as registry:
        assert "gone" not in [adapter.name for adapter in registry.adapters()]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("model-versions/get", {"name": "nothing", "version": "1"}),
        ("registered-models/get", {"name": "nothing"}),
        ("registered-models/alias", {"name": "nothing", "alias": "production"}),
    ],
)
def test_what_is_not_there_is_no_error_of_the_server(team, path, body):
    """Status 404, which no client tries again."""
    answer = requests.get(f"{team.server.url}/api/2.0/mlflow/{path}", params=body, timeout=120)
    assert answer.status_code == 404
    assert answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_a_filter_that_cannot_be_understood_is_the_callers_fault(client):
    """Status 400, with the place where it fails."""
    with pytest.raises(MlflowException) as caught:
        client.search_model_versions("metrics.rougeL >>> 0.4")
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def _check_signature(headers, body):
    signed = f"{headers['X-MLflow-Delivery-Id']}.{headers['X-MLflow-Timestamp']}.{body.decode()}"
    digest = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    assert headers["X-MLflow-Signature"] == f"v1,{base64.b64encode(digest).decode()}"
