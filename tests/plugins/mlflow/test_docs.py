"""`docs/mlflow.md` is true: a newcomer's commands are run as they stand there."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import RestException

PAGE = Path(__file__).parents[3] / "docs" / "mlflow.md"
NAME = "dialogue-summary"


@pytest.fixture(scope="module")
def blocks():
    """The blocks of the walk: the server, the script, the commands, serving, asking, the answer."""
    walk = PAGE.read_text(encoding="utf-8").partition("\n## Saving and loading\n")[0]
    return re.findall(r"```\w+\n(.*?)```", walk, flags=re.DOTALL)


@pytest.fixture
def home(tmp_path):
    """An empty home directory, and what a fresh shell has in its environment."""
    folder = tmp_path / "home"
    folder.mkdir()
    return {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.mark.heavy
def test_a_newcomer_gets_from_a_run_to_a_served_adapter(blocks, home, servers, tmp_path):
    """Train, log, measure, promote, serve: with nothing in the home directory but what they do."""
    start, script, commands, serve, ask, answer = blocks
    assert "mlflow server --registry-store-uri dovetail:// " in start
    (tmp_path / "train.py").write_text(script)
    with servers.MlflowServer("dovetail://", environment=home) as server:
        home["MLFLOW_TRACKING_URI"] = server.url
        commands = commands.replace("http://127.0.0.1:5000", server.url)
        _shell(commands, cwd=tmp_path, env=home)
        client = MlflowClient(tracking_uri=server.url, registry_uri=server.url)
        with pytest.raises(RestException, match=f"{NAME}/2 was not promoted"):
            client.set_registered_model_alias(NAME, "production", "2")
        client.set_registered_model_alias(NAME, "production", "1")
        served, _, port = serve.strip().rpartition(" --port ")
        with servers.ModelServer(shlex.split(served), environment=home) as model:
            asked = ask.replace(f"http://127.0.0.1:{port}", model.url)
            said = _shell(asked, cwd=tmp_path, env=home)
    assert json.loads(said) == json.loads(answer)


def test_the_page_lists_every_difference_from_mlflows_own_store():
    """The table that the differential test goes by, word for word and in its order."""
    file = Path(__file__).parent / "store" / "test_differential.py"
    spec = importlib.util.spec_from_file_location("dovetail_tests_differences", file)
    table = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = table  # dataclasses look there for their module
    spec.loader.exec_module(table)
    rows = [f"| {one.what} | {one.why} |" for one in table.DIFFERENCES]
    shown = PAGE.read_text(encoding="utf-8").partition("| difference | reason |\n|---|---|\n")[2]
    assert shown.split("\n\n")[0].splitlines() == rows


def _shell(commands, *, cwd, env):
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail"],
        input=commands,
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
