"""The README's tour is true: its commands are run where `dovetail demo` left its registry."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
        found = subprocess.run(
            shlex.split(command),
            cwd=directory,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stderr
