"""Dovetail as MLflow's model registry: adapters, and whatever else a team has."""

import contextlib
import hashlib
import shutil
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
from mlflow.exceptions import MlflowException
from sqlalchemy import Engine, event

from dovetail.errors import (
    AccessDenied,
    AdapterNotFound,
    AliasNotFound,
    BaseModelNotFound,
    ConflictError,
    DigestMismatch,
    GateRefused,
    InvalidInput,
    InvalidPayload,
    StorageError,
)
from dovetail.plugins.mlflow.problems import as_mlflow
from dovetail.plugins.mlflow.store import DovetailStore
from dovetail.plugins.mlflow.store.connecting import settings_of
from dovetail.registry.examples import ExampleScores, format_examples
from dovetail.registry.records import Score

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")
ON_SQLITE = pytest.mark.backends("sqlite+local")


@pytest.fixture
def registry(place):
    """The same registry, as the command line would open it."""
    with place.open() as opened:
        yield opened


@pytest.fixture
def add(ours, payloads):
    """Create an adapter's next version through MLflow."""
    left = iter(payloads)

    def create(name="summary", **options):
        if name not in {model.name for model in ours.search_registered_models()}:
            ours.create_registered_model(name)
        return ours.create_model_version(name, str(next(left)), **options)

    return create


@pytest.fixture
def measure(registry):
    """Record a measured rougeL of a version."""

    def record(reference, value):
        registry.record_evaluation(
            reference=reference,
            base_model=registry.base_model("tiny").fingerprint,
            dataset_name="dialogues",
            dataset_digest=f"sha256:{hashlib.sha256(b'dialogues').hexdigest()}",
            settings={},
            library="rouge-score 0.1.2",
            n=2,
            scores={"rougeL": Score(metric="rougeL", value=value, ci_low=0.1, ci_high=0.9)},
            examples=format_examples({"rougeL": ExampleScores("mean", [value, value])}),
        )

    return record


def refusal(call, *arguments, **options):
    """Return the code and the message of the error that a call raises."""
    with pytest.raises(MlflowException) as caught:
        call(*arguments, **options)
    return caught.value.error_code, caught.value.message


def found(page):
    """Return name and number of each version on a page."""
    return [(version.name, version.version) for version in page]


def test_an_adapter_registered_through_mlflow_is_one_of_the_registry(ours, add, registry):
    """Its files, base model, tags and descriptions are there, and the empty model is gone."""
    ours.create_registered_model("summary", [RegisteredModelTag("team", "a")], "Summaries.")
    made = add(tags=[ModelVersionTag("lang", "en")], description="The first.")
    version = registry.resolve("summary/1")
    assert (version.tags["lang"], version.description) == ("en", "The first.")
    assert version.base_model_name == "tiny"
    assert registry.adapter("summary").description == "Summaries."
    assert registry.adapter("summary").tags == {"team": "a"}
    assert [model.name for model in ours.search_registered_models()] == ["summary"]
    assert made.tags["dovetail.base_fingerprint"] == version.base_model
    assert made.tags["dovetail.peft_type"] == "LORA"
    assert made.user_id == "tester"


def test_what_the_command_line_registers_is_seen_at_once(ours, registry, payloads):
    """Nothing is copied to MLflow's tables, so nothing can be out of date."""
    registry.register("from-cli", payloads[0], base="tiny", task="summarization")
    registry.promote("from-cli/1", "production")
    seen = ours.get_model_version_by_alias("from-cli", "production")
    assert (seen.version, seen.aliases, seen.source) == (1, ["production"], "dovetail://from-cli/1")
    assert ours.get_registered_model("from-cli").tags == {"dovetail.task": "summarization"}
    assert found(ours.search_model_versions("source_path = 'dovetail://from-cli/1'")) == [
        ("from-cli", 1)
    ]
    assert found(ours.search_model_versions("source_path != 'dovetail://from-cli/1'")) == []


def test_a_version_keeps_its_source_run_and_link(ours, add, payloads):
    """MLflow shows where a version came from, and downloads it from the registry."""
    made = add(run_id="a" * 32, run_link="http://127.0.0.1/run")
    assert (made.source, made.run_id, made.run_link) == (
        str(payloads[0]), "a" * 32, "http://127.0.0.1/run",
    )  # fmt: skip
    assert ours.get_model_version_download_uri("summary", "1") == "dovetail://summary/1"


def test_scores_are_shown_as_tags_and_found_by_number(ours, add, measure):
    """The newest score of each metric is a tag; filters compare the number."""
    add()
    add()
    measure("summary/1", 0.3)
    measure("summary/1", 0.4567)
    seen = ours.get_model_version("summary", 1)
    assert seen.tags["dovetail.rougeL"] == "0.4567 [0.1000, 0.9000] on dialogues"
    assert found(ours.search_model_versions("metrics.rougeL > 0.4")) == [("summary", 1)]
    assert found(ours.search_model_versions("metrics.rougeL > '0.4'")) == [("summary", 1)]
    assert found(ours.search_model_versions(order_by=["metrics.rougeL DESC"])) == [
        ("summary", 1), ("summary", 2),
    ]  # fmt: skip
    assert (
        "metrics.rougeL > 0.4"
        in refusal(ours.search_model_versions, "tags.`dovetail.rougeL` = '0.4'")[1]
    )


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("params.r = '2'", [2, 1]),
        ("params.r = 2", [2, 1]),
        ("params.r = '2.0'", [2, 1]),
        ("params.r != '2'", []),
        ("params.r != '3'", [2, 1]),
        ("params.peft_type != '1'", [2, 1]),
        ("params.peft_type != 1", [2, 1]),
        ("params.peft_type != 'LORA'", []),
        ("params.nothing != '1'", []),
        ("NOT params.nothing != '1'", [2, 1]),
        ("params.r IN ('2', '3')", [2, 1]),
        ("params.peft_type LIKE 'LO%'", [2, 1]),
        ("params.r > '1' AND parameters.r < 3", [2, 1]),
        ("alias = 'production'", [1]),
        ("attribute.alias IS NULL", [2]),
        ("base_model = 'tiny' AND version_number > 1", [2]),
        ("tags.`dovetail.peft_type` = 'LORA'", [2, 1]),
        ("tags.`dovetail.base_model` ILIKE 'T%'", [2, 1]),
        ("tags.`dovetail.base_fingerprint` LIKE 'sha256:%'", [2, 1]),
        ("tag.lang = 'en' OR alias = 'production'", [2, 1]),
        ("NOT tags.lang = 'en'", [1]),
        ("tags.`mlflow.prompt.is_prompt` = 'true' OR alias = 'production'", [1]),
        ("tags.`mlflow.prompt.is_prompt` != 'true'", [2, 1]),
        ("tags.`mlflow.prompt.is_prompt` = 'false'", [2, 1]),
        ("tags.`mlflow.prompt.is_prompt` != 'false'", []),
        ("tags.`mlflow.prompt.is_prompt` != 'x'", [2, 1]),
        ("tags.`mlflow.prompt.is_prompt` LIKE 't%'", [2, 1]),
        ("tags.`mlflow.prompt.is_prompt` IN ('true')", []),
        ("tags.`mlflow.prompt.is_prompt` NOT IN ('true')", [2, 1]),
        ("tags.`mlflow.prompt.is_prompt` IN ('false', 'x')", [2, 1]),
        ("tags.`mlflow.prompt.is_prompt` NOT IN ('false')", []),
        ("tags.`mlflow.prompt.is_prompt` IS NULL", [2, 1]),
        ("tags.`mlflow.prompt.is_prompt` IS NOT NULL", []),
        ("NOT tags.`mlflow.prompt.is_prompt` IS NULL", []),
        ("tags.`mlflow.prompt.is_prompt` NOT LIKE 't%'", [2, 1]),
    ],
)
@ON_SQLITE
def test_filters_ask_for_what_adapters_have(ours, add, text, numbers):
    """Parameters, aliases, base models and mirrored tags can be searched, and joined with OR."""
    add()
    add(tags=[ModelVersionTag("lang", "en")])
    ours.set_registered_model_alias("summary", "production", 1)
    answer = ours.search_model_versions(f"{text} AND name != 'x'" if "OR" not in text else text)
    assert [version.version for version in answer] == numbers


def test_models_are_found_by_what_a_version_of_theirs_has(ours, add, measure):
    """What a filter of models asks of versions, one version meets alone."""
    add()
    add("other")
    measure("summary/1", 0.5)
    search = ours.search_registered_models
    assert [model.name for model in search("metrics.rougeL > 0.4 AND name LIKE 's%'")] == [
        "summary"
    ]
    assert [model.name for model in search("metrics.rougeL > 0.4 AND version_number = 2")] == []


def test_adapters_and_other_models_are_in_one_order(ours, add):
    """By the bytes of their names, on every database, whatever language that sorts by."""
    add("ada")
    add("cy")
    for name in ("bob", "Bob.b", "dan"):
        ours.create_registered_model(name)
        ours.create_model_version(name, "gone/0")
    names = ["Bob.b", "ada", "bob", "cy", "dan"]
    for order, expected in ((["name"], names), (["name DESC"], names[::-1])):
        models = ours.search_registered_models(order_by=order)
        versions = ours.search_model_versions(order_by=order)
        assert [one.name for one in models] == [one.name for one in versions] == expected


def test_searches_show_aliases(ours, add):
    """MLflow's own store leaves them out."""
    add()
    ours.set_registered_model_alias("summary", "production", 1)
    assert ours.search_model_versions()[0].aliases == ["production"]
    assert ours.search_registered_models()[0].latest_versions[0].aliases == ["production"]


def test_a_promotion_that_a_gate_refuses_says_why(ours, add, registry, measure):
    """The alias stays where it is, and the message is the gate's."""
    add()
    registry.require("summary", "production", ["rougeL >= 0.40"])
    measure("summary/1", 0.2)
    code, message = refusal(ours.set_registered_model_alias, "summary", "production", "1")
    assert code == "INVALID_PARAMETER_VALUE"
    assert "rougeL >= 0.4" in message
    assert ours.get_registered_model("summary").aliases == {}
    measure("summary/1", 0.5)
    ours.set_registered_model_alias("summary", "production", "1")
    assert registry.resolve("summary@production").number == 1


def test_models_that_are_no_adapters_are_kept_by_their_source(ours, add, tmp_path):
    """One registry serves a team; both kinds come out of one search, page by page."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {sklearn: {}}")
    ours.create_registered_model("classifier")
    ours.create_model_version("classifier", str(tmp_path / "model"))
    add()
    ours.create_model_version("classifier", "somewhere/else")
    pages, token = [], None
    while True:
        page = ours.search_model_versions("", 1, ["name ASC", "version_number ASC"], token)
        pages += found(page)
        token = page.token
        if not token:
            break
    assert pages == [("classifier", 1), ("classifier", 2), ("summary", 1)]
    assert ours.get_model_version_download_uri("classifier", 2) == "somewhere/else"


@ON_SQLITE
def test_pages_are_in_one_order_where_models_are_hidden(ours, add, registry, payloads):
    """A page is shorter rather than that a model comes too late."""
    tags = [RegisteredModelTag("team", "a")]
    for number, name in enumerate(("a", "b", "c")):
        ours.create_registered_model(name, tags)
        if name != "c":
            registry.register(name, payloads[30 + number], base="tiny")
    for name in ("x1", "x2"):
        add(name)
        ours.set_registered_model_tag(name, tags[0])
    names, token = [], None
    while True:
        page = ours.search_registered_models("tags.team = 'a'", 2, ["name"], token)
        names += [model.name for model in page]
        token = page.token
        if not token:
            break
    assert names == ["c", "x1", "x2"]


def test_whoever_edits_what_a_page_shows_sees_all_pages(ours, add):
    """In MLflow's own order, where what was edited comes first, or in the other direction."""
    for _ in range(5):
        add()
    for order in ([], ["last_updated_timestamp ASC"]):
        seen, token = [], None
        while len(seen) < 20:
            page = ours.search_model_versions("name = 'summary'", 2, order, token)
            for version in page:
                seen.append(version.version)
                if seen.count(version.version) == 1:
                    ours.update_model_version("summary", version.version, f"Seen by {order}.")
            token = page.token
            if not token:
                break
        assert not token
        assert set(seen) == {1, 2, 3, 4, 5}


def test_an_empty_model_goes_with_the_adapter_that_hid_it(ours, registry, payloads):
    """The name is free again, and nothing comes back under it."""
    ours.create_registered_model("summary", description="Made first.")
    registry.register("summary", payloads[0], base="tiny")
    ours.delete_registered_model("summary")
    with pytest.raises(MlflowException, match="not found"):
        ours.get_registered_model("summary")
    assert ours.create_registered_model("summary").description is None


@ON_SQLITE
def test_a_version_is_registered_though_its_empty_model_cannot_be_removed(ours, payloads, place):
    """Another writer holds MLflow's own tables; what is left goes with the adapter."""
    ours.create_registered_model("summary")
    file = place.root / "registry.mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert ours.create_model_version("summary", str(payloads[0])).version == 1
    assert ours.get_model_version("summary", 1).version == 1
    ours.delete_registered_model("summary")
    assert [model.name for model in ours.search_registered_models()] == []


@ON_SQLITE
@pytest.mark.parametrize("token", ["W1tb" * 4000, "WzAsIDFd", "W1sxXSwgMF0=", "W10=", "é"])
def test_tokens_of_strangers_are_refused(ours, add, token):
    """Whatever they hold; no part of it is an error of the server's own."""
    add()
    for search in (ours.search_model_versions, ours.search_registered_models):
        assert refusal(search, "", 10, [], token)[0] == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize(
    "text",
    [
        "alias IN (1.5, 'production')",
        "tags.\"a b\" = 'x'",
        "tags.ключ = 'x'",
        f"run_id IN ({', '.join(repr(f'{number:032x}') for number in range(300))}, '{'a' * 32}')",
    ],
)
def test_filters_that_mlflow_takes_are_taken(ours, add, text):
    """Keys in quotes or in other scripts, long lists, numbers among texts."""
    add(tags=[ModelVersionTag("a b", "x"), ModelVersionTag("ключ", "x")], run_id="a" * 32)
    ours.set_registered_model_alias("summary", "production", 1)
    assert found(ours.search_model_versions(text)) == [("summary", 1)]


@ON_SQLITE
def test_a_name_that_an_adapter_took_hides_the_empty_model(ours, registry, payloads):
    """A model that was created through MLflow may be filled from the command line."""
    ours.create_registered_model("summary")
    registry.register("summary", payloads[0], base="tiny")
    assert [model.name for model in ours.search_registered_models()] == ["summary"]
    assert ours.get_registered_model("summary").latest_versions[0].version == 1


def test_prompts_are_kept_beside_adapters(ours, add):
    """They are registered, found, aliased and loaded, and no search of models shows them."""
    add()
    ours.create_prompt("greeting", description="Says hello.", tags={"team": "a"})
    ours.create_prompt_version("greeting", "Hello {{name}}", tags={"tone": "warm"})
    ours.set_prompt_alias("greeting", "production", 1)
    assert ours.get_prompt_version_by_alias("greeting", "production").template == "Hello {{name}}"
    assert [prompt.name for prompt in ours.search_prompts("tags.team = 'a'")] == ["greeting"]
    assert [model.name for model in ours.search_registered_models()] == ["summary"]
    assert ours.get_prompt("summary") is None


def test_a_copy_of_an_adapter_is_an_adapter(ours, add, registry):
    """It has the same files and base model under another name, and tags that people made."""
    add(tags=[ModelVersionTag("lang", "en")])
    made = ours.copy_model_version(ours.get_model_version("summary", 1), "archive")
    assert (
        registry.resolve("archive/1").payload_digest == registry.resolve("summary/1").payload_digest
    )
    assert (made.source, made.tags["lang"]) == ("models:/summary/1", "en")


def test_what_creating_answers_is_what_is_read_afterwards(ours, add, measure):
    """That is so of a new version, of a copy with scores, and of one that was there before."""
    first = add(tags=[ModelVersionTag("lang", "en")], description="The first.", run_id="a" * 32)
    assert dict(first) == dict(ours.get_model_version("summary", 1))
    measure("summary/1", 0.4)
    ours.create_registered_model("copied")
    copy = ours.create_model_version("copied", "models:/summary/1")
    seen = ours.get_model_version("copied", 1)
    assert dict(copy) == dict(seen)
    assert list(copy.tags) == list(seen.tags)
    assert copy.tags["dovetail.rougeL"] == "0.4000 reported"
    ours.set_registered_model_alias("copied", "production", "1")
    again = ours.create_model_version("copied", "models:/summary/1")
    assert dict(again) == {**dict(copy), "aliases": ["production"]}


def test_a_copy_of_another_model_stays_one(ours):
    """MLflow's own store keeps where its files are."""
    ours.create_registered_model("classifier")
    ours.create_model_version("classifier", "somewhere/else")
    ours.copy_model_version(ours.get_model_version("classifier", 1), "archive")
    assert ours.get_model_version_download_uri("archive", 1) == "somewhere/else"


@ON_SQLITE
def test_an_adapter_under_an_ordinary_model_is_kept_by_its_address(ours, add):
    """A model whose first version was something else stays what it is."""
    add()
    ours.create_registered_model("mixed")
    ours.create_model_version("mixed", "somewhere/else")
    ours.copy_model_version(ours.get_model_version("summary", 1), "mixed")
    assert ours.get_model_version_download_uri("mixed", 2) == "dovetail://summary/1"


@ON_SQLITE
def test_what_cannot_be_done_with_adapters_is_refused_with_a_reason(ours, add, payloads):
    """No refusal is an error that a client would repeat for minutes."""
    add()
    ours.set_registered_model_alias("summary", "production", 1)
    refused = {
        "renamed": refusal(ours.rename_registered_model, "summary", "summaries"),
        "move the alias": refusal(ours.delete_model_version, "summary", 1),
        "aliases": refusal(ours.transition_model_version_stage, "summary", 1, "Staging", True),
        "made by Dovetail": refusal(
            ours.set_model_version_tag, "summary", 1, ModelVersionTag("dovetail.base_model", "x")
        ),
        "holds no adapter": refusal(ours.create_model_version, "summary", "gone/1"),
        "duplicate": refusal(ours.search_model_versions, "", 10, ["name", "name DESC"]),
        "page token": refusal(ours.search_model_versions, "", 10, [], "bm9uc2Vuc2U="),
        "no field": refusal(ours.search_model_versions, "colour = 'red'"),
        "cannot be read": refusal(ours.create_model_version, "summary", "models:/gone/1"),
    }
    assert all(words in message for words, (_, message) in refused.items()), refused
    assert {code for code, _ in refused.values()} == {
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_CONFLICT",
    }


@ON_SQLITE
def test_a_name_that_no_adapter_may_have_is_refused(ours, payloads):
    """MLflow's own store would take it, but no reference could have it."""
    ours.create_registered_model("My model")
    code, message = refusal(ours.create_model_version, "My model", str(payloads[0]))
    assert code == "INVALID_PARAMETER_VALUE"
    assert "'My model' is not allowed" in message


@ON_SQLITE
def test_a_deleted_adapters_numbers_go_on(ours, add):
    """A number is never used for two things."""
    add()
    ours.delete_registered_model("summary")
    assert refusal(ours.get_registered_model, "summary")[0] == "RESOURCE_DOES_NOT_EXIST"
    assert list(ours.search_model_versions()) == []
    assert add().version == 2


@ON_SQLITE
def test_the_same_files_are_the_same_version(ours, add, payloads):
    """Registering again what is there gives the version that is there."""
    add()
    assert ours.create_model_version("summary", str(payloads[0])).version == 1


def test_webhooks_are_kept_for_the_server_to_send(ours, monkeypatch):
    """It asks for them whenever something happens."""
    created = WebhookEvent(WebhookEntity.MODEL_VERSION, WebhookAction.CREATED)
    made = ours.create_webhook("notify", "https://8.8.8.8/hook", [created])
    assert [hook.name for hook in ours.list_webhooks_by_event(created)] == ["notify"]
    assert ours.update_webhook(made.webhook_id, description="On new versions").description
    ours.delete_webhook(made.webhook_id)
    assert list(ours.list_webhooks()) == []


@ON_SQLITE
def test_who_has_only_adapters_never_gets_tables_of_mlflow(
    place, with_base, sqlite_stores, payloads
):
    """Looking around makes nothing."""
    place.fill(with_base)
    with place.open() as registry:
        registry.register("summary", payloads[0], base="tiny")
    store = sqlite_stores.make(place, tables=False)
    assert found(store.search_model_versions("name LIKE 's%'")) == [("summary", 1)]
    assert refusal(store.get_registered_model, "nobody")[0] == "RESOURCE_DOES_NOT_EXIST"
    assert list(store.list_webhooks()) == []
    store.close()
    assert not (place.root / "registry.mlflow.db").exists()


@ON_SQLITE
def test_readers_of_other_models_do_not_wait_for_who_writes_them(ours, place):
    """They have a write-ahead log, as adapters have; a commit then waits for the disk once."""
    ours.create_registered_model("classifier")
    with contextlib.closing(sqlite3.connect(place.root / "registry.mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE registered_models SET description = 'changed'")
        assert ours.get_registered_model("classifier").description is None


@ON_SQLITE
def test_other_models_are_read_where_nothing_may_be_written(place, children):
    """Who only reads must not need to write beside the file."""
    folder = Path(tempfile.mkdtemp(prefix="dovetail-public-"))
    uri = f"dovetail+sqlite:///{folder}/registry.db?objects_url={folder.as_uri()}/objects"
    place.open().close()
    shutil.copy(place.database, folder / "registry.db")

    store = DovetailStore(uri)
    store.create_registered_model("classifier")
    store.create_model_version("classifier", "gone/0")
    store.close()

    def use():
        children.become_nobody()
        store = DovetailStore(uri)
        refused = None
        try:
            store.create_registered_model("another")
        except MlflowException as error:
            refused = error.error_code
        return [[one.name for one in store.search_model_versions()], refused]

    try:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        found = children.run(use)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert found.result == [["classifier"], "TEMPORARILY_UNAVAILABLE"]


def test_clients_at_once_get_all_numbers(ours, payloads):
    """Eight threads make one adapter of an empty model, and each gets a version of its own."""
    ours.create_registered_model("summary")
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(
            lambda at: ours.create_model_version("summary", str(payloads[at])), range(8)
        )
    assert sorted(version.version for version in made) == list(range(1, 9))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AdapterNotFound("no"), "RESOURCE_DOES_NOT_EXIST"),
        (AliasNotFound("no"), "INVALID_PARAMETER_VALUE"),
        (BaseModelNotFound("no"), "INVALID_PARAMETER_VALUE"),
        (ConflictError("no"), "RESOURCE_CONFLICT"),
        (GateRefused("no"), "INVALID_PARAMETER_VALUE"),
        (InvalidPayload("no"), "INVALID_PARAMETER_VALUE"),
        (DigestMismatch("no"), "BAD_REQUEST"),
        (AccessDenied("no"), "PERMISSION_DENIED"),
        (StorageError("no"), "TEMPORARILY_UNAVAILABLE"),
    ],
)
@ON_SQLITE
def test_every_error_has_a_code_of_mlflow(error, code):
    """Only what may go away by itself is one that clients repeat."""
    assert as_mlflow(error).error_code == code


@ON_SQLITE
def test_store_uris_name_a_registry(monkeypatch):
    """The environment says what a URI does not."""
    monkeypatch.setenv("DOVETAIL_DATABASE_URL", "sqlite:////from/environment.db")
    assert settings_of("dovetail://").database_url == "sqlite:////from/environment.db"
    settings = settings_of("dovetail+sqlite:////data/r.db?objects_url=s3://bucket/prefix")
    assert (settings.database_url, settings.objects_url) == (
        "sqlite:////data/r.db", "s3://bucket/prefix",
    )  # fmt: skip
    url = settings_of("dovetail+postgresql+psycopg://ann:p%40ss@db/adapters?sslmode=require")
    assert url.database_url == "postgresql+psycopg://ann:p%40ss@db/adapters?sslmode=require"


@ON_SQLITE
@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://ann:s3cret@db/x",
        "postgresql:ann:s3cret@db/x",
        "dovetail+postgresql://ann:s3cret/x",
        "dovetail://ann:s3cret@db/x",
    ],
)
def test_a_store_uri_that_is_refused_is_not_repeated(uri):
    """It may have a password; the scheme says enough."""
    with pytest.raises(InvalidInput) as caught:
        settings_of(uri)
    assert uri.partition(":")[0] in caught.value.message
    assert "s3cret" not in f"{caught.value.message} {vars(caught.value)}"


@ON_SQLITE
def test_a_store_uri_with_two_places_for_blobs_is_refused():
    """Neither is taken, nor what the environment says."""
    with pytest.raises(InvalidInput, match="objects_url 2 times"):
        settings_of("dovetail+sqlite:////data/r.db?objects_url=s3://a/b&objects_url=s3://c/d")


@ON_SQLITE
@pytest.mark.parametrize(
    "uri", ["dovetail+mysql://db/x", "dovetail+sqlite", "dovetail://elsewhere"]
)
def test_a_store_uri_that_names_none_says_what_to_write(uri):
    """It is refused when the server starts."""
    assert refusal(DovetailStore, uri)[0] == "INVALID_PARAMETER_VALUE"


@ON_SQLITE
def test_mlflow_finds_the_store_by_its_scheme(place, with_base, monkeypatch):
    """The entry points are those that MLflow looks for."""
    from mlflow.tracking._model_registry.utils import _get_store

    place.fill(with_base)
    store = _get_store(f"dovetail+{place.urls[0]}?objects_url={place.urls[1]}")
    assert isinstance(store, DovetailStore)
    store.close()


@pytest.fixture
def transactions():
    """Collect the databases in which transactions begin."""
    begun = []

    def note(connection):
        begun.append(connection.engine.url.database)

    event.listen(Engine, "begin", note)
    yield begun
    event.remove(Engine, "begin", note)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.get_registered_model("summary"),
        lambda store: store.get_model_version("summary", "1"),
        lambda store: store.get_model_version_download_uri("summary", "1"),
        lambda store: store.get_model_version_by_alias("summary", "production"),
        lambda store: store.search_model_versions("name = 'summary'"),
    ],
    ids=["model", "version", "uri", "alias", "search"],
)
def test_what_is_asked_of_an_adapter_is_answered_in_one_transaction(ours, add, transactions, ask):
    """A server far away is asked once, for whether it is an adapter and for what it says."""
    add()
    ours.set_registered_model_alias("summary", "production", "1")
    transactions.clear()
    assert ask(ours)
    assert len(transactions) == 1


@pytest.mark.parametrize("alias", [None, "", "no good", "with\0nul"])
def test_what_is_no_alias_is_refused_for_adapters_and_other_models_alike(ours, add, alias):
    """It never means the latest version, and never reaches a database."""
    add()
    ours.create_registered_model("other")
    for name in ("summary", "other"):
        code, _ = refusal(ours.get_model_version_by_alias, name, alias)
        assert code == "INVALID_PARAMETER_VALUE"


@ON_SQLITE
def test_a_local_source_is_read_where_it_lies(ours, add, tmp_path, monkeypatch):
    """No folder is made for what need not be fetched."""
    ours.create_registered_model("summary")
    gone = tmp_path / "gone"
    monkeypatch.setattr(tempfile, "tempdir", str(gone))
    assert add().tags["dovetail.peft_type"] == "LORA"
