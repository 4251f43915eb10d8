"""The flavor in MLflow's own hands: served over HTTP, predicted with, evaluated."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import flavor_models as models
import mlflow
import pandas as pd
import pytest
import requests

import dovetail.plugins.mlflow as flavor
from dovetail.registry.store import Registry

bases, adapters, moved, one_thread = models.bases, models.adapters, models.moved, models.one_thread
TEXTS, NEW = list(models.TEXTS), models.NEW
pytestmark = models.IGNORED


@contextlib.contextmanager
def serving(model_uri, **environment):
    """Run ``mlflow models serve`` on a free port of the loopback; give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PATH": binaries, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/ping", timeout=60).status_code == 200:
                    break
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)


def ask(url, **payload):
    """Send a payload; return the answer."""
    return requests.post(f"{url}/invocations", json=payload, timeout=120)


@pytest.mark.heavy
def test_model_is_served_over_http(bases, adapters, moved, tmp_path):
    """A server process answers every payload of MLflow's, adapter column and params included."""
    with Registry.open() as registry:
        for seed in range(2):
            registry.register("chat", adapters(seed=seed), base=bases("gpt2"))
        registry.promote("chat/1", "production")
    base = moved()  # and it is said where it is now
    own = models.expected(base, adapters(), TEXTS)
    other = models.expected(base, adapters(seed=1), TEXTS)
    config = json.dumps({"base_model": str(base)})
    params = {"max_new_tokens": NEW}
    table = pd.DataFrame({"text": TEXTS})
    environment = {"MLFLOW_PYFUNC_INFERENCE_CONFIG": config, "TMPDIR": str(tmp_path)}
    with serving("dovetail://chat@production", **environment) as url:
        for payload in (
            {"inputs": TEXTS},
            {"instances": TEXTS},
            {"inputs": {"text": TEXTS}},
            {"inputs": [{"text": text} for text in TEXTS]},
            {"dataframe_split": table.to_dict(orient="split")},
            {"dataframe_records": table.to_dict(orient="records")},
        ):
            answer = ask(url, params=params, **payload)
            assert answer.json() == {"predictions": own}, payload
        named = [{"text": text, "adapter": "chat/2"} for text in TEXTS]
        answer = ask(url, dataframe_records=[*named, {"text": TEXTS[0]}], params=params)
        assert answer.json() == {"predictions": [*other, own[0]]}
        refused = ask(url, inputs=["w3", ""])
        assert refused.status_code == 400
        assert "1 of 2 rows cannot be answered" in refused.json()["message"]
        unknown = ask(url, dataframe_records=[{"text": "w3", "adapter": "chat/9"}])
        assert unknown.status_code == 400
        assert "chat" in unknown.json()["message"]


def test_mlflow_predicts_with_the_local_environment(bases, adapters, tmp_path):
    """mlflow.models.predict runs it as a batch job, from list and from table."""
    flavor.save_model(adapters(), tmp_path / "model", generation_config={"max_new_tokens": NEW})
    expected = models.expected(bases("gpt2"), adapters(), TEXTS)
    for number, data in enumerate((TEXTS, pd.DataFrame({"text": TEXTS}))):
        output = tmp_path / f"answers-{number}.json"
        mlflow.models.predict(
            str(tmp_path / "model"),
            input_data=data,
            env_manager="local",
            output_path=str(output),
        )
        assert json.loads(output.read_text()) == {"predictions": expected}


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
def test_mlflow_evaluates_it(bases, adapters, tmp_path, monkeypatch):
    """mlflow.models.evaluate scores its answers against targets."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.create_experiment("tests", (tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("tests")
    flavor.save_model(
        adapters(),
        tmp_path / "model",
        input_template="w5 {dialogue}",
        generation_config={"max_new_tokens": NEW},
    )
    targets = models.expected(bases("gpt2"), adapters(), [f"w5 {text}" for text in TEXTS])
    data = pd.DataFrame({"dialogue": TEXTS, "summary": [*targets[:-1], "something else"]})

    def exact(predictions, targets):
        return sum(map(str.__eq__, predictions, targets)) / len(targets)

    with mlflow.start_run():
        result = mlflow.models.evaluate(
            str(tmp_path / "model"),
            data,
            targets="summary",
            extra_metrics=[
                mlflow.metrics.make_metric(eval_fn=exact, greater_is_better=True, name="exact")
            ],
        )
    assert result.metrics["exact"] == pytest.approx(2 / 3)
