"""The demo does the whole main job, and its scores mean something."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import pytest
from rich.console import Console

from dovetail.demo.place import prepare_place
from dovetail.demo.train import HASTY, LORA, SOFT_PROMPT
from dovetail.demo.walk import Plan, run_demo
from dovetail.errors import ConflictError
from dovetail.registry.store import Registry

# They share one run of the demo.
pytestmark = [pytest.mark.heavy, pytest.mark.xdist_group("walk")]
ROWS = 40
PLAN = Plan(
    good=(replace(SOFT_PROMPT, steps=30), replace(LORA, steps=20)),
    weak=replace(HASTY, steps=1),
    required=("rougeL >= 0.5", "rougeL > base"),
    rows=ROWS,
    fresh=5,
)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A short run of the demo: its result, what it told and printed, and what was stray."""
    told, printed, stray = io.StringIO(), io.StringIO(), io.StringIO()
    with redirect_stdout(stray), redirect_stderr(stray):
        result = run_demo(
            tmp_path_factory.mktemp("demo"),
            console=Console(file=told, width=100),
            output=Console(file=printed, width=80),
            plan=PLAN,
        )
    return result, told.getvalue(), printed.getvalue(), stray.getvalue()


@pytest.fixture
def registry(walked):
    """The registry that the demo left."""
    place = walked[0].place
    with Registry.open(place.database_url, place.objects_url, cache_dir=place.cache) as opened:
        yield opened


def test_adapters_find_what_the_bare_base_does_not_show(walked):
    """Training lifts ROUGE-L from that of the bare base to several times as much."""
    bare, prompt, lora, weak = (line.evaluation.scores["rougeL"].value for line in walked[0].lines)
    assert bare < 0.25
    assert weak < 0.5
    assert min(prompt, lora) > 0.7


def test_every_version_is_registered_and_measured(walked, registry):
    """Three versions, each with reported and measured scores on the same dataset."""
    versions = registry.versions("dialogue-summary")
    assert [version.peft_type for version in versions] == [
        "PROMPT_TUNING",
        "LORA",
        "PROMPT_TUNING",
    ]
    assert {version.base_model for version in versions} == {registry.base_models()[0].fingerprint}
    for version in versions:
        kinds = [evaluation.kind for evaluation in registry.evaluations(version.reference)]
        assert sorted(kinds) == ["measured", "reported"]
    datasets = {line.evaluation.dataset_digest for line in walked[0].lines}
    assert len(datasets) == 1
    assert {line.evaluation.n for line in walked[0].lines} == {ROWS}


def test_the_better_version_is_in_production(walked, registry):
    """The alias points to the version with the higher score, and the gate's refusal is kept."""
    scores = {line.label: line.evaluation.scores["rougeL"].value for line in walked[0].lines[1:]}
    production = registry.resolve("dialogue-summary@production")
    assert str(production.number) == max(scores, key=scores.get)
    assert production.number == walked[0].production
    refused = [e for e in registry.history("dialogue-summary") if e.action == "promotion-refused"]
    assert [event.number for event in refused] == [3]


def test_refusals_say_why(walked):
    """What is told names the requirement that failed and the tensor that differs."""
    told = walked[1]
    assert "'rougeL >= production' failed" in told
    assert "37 of 38 tensors match" in told
    assert "model.layers.2.mlp.down_proj.weight" in told


def test_fresh_dialogues_are_summarised(walked):
    """Each new dialogue has a prediction and no error."""
    lines = walked[0].summaries.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == walked[0].rows == 5
    assert all(row["prediction"] and row["error"] is None for row in rows)
    assert all("summary" not in row for row in rows)


def test_report_fits_a_terminal(walked):
    """The table is whole in 80 columns, and the commands name the demo's own registry."""
    printed = walked[2]
    assert "…" not in printed
    assert "hasty soft" in printed
    assert "refused" in printed
    table, _, _ = printed.partition(" new dialogues")
    assert max(map(len, table.splitlines())) <= 80
    assert f"export DOVETAIL_DATABASE_URL='{walked[0].place.database_url}'" in printed


def test_only_the_given_consoles_are_written_to(walked):
    """Trainer, PEFT and the loader draw no bars and print no logs of their own."""
    assert walked[3] == ""


def test_can_be_run_again(walked, tmp_path):
    """The directory of a finished run is taken again, that of somebody else is not."""
    prepare_place(walked[0].place.directory)
    assert sorted(path.name for path in walked[0].place.directory.iterdir()) == [
        ".dovetail-demo",
        "base",
        "data",
        "runs",
    ]
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(ConflictError):
        run_demo(tmp_path, console=Console(file=io.StringIO()), output=Console(file=io.StringIO()))
