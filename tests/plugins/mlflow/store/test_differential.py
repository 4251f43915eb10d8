"""The same random calls to Dovetail's store and to MLflow's own, which is the oracle."""

import itertools
import time
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException

PROMPT_TAG = "mlflow.prompt.is_prompt"
NAMES = ["ada", "bob", "Bob.b", "cy-d", "e_e"]
TAGS = ["team", "lang", "x.y"]
VALUES = ["a", "B", "b c", ""]
ALIASES = ["production", "staging", "Best-1"]
RUNS = [None, "a" * 32, "b" * 32]


@dataclass(frozen=True)
class Difference:
    """What Dovetail does otherwise than MLflow's own store, and why."""

    what: str
    why: str
    code: str | None = None
    """The code of its refusal, if it refuses what MLflow does."""


RENAMED = Difference(
    "An adapter cannot be renamed.",
    "References in jobs, and the history, carry the name.",
    "INVALID_PARAMETER_VALUE",
)
POINTED_TO = Difference(
    "A version of an adapter that an alias points to cannot be deleted; MLflow deletes the alias.",
    "What is in production does not vanish by an oversight.",
    "RESOURCE_CONFLICT",
)
STAGED = Difference(
    "Adapters have no stages.",
    "MLflow itself gave them up for aliases.",
    "INVALID_PARAMETER_VALUE",
)
RESERVED = Difference(
    "Tags that begin with 'dovetail.', or say which run a version is from (mlflow.run_id, "
    "mlflow.model_id and kin), cannot be set or deleted on an adapter.",
    "They say what the registry knows: the base model, scores, lineage.",
    "INVALID_PARAMETER_VALUE",
)
NO_ADAPTER = Difference(
    "A source that holds no adapter is refused under an adapter's name.",
    "Every version of an adapter can be verified, gated and attached.",
    "INVALID_PARAMETER_VALUE",
)
NAMED = Difference(
    "An adapter's alias is no number, not 'base', and begins with a letter or digit.",
    "References such as name@alias and name/7 stay unmistakable.",
    "INVALID_PARAMETER_VALUE",
)
NUMBERED = Difference(
    "A deleted adapter's numbers go on when its name is used again, and its tags, description, "
    "task and requirements are back; MLflow begins anew, with 1.",
    "A number is never used for two things, and a gate is not got rid of by deleting.",
)
SPELLED = Difference(
    "An adapter's name has ASCII letters, digits, '.', '_' and '-' only; a model of another name "
    "stays empty.",
    "References such as name@alias and name/7 stay unmistakable.",
    "INVALID_PARAMETER_VALUE",
)
REPEATED = Difference(
    "The same files under the same name give the version that is there, or are refused if it was "
    "deleted; MLflow adds another.",
    "A version is its content.",
)
SHOWN = Difference(
    "Versions of adapters have tags that begin with 'dovetail.', and a user id.",
    "MLflow has no other field for the base model, its fingerprint and the scores.",
)
LISTED = Difference(
    "Searches return aliases, of versions and of the versions in models; MLflow returns none.",
    "Who looks for what is in production need not ask again for each version.",
)
BLANK = Difference(
    "An empty description and none are the same.", "Dovetail keeps text, which may be empty."
)
DOWNLOADED = Difference(
    "An adapter's download URI is dovetail://NAME/NUMBER, and not its source.",
    "The registry keeps the files; the source may be gone.",
)
SEARCHED = Difference(
    "Filters may have OR, NOT, brackets, metrics, params, alias, base_model and more.",
    "They find what only adapters have; MLflow refuses them.",
)
ORDERED = Difference(
    "A field that is named twice in order_by is an error of status 400; in MLflow of 500.",
    "It is the caller's mistake, and a client would repeat the call for minutes.",
)
PROMPTED = Difference(
    "Of two clauses on the tag that marks prompts, MLflow looks at the first only.",
    "Both are asked for, so both must hold.",
)
SORTED = Difference(
    "On PostgreSQL, names are in the order of their bytes, as on SQLite; in MLflow in that of the "
    "database's language.",
    "Adapters and other models are in one order, the same on every database.",
)
DIFFERENCES = (
    RENAMED, POINTED_TO, STAGED, RESERVED, NO_ADAPTER, NAMED, NUMBERED, SPELLED, REPEATED,
    SHOWN, LISTED, BLANK, DOWNLOADED, SEARCHED, ORDERED, PROMPTED, SORTED,
)  # fmt: skip


names = st.sampled_from(NAMES)
known_names = st.sampled_from([*NAMES, *NAMES, *NAMES, "nobody", "not/allowed", ""])
numbers = st.sampled_from([1, 1, 1, 1, 2, 2, 2, 3, 3, "1", "2", 4, 0, -1, 99, "two"])
aliases = st.sampled_from([*ALIASES, *ALIASES, "latest", "v3", "no good"])
texts = st.sampled_from([None, "", "words", "other words"])
tags = st.dictionaries(st.sampled_from(TAGS), st.sampled_from(VALUES), max_size=2)
text_tests = st.tuples(
    st.sampled_from(["=", "!=", "LIKE", "ILIKE"]),
    st.sampled_from(["a", "B", "%b%", "b_c", "%", ""]),
).map(lambda pair: f"{pair[0]} '{pair[1]}'")
tag_clauses = st.tuples(st.sampled_from(["tag", "tags"]), st.sampled_from(TAGS), text_tests).map(
    lambda parts: f"{parts[0]}.`{parts[1]}` {parts[2]}"
)
name_clauses = st.one_of(
    names.map(lambda name: f"name = '{name}'"),
    names.map(lambda name: f"name != '{name}'"),
    st.sampled_from(["name LIKE 'b%'", "name ILIKE 'B%'", "name LIKE '%b'", "name ILIKE '%Y%'"]),
    st.lists(names, min_size=1, max_size=3).map(lambda some: f"name IN ({_quoted(some)})"),
    st.lists(names, min_size=1, max_size=3).map(lambda some: f"name NOT IN ({_quoted(some)})"),
)
prompt_clauses = st.sampled_from(
    [f"tag.`{PROMPT_TAG}` {test}" for test in (
        "!= 'true'", "= 'true'", "= 'false'", "!= 'false'", "= 'x'", "!= 'x'", "LIKE 't%'",
    )]
)  # fmt: skip
run_clauses = st.sampled_from(
    [f"run_id {test}" for test in (
        f"= '{RUNS[1]}'", f"!= '{RUNS[1]}'", "LIKE 'a%'", f"IN ('{RUNS[1]}', '{RUNS[2]}')",
        f"NOT IN ('{RUNS[2]}')",
    )]
)  # fmt: skip
number_clauses = st.tuples(
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.sampled_from(["1", "2", "'2'"])
).map(lambda pair: f"version_number {pair[0]} {pair[1]}")
source_clauses = st.sampled_from(
    ["source_path LIKE '%lora-1%'", "source_path = 'gone/0'", "source_path != 'gone/0'"]
)
wrong_clauses = st.sampled_from(["colour = 'red'", "name =", "name = red", "run_id"])


def _joined(*clauses):
    """Join clauses of each kind; one at most on the prompt tag: PROMPTED."""
    some = st.lists(st.one_of(*clauses), max_size=3, unique=True)
    prompts = st.lists(prompt_clauses, max_size=1)
    return st.tuples(some, prompts).map(lambda both: " AND ".join([*both[0], *both[1]]))


model_filters = _joined(name_clauses, tag_clauses)
version_filters = st.one_of(
    _joined(name_clauses, tag_clauses, run_clauses, number_clauses, source_clauses), wrong_clauses
)
model_orders = st.sampled_from(
    [None, ["name"], ["name DESC"], ["last_updated_timestamp DESC"], ["timestamp", "name DESC"],
     ["colour"]]
)  # fmt: skip
version_orders = st.sampled_from(
    [None, ["name DESC"], ["version_number ASC"], ["creation_timestamp DESC"],
     ["last_updated_timestamp ASC", "name DESC"], ["version_number DESC", "name ASC"], ["colour"]]
)  # fmt: skip
pages = st.sampled_from([1, 2, 3, 100])


def _quoted(some):
    return ", ".join(f"'{one}'" for one in some)


class Machine(RuleBasedStateMachine):
    """Drives both stores; a model is empty until its first version says what it is."""

    def __init__(self, ours, oracle, payloads, seen):
        super().__init__()
        self.ours, self.oracle = ours, oracle
        self.seen = seen
        self.payloads = iter(payloads)
        self.kinds = {}
        self.gone = set()
        self.counter = itertools.count()

    def both(self, method, *arguments, show=lambda answer: answer, **options):
        """Call both stores, compare what they say, and return it; None for an error."""
        time.sleep(0.002)  # both write down milliseconds, and are asked for the order of them
        said = [
            _outcome(getattr(store, method), arguments, options, show)
            for store in (self.ours, self.oracle)
        ]
        assert said[0] == said[1], (method, arguments, options)
        self.seen[method, self.kinds.get(arguments[0]), said[0][0]] += 1
        return said[0][1] if said[0][0] == "ok" else None

    def refused(self, difference, method, *arguments, **options):
        """Call Dovetail alone, which refuses what MLflow would do."""
        said = _outcome(getattr(self.ours, method), arguments, options, str)
        assert said == ("error", difference.code), (difference.what, said)
        self.seen[difference.what] += 1

    def is_adapter(self, name):
        """Tell whether a model's first version was an adapter's."""
        return self.kinds.get(name) == "adapter"

    @initialize(tags=st.lists(tags, min_size=6, max_size=6), description=texts)
    def begin(self, tags, description):
        """Create two adapters, another model, an empty one and a prompt; look at each."""
        for name in NAMES:
            prompt = name == "e_e"
            self.create_model(name=name, tags=tags[0], description=description, prompt=prompt)
        for name, given, run_id in zip(("ada", "ada", "cy-d"), tags, RUNS, strict=False):
            self.create_adapter_version(
                name=name, tags=given, description=description, run_id=run_id
            )
        for name, given, run_id in zip(("bob", "bob", "e_e"), tags[3:], RUNS, strict=False):
            self.create_other_version(name=name, tags=given, run_id=run_id)
        self.set_alias(name="ada", alias="production", number=1)
        for name in NAMES:
            self.look(name=name, number=1, alias="production")

    @rule(
        name=known_names, tags=tags, description=texts, prompt=st.sampled_from([False] * 4 + [True])
    )
    def create_model(self, name, tags, description, prompt):
        """Create a model or a prompt."""
        if name in self.gone:
            return  # NUMBERED
        given = _tags(RegisteredModelTag, {**tags, **({PROMPT_TAG: "true"} if prompt else {})})
        if self.both("create_registered_model", name, given, description, show=_model):
            self.kinds[name] = "prompt" if prompt else "empty"

    @rule(name=names, tags=tags, description=texts, run_id=st.sampled_from(RUNS))
    def create_adapter_version(self, name, tags, description, run_id):
        """Create a version whose source is an adapter."""
        payload = next(self.payloads, None)
        if payload is None or self.kinds.get(name) == "prompt":
            return  # each adapter once: REPEATED
        given = _tags(ModelVersionTag, tags)
        options = {"run_id": run_id, "tags": given, "description": description}
        made = self.both("create_model_version", name, str(payload), **options, show=_version)
        if made and self.kinds.get(name) == "empty":
            self.kinds[name] = "adapter"

    @rule(name=known_names, tags=tags, run_id=st.sampled_from(RUNS))
    def create_other_version(self, name, tags, run_id):
        """Create a version whose source is something else, or a prompt's."""
        source = f"gone/{next(self.counter) % 3}"
        if self.is_adapter(name):
            self.refused(NO_ADAPTER, "create_model_version", name, source)
            return
        if self.kinds.get(name) == "prompt":
            tags = {**tags, PROMPT_TAG: "true", "mlflow.prompt.text": "Hello"}
        given = _tags(ModelVersionTag, tags)
        options = {"run_id": run_id, "tags": given, "run_link": "http://127.0.0.1/run"}
        made = self.both("create_model_version", name, source, **options, show=_version)
        if made and self.kinds.get(name) == "empty":
            self.kinds[name] = "other"

    @rule(name=known_names, description=texts)
    def describe_model(self, name, description):
        """Change a model's description."""
        self.both("update_registered_model", name, description, show=_model)

    @rule(name=known_names, number=numbers, description=texts)
    def describe_version(self, name, number, description):
        """Change a version's description."""
        self.both("update_model_version", name, number, description, show=_version)

    @rule(name=known_names, key=st.sampled_from([*TAGS, "", "a//b"]), value=st.sampled_from(VALUES))
    def tag_model(self, name, key, value):
        """Set a tag of a model."""
        self.both("set_registered_model_tag", name, RegisteredModelTag(key, value))
        if self.is_adapter(name):
            tag = RegisteredModelTag("dovetail.task", "x")
            self.refused(RESERVED, "set_registered_model_tag", name, tag)

    @rule(
        name=known_names,
        number=numbers,
        key=st.sampled_from([*TAGS, ""]),
        value=st.sampled_from(VALUES),
    )
    def tag_version(self, name, number, key, value):
        """Set a tag of a version."""
        self.both("set_model_version_tag", name, number, ModelVersionTag(key, value))

    @rule(name=known_names, number=numbers, key=st.sampled_from(TAGS))
    def untag(self, name, number, key):
        """Delete a tag of a model, and one of a version."""
        self.both("delete_registered_model_tag", name, key)
        self.both("delete_model_version_tag", name, number, key)

    @rule(name=known_names, alias=aliases, number=numbers)
    def set_alias(self, name, alias, number):
        """Set an alias."""
        self.both("set_registered_model_alias", name, alias, number)

    @rule(alias=st.sampled_from(["12", "base", "_x"]), data=st.data())
    @precondition(lambda self: "adapter" in self.kinds.values())
    def set_strange_alias(self, alias, data):
        """Set an alias that Dovetail refuses."""
        name = data.draw(st.sampled_from([name for name in self.kinds if self.is_adapter(name)]))
        if self.ours.get_latest_versions(name):
            number = self.ours.get_latest_versions(name)[0].version
            self.refused(NAMED, "set_registered_model_alias", name, alias, number)

    @rule(name=known_names, alias=aliases)
    def delete_alias(self, name, alias):
        """Delete an alias."""
        self.both("delete_registered_model_alias", name, alias)

    @rule(name=known_names, number=numbers)
    def delete_version(self, name, number):
        """Delete a version."""
        pointed = self.is_adapter(name) and _pointed(self.oracle.get_registered_model(name), number)
        if pointed:
            self.refused(POINTED_TO, "delete_model_version", name, number)
        else:
            self.both("delete_model_version", name, number)

    @rule(name=known_names, number=numbers, stage=st.sampled_from(["Staging", "Production", "x"]))
    def change_stage(self, name, number, stage):
        """Change a version's stage."""
        if self.is_adapter(name):
            self.refused(STAGED, "transition_model_version_stage", name, number, stage, False)
        elif stage != "x" or self.kinds.get(name):
            self.both("transition_model_version_stage", name, number, stage, False, show=_version)

    @rule(name=known_names, new_name=known_names)
    def rename(self, name, new_name):
        """Rename a model."""
        if self.is_adapter(name):
            self.refused(RENAMED, "rename_registered_model", name, new_name)
        elif (
            new_name not in self.gone
            and name != new_name
            and self.both("rename_registered_model", name, new_name, show=_model)
        ):
            self.kinds[new_name] = self.kinds.pop(name)

    @rule(name=known_names, sure=st.sampled_from([True, False, False]))
    def delete_model(self, name, sure):
        """Delete a model, not too often."""
        if sure or name not in self.kinds:
            self.both("delete_registered_model", name)
            if self.kinds.pop(name, None) == "adapter":
                self.gone.add(name)

    @rule(name=known_names, number=numbers, alias=aliases)
    def look(self, name, number, alias):
        """Look one model and one version up in every way."""
        self.both("get_registered_model", name, show=_model)
        self.both("get_model_version", name, number, show=_version)
        self.both("get_model_version_by_alias", name, alias, show=_version)
        self.both("get_latest_versions", name, show=_versions)
        self.both("get_latest_versions", name, ["None", "Production"], show=_versions)
        if not self.is_adapter(name):  # DOWNLOADED
            self.both("get_model_version_download_uri", name, number)

    @rule(text=model_filters, order_by=model_orders, page=pages)
    def search_models(self, text, order_by, page):
        """Search for models, page by page."""
        self.search("search_registered_models", text, order_by, page, show=_model)

    @rule(text=version_filters, order_by=version_orders, page=pages)
    def search_versions(self, text, order_by, page):
        """Search for versions, page by page."""
        self.search("search_model_versions", text, order_by, page, show=_found_version)

    def search(self, method, text, order_by, page, *, show):
        """Compare a search's pages, and which of them is the last."""
        seen = [_pages(getattr(store, method), text, order_by, page, show) for store in self.stores]
        assert seen[0] == seen[1], (method, text, order_by, page)
        self.seen[method, "pages", len(seen[0])] += 1

    @property
    def stores(self):
        """Both stores."""
        return self.ours, self.oracle


def _outcome(call, arguments, options, show):
    try:
        return "ok", show(call(*arguments, **options))
    except MlflowException as error:
        return "error", error.error_code


def _pages(search, text, order_by, page, show):
    """Return what all pages of a search show, or the code of its error."""
    found, token = [], None
    for _ in range(100):
        said = _outcome(
            search, (text, page, order_by, token), {}, lambda answer: (answer, answer.token)
        )
        if said[0] == "error":
            return said
        answer, token = said[1]
        found.append([show(one) for one in answer])
        if not token:
            return found
    raise AssertionError("the pages never end")


def _tags(kind, tags):
    return [kind(key, value) for key, value in tags.items()]


def _pointed(model, number):
    return any(str(version) == str(number) for version in model.aliases.values())


def _free(tags):
    return {key: value for key, value in tags.items() if not key.startswith("dovetail.")}  # SHOWN


def _found_version(version):
    """Show a version as searches return it: LISTED."""
    return {
        "name": version.name,
        "version": version.version,
        "description": version.description or None,  # BLANK
        "source": version.source,
        "run_id": version.run_id or None,
        "run_link": version.run_link or None,
        "stage": version.current_stage,
        "status": version.status,
        "tags": _free(version.tags),
    }


def _version(version):
    return _found_version(version) | {"aliases": sorted(version.aliases)}


def _versions(versions):
    return sorted(map(_version, versions), key=lambda one: one["version"])


def _model(model):
    latest = sorted(map(_found_version, model.latest_versions), key=lambda one: one["version"])
    return {
        "name": model.name,
        "description": model.description or None,  # BLANK
        "tags": _free(model._tags),
        "aliases": dict(model.aliases),
        "latest": latest,
    }


def _run(make, examples, steps):
    """Run the machine, and count what it saw; `make` gives both stores and what closes them."""
    opened, seen = [], Counter()

    def machine():
        while opened:
            opened.pop()()
        ours, oracle, payloads, close = make()
        opened.append(close)
        return Machine(ours, oracle, payloads, seen)

    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
                derandomize=True,
                database=None,
            ),
        )
    finally:
        while opened:
            opened.pop()()
    return seen


@pytest.fixture
def pairs(place, stores, with_base, payloads, monkeypatch):
    """Make pairs of fresh stores, one after the other."""
    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(place.cache))

    def make():
        place.fill(with_base)
        ours, oracle = stores.make(place), stores.oracle(place)

        def close():
            ours.close()
            stores.drop(oracle)

        return ours, oracle, payloads, close

    return make


@pytest.mark.backends("sqlite+local")
def test_random_calls_are_answered_as_by_mlflows_own_store(pairs):
    """Whatever is called, both stores say the same, but for what the table lists."""
    seen = _run(pairs, examples=30, steps=50)
    for kind in ("empty", "adapter", "other", "prompt"):
        assert seen["get_registered_model", kind, "ok"]


@pytest.mark.backends("postgresql+local")
def test_random_calls_are_answered_alike_on_postgresql(pairs):
    """The same holds where both stores are on PostgreSQL."""
    _run(pairs, examples=8, steps=40)


def test_every_known_difference_has_a_reason():
    """The table says of each difference why it is there, once."""
    assert all(one.what.endswith(".") and one.why.endswith(".") for one in DIFFERENCES)
    assert len({one.what for one in DIFFERENCES}) == len(DIFFERENCES)
