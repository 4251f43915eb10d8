"""MLflow's own pages over Dovetail's registry, used as a person would, in a real Chromium.

The last thing that each test sees is kept as a picture: in the folder that
``DOVETAIL_TEST_ARTEFACTS`` names, or else among pytest's temporary files.
"""

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from dovetail.registry.examples import ExampleScores, format_examples
from dovetail.registry.records import Score

# They share one server and one browser.
pytestmark = [pytest.mark.heavy, pytest.mark.xdist_group("mlflow-ui")]

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
TAGS, ALIASES = 5, 6  # columns of the list of versions
PATIENCE_MS = 30_000  # machines that do much else are slow; what is there is seen at once
# MLflow's assistant greets whoever comes for the first time, and takes a third of the page.
NOT_NEW = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""


@dataclass(frozen=True)
class Team:
    """A server and the registry behind it."""

    server: Any
    place: Any


@pytest.fixture(scope="module")
def team(tmp_path_factory, place_at, make, tiny_base, servers):
    """A server over a registry with three versions of an adapter, another one, and a model."""
    folder = tmp_path_factory.mktemp("ui")
    root = folder / "place"
    root.mkdir()
    place = place_at(root)
    with place.open() as registry:
        registry.register_base(tiny_base, name="tiny", revision="v1")
        for number, score in enumerate((0.38, 0.43, 0.41), start=1):
            lora = make.lora(folder / f"lora-{number}", seed=number)
            registry.register("dialogue-summary", lora, base="tiny", task="summarization")
            measure(registry, f"dialogue-summary/{number}", score)
        registry.register("headlines", make.lora(folder / "lora-9", seed=9), base="tiny")
        registry.promote("dialogue-summary/2", "production")
        registry.require("dialogue-summary", "production", ["rougeL >= production"])
    environment = {
        "DOVETAIL_OBJECTS_URL": place.urls[1],
        "DOVETAIL_CACHE_DIR": str(place.cache),
        "DOVETAIL_ACTOR": "the team's server",
    }
    uri = f"dovetail+{place.urls[0]}"
    with servers.MlflowServer(uri, environment=environment) as server:
        server.client().create_registered_model("churn")
        yield Team(server, place)


def measure(registry, reference, around):
    """Record a measured rougeL of a version."""
    each = [around + step / 100 for step in range(-6, 7)]
    rouge = Score(
        metric="rougeL", value=sum(each) / len(each), ci_low=around - 0.02, ci_high=around + 0.02
    )
    registry.record_evaluation(
        reference=reference,
        base_model=registry.base_model("tiny").fingerprint,
        dataset_name="dialogues",
        dataset_digest=f"sha256:{hashlib.sha256(b'dialogues').hexdigest()}",
        settings={},
        library="rouge-score 0.1.2",
        n=len(each),
        scores={"rougeL": rouge},
        examples=format_examples({"rougeL": ExampleScores("mean", each)}),
    )


@pytest.fixture(scope="module")
def chromium():
    """The system's Chromium, without a window."""
    if CHROMIUM is None:
        pytest.skip("no chromium: install Debian's chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The folder in which pictures are kept."""
    named = os.environ.get("DOVETAIL_TEST_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(request, team, chromium, pictures):
    """A new visitor's page; a picture of it is kept when the test ends, well or not."""
    context = chromium.new_context(
        base_url=team.server.url, viewport={"width": 1440, "height": 900}, locale="en-US"
    )
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(NOT_NEW)
    opened = context.new_page()
    yield opened
    opened.screenshot(path=pictures / f"{request.node.name}.png")
    context.close()


def add_alias(page, row, alias):
    """Give a version in the list one more alias, in the dialog for that; return the dialog."""
    row.get_by_role("cell").nth(ALIASES).get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").fill(alias)
    dialog.get_by_role("combobox").press("Enter")
    dialog.get_by_role("button", name="Save aliases").click()
    return dialog


def listed_version(page, number):
    """Return a version's row in the list on its adapter's page."""
    page.goto("/#/models/dialogue-summary")
    link = page.get_by_role("link", name=f"Version {number}", exact=True)
    return page.get_by_role("row").filter(has=link)


def test_the_models_page_lists_adapters(page):
    """Beside models that are none, with their latest version, their aliases and their task."""
    page.goto("/#/models")
    page.get_by_role("dialog").get_by_role("button", name="Try it now").click()  # MLflow's news
    for name in ("churn", "dialogue-summary", "headlines"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    row = page.get_by_role("row").filter(has_text="dialogue-summary")
    expect(row).to_contain_text("Version 3")
    expect(row).to_contain_text("@ production: Version 2")
    expect(row).to_contain_text("dovetail.task: summarization")


def test_the_list_of_versions_begins_with_their_scores(page):
    """A column of tags has room for few words, so what people compare comes first."""
    row = listed_version(page, 1)
    tags = row.get_by_role("cell").nth(TAGS).get_by_role("status")
    expect(tags.first).to_have_text(re.compile(r"dovetail\.rougeL\s*: 0\.3800 \["))
    expect(tags).to_have_count(4)


def test_a_versions_page_shows_fingerprint_scores_and_aliases(page, team):
    """With the interval of a score, and what it was measured on."""
    page.goto("/#/models/dialogue-summary/versions/2")
    with team.place.open() as registry:
        version = registry.resolve("dialogue-summary/2")
    shown = {
        "dovetail.base_fingerprint": version.base_model,
        "dovetail.base_model": "tiny",
        "dovetail.peft_type": "LORA",
        "dovetail.rougeL": "0.4300 [0.4100, 0.4500] on dialogues",
    }
    for name, value in shown.items():
        row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True))
        expect(row.get_by_role("cell").nth(1)).to_have_text(value)
    expect(page.get_by_role("status", name="production", exact=True)).to_be_visible()


def test_an_alias_set_in_the_browser_is_in_the_registry(page, team):
    """In the name of the server, and the page shows it."""
    dialog = add_alias(page, listed_version(page, 1), "staging")
    expect(dialog).to_be_hidden()
    page.reload()  # MLflow's list of versions does not look again by itself
    row = listed_version(page, 1)
    expect(row.get_by_role("status", name="staging", exact=True)).to_be_visible()
    with team.place.open() as registry:
        assert registry.resolve("dialogue-summary@staging").number == 1
        promotions = [
            one for one in registry.history("dialogue-summary") if one.action == "promote"
        ]
        assert promotions[-1].actor == "the team's server"


def test_a_refused_promotion_shows_its_reason(page, team):
    """The gate's own words, where the person waits for the answer; the alias stays."""
    dialog = add_alias(page, listed_version(page, 3), "production")
    refused = dialog.get_by_role("alert").filter(has_text="was not promoted")
    expect(refused).to_contain_text("dialogue-summary/3 was not promoted to 'production'")
    expect(refused).to_contain_text("requirement 'rougeL >= production' failed")
    with team.place.open() as registry:
        assert registry.resolve("dialogue-summary@production").number == 2
