"""The README's tour is true: its commands are run where `dovetail demo` left its registry."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

# They share one run of the demo.
pytestmark = [pytest.mark.heavy, pytest.mark.xdist_group("tour")]
README = Path(__file__).parent.parent / "README.md"
_MEASURE_BASE = (
    "dovetail evaluate data/test.jsonl --reference-column summary --dataset-name held-out "
    "--base demo-base --template 'Summarise: {dialogue}' --max-new-tokens 32 --limit 16"
)


def _blocks():
    text = README.read_text(encoding="utf-8")
    return re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)


def _commands():
    """Yield each command of the tour with the output that the README shows."""
    for block in _blocks():
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if command.startswith("dovetail "):
                yield command, output


def _shape(text):
    """Keep words and signs; numbers, digests, dates and spaces differ between machines."""
    text = re.sub(r"sha256:[0-9a-f]+", "sha256:#", text)
    text = re.sub(r"[-+]?[0-9][0-9.,:TZ]*", "#", text)
    lines = (" ".join(line.replace("─", "").split()) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("scoring ")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The whole demo, run as the README says, in a folder of its own."""
    place = tmp_path_factory.mktemp("tour")
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(place),
        "DOVETAIL_ACTOR": "demo",
    }
    told = subprocess.run(
        ["dovetail", "demo"], cwd=place, env=env, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    directory = place / "dovetail-demo"
    env |= {
        "DOVETAIL_DATABASE_URL": f"sqlite:///{directory}/registry.db",
        "DOVETAIL_OBJECTS_URL": directory.as_uri() + "/objects",
    }
    return directory, env


def test_tour_prints_what_readme_shows(demo):
    """Every command of the tour, in order, gives the words that README shows."""
    directory, env = demo
    commands = list(_commands())
    assert len(commands) >= 8
    for command, shown in commands:
        found = subprocess.run(
            shlex.split(command),
            cwd=directory,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        printed = found.stdout.replace(f"{directory}/", "")
        assert sorted(_shape(printed)) == sorted(_shape(shown)), command


def test_commands_of_the_demo_work(demo):
    """What the demo suggests for looking around can be typed as it stands."""
    directory, env = demo
    for command in (
        "dovetail list dialogue-summary",
        "dovetail show dialogue-summary@production",
        "dovetail compare dialogue-summary/1 dialogue-summary/2",
        "dovetail search 'metrics.rougeL > 0.8'",
        "dovetail history dialogue-summary --verify",
        _MEASURE_BASE,
    ):
        _run(command, cwd=directory, env=env)


def _run(command, *, cwd, env):
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(
        shlex.split(command), cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _team_commands():
    """Yield the shell blocks of "For a team", the installation left out."""
    section = README.read_text(encoding="utf-8").partition("\n## For a team\n")[2]
    for block in re.findall(r"```sh\n(.*?)```", section.partition("\n## ")[0], flags=re.DOTALL):
        yield "\n".join(line for line in block.splitlines() if not line.startswith("pip "))


def test_a_team_gets_from_nothing_to_postgresql_and_s3_as_written(
    demo, postgres_server, rados_gateway
):
    """The commands of "For a team", in a shell, move the demo's registry to servers."""
    directory, env = demo
    with contextlib.closing(rados_gateway.client()) as client:
        client.create_bucket(Bucket="adapters")
    psql = make_url(postgres_server.url())
    home = Path(env["HOME"]) / ".local/share"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dovetail").symlink_to(directory)  # where a registry lies if nobody says otherwise
    env = {
        **{name: value for name, value in env.items() if not name.endswith("_URL")},
        **rados_gateway.environment,
        "PATH": f"{env['PATH']}:{postgres_server.binaries}",
        "PGHOST": psql.host,
        "PGPORT": str(psql.port),
        "PGUSER": psql.username,
    }
    script = "set -eux\n" + "\n".join(_team_commands())
    assert "dovetail db upgrade" in script
    assert "dovetail import" in script
    done = subprocess.run(
        ["bash"], input=script, cwd=home, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    team = {
        **env,
        "DOVETAIL_DATABASE_URL": "postgresql+psycopg:///dovetail",
        "DOVETAIL_OBJECTS_URL": "s3://adapters/registry",
    }

    def tell(command, environment):
        return json.loads(_run(f"{command} --json", cwd=home, env=environment))

    for command in (
        "dovetail list",
        "dovetail list dialogue-summary",
        "dovetail show dialogue-summary@production",
        "dovetail require dialogue-summary production",
    ):
        assert tell(command, team) == tell(command, env)
    before, after = (tell("dovetail history", each) for each in (env, team))
    moved = [_what(event) for event in after if event["action"] != "import"]
    assert sorted(moved) == sorted(_what(event) for event in before)
    _run("dovetail pull dialogue-summary@production team", cwd=home, env=team)
    assert (home / "team" / "adapter_config.json").exists()


def _what(event):
    return [str(event[field]) for field in ("time", "actor", "action", "name", "number")]
