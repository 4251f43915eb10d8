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


def blocks(text):
    """Return the blocks of a part of the page: language and text."""
    return re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def page():
    """The walk, and what comes after it."""
    walk, heading, rest = PAGE.read_text(encoding="utf-8").partition("\n## Saving and loading\n")
    assert heading
    return walk, rest


@pytest.fixture
def home(tmp_path):
    """An empty home directory, and what a fresh shell has in its environment."""
    return _home(tmp_path / "home")


@pytest.mark.heavy
def test_a_newcomer_gets_from_a_run_to_a_served_adapter(page, home, servers, tmp_path):
    """Train, log, measure, promote, serve, and all that follows on the page.

    There is nothing in the home directory but what the commands put there; the machine that serves
    has no more than the server's URL.
    """
    start, script, commands, serve, ask, answer = [text for _, text in blocks(page[0])]
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
        elsewhere = {**_home(tmp_path / "elsewhere"), "MLFLOW_TRACKING_URI": server.url}
        with servers.ModelServer(shlex.split(served), environment=elsewhere) as model:
            asked = ask.replace(f"http://127.0.0.1:{port}", model.url)
            said = _shell(asked, cwd=tmp_path, env=home)
        assert json.loads(said) == json.loads(answer)
        assert _follow(page[1], cwd=tmp_path, env=home) == ["python", "python", "sh"]
        assert client.get_model_version_by_alias(NAME, "production").version in (1, "1")
    assert (tmp_path / "production" / "adapter" / "adapter_model.safetensors").is_file()


def _follow(text, *, cwd, env):
    """Run the blocks of a part of the page; what one of text shows is what the last one said."""
    said, ran = None, []
    for language, block in blocks(text):
        if language == "text":
            assert said == block
            continue
        ran.append(language)
        command = f"python - <<'END'\n{block}END\n" if language == "python" else block
        said = _shell(command, cwd=cwd, env=env)
    return ran


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


def _home(folder):
    folder.mkdir()
    return {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        # As for all tests: threads that spin while they wait take the cores from others.
        "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
    }


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
