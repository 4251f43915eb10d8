"""Every command that runs no model: what it does, prints and returns."""

import json

import pytest

from dovetail.registry.store import Registry

READING = [
    ("list",),
    ("list", "summary"),
    ("list", "summary", "--deleted"),
    ("show", "summary"),
    ("show", "summary@production"),
    ("show", "summary/2"),
    ("search",),
    ("search", "metrics.rougeL > 0.4", "--order-by", "name DESC"),
    ("search", "number = 99"),
    ("history",),
    ("history", "summary", "--verify"),
    ("compare", "summary/1", "summary/2"),
    ("require", "summary", "production"),
    ("pull", "summary/1"),
    ("base", "list"),
    ("base", "show", "tiny"),
    ("db", "current"),
    ("db", "check"),
]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_json_is_one_document_and_nothing_else(dovetail, arguments):
    """Programs read stdout whole; a second run prints the same."""
    code, out, _ = dovetail(*arguments, "--json")
    assert code == 0
    document = json.loads(out)
    assert json.loads(dovetail(*arguments, "--json")[1]) == document


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_people_get_text(dovetail, arguments):
    """Without ``--json`` it is no JSON, and no Python."""
    code, out, err = dovetail(*arguments)
    assert code == 0
    assert "Traceback" not in out + err
    for sign in ("{", "datetime", "Reference(", "mappingproxy"):
        assert sign not in out.replace("{dialogue}", "")


def test_list_shows_adapters_and_versions(dovetail, as_json):
    """With aliases, and deleted ones only when asked for."""
    assert "production → 1" in dovetail("list")[1]
    assert as_json("list")[0]["aliases"] == {"production": 1}
    dovetail("delete", "summary/2", "--reason", "x")
    assert [v["reference"] for v in as_json("list", "summary")] == ["summary/1"]
    everything = as_json("list", "summary", "--deleted")
    assert [v["reference"] for v in everything] == ["summary/2", "summary/1"]
    assert "summary/2 (deleted)" in dovetail("list", "summary", "--deleted")[1]


def test_long_lists_and_histories_come_in_pages(dovetail, as_json):
    """What is left out is said on stderr, with the option that shows it."""
    _, out, err = dovetail("list", "summary", "--limit", 1)
    assert "summary/2" in out
    assert "summary/1" not in out
    assert "--after 2" in err
    assert [v["number"] for v in as_json("list", "summary", "--after", 2)] == [1]
    assert as_json("list", "--after", "summary") == as_json("list", "--prefix", "x") == []
    assert dovetail("list", "summary", "--after", "x")[0] == 2
    newest = as_json("history")[-1]["position"]
    _, out, err = dovetail("history", "--limit", 1)
    assert f"--before {newest}" in err
    (before,) = as_json("history", "--limit", 1, "--before", newest)
    assert before["position"] == newest - 1
    assert dovetail("history", "--limit", 0)[0] == 2


def test_show_has_scores_and_template(dovetail, as_json):
    """Of a version; of an adapter its versions."""
    out = dovetail("show", "summary@production")[1]
    assert "Summarise: {dialogue}" in out
    assert "0.5000 [0.5000, 0.5000]" in out
    found = as_json("show", "summary/1")
    assert found["version"]["number"] == 1
    assert found["evaluations"][0]["scores"]["rougeL"]["value"] == 0.5
    assert "summary/2" in dovetail("show", "summary")[1]


def test_search_pages_and_shows_the_scores_it_asked_for(dovetail, as_json):
    """The token for the next page goes to stderr."""
    code, out, err = dovetail("search", "metrics.rougeL > 0", "--limit", 1)
    assert code == 0
    assert "0.2500" in out
    token = err.split()[-1]
    page = as_json("search", "metrics.rougeL > 0", "--limit", 1, "--page-token", token)
    assert [v["reference"] for v in page["versions"]] == ["summary/1"]
    assert page["next_page_token"] is None


def test_compare_shows_the_difference_and_what_differs(dovetail, as_json):
    """Second minus first."""
    out = dovetail("compare", "summary/1", "summary/2")[1]
    assert "-0.2500 [-0.2500, -0.2500]" in out
    assert "hyperparameters that differ" in out
    assert as_json("compare", "summary/1", "summary/2")["hyperparameters"] == {"seed": [1, 2]}


def test_promote_prints_gates_and_where_the_alias_is(dovetail, as_json):
    """Gates to stderr, the result to stdout."""
    code, out, err = dovetail("promote", "summary/1", "staging", "--require", "rougeL >= 0.4")
    assert (code, out) == (0, "summary@staging is now summary/1\n")
    assert err.startswith("met: rougeL >= 0.4: ")
    assert (
        dovetail("promote", "summary/1", "staging")[1] == "summary@staging is summary/1 already\n"
    )
    assert as_json("promote", "summary/2", "staging")["previous"] == 1


def test_a_refused_promotion_is_exit_code_7(dovetail):
    """Unless it is forced, with a reason."""
    gate = ("promote", "summary/2", "production", "--require", "rougeL >= production")
    code, out, err = dovetail(*gate)
    assert (code, out) == (7, "")
    assert "0.2500 below production (summary/1)" in err
    assert dovetail(*gate, "--force")[0] == 5
    code, out, err = dovetail(*gate, "--force", "--reason", "hot fix")
    assert (code, out) == (0, "summary@production is now summary/2 (was 1), forced\n")
    assert "NOT MET" in err
    history = dovetail("history", "summary")[1]
    assert "promotion-refused" in history
    assert "hot fix" in history


def test_rollback_goes_back_or_says_why_not(dovetail):
    """Once for each promotion."""
    dovetail("promote", "summary/2", "production")
    code, out, _ = dovetail("rollback", "summary", "production", "--reason", "worse")
    assert (code, out) == (0, "summary@production is back at summary/1 (was 2)\n")
    assert dovetail("rollback", "summary", "production")[0] == 4
    assert dovetail("rollback", "summary", "nothing")[0] == 3


def test_require_sets_shows_and_clears(dovetail, as_json):
    """What is stored holds for the next promotion."""
    code, out, _ = dovetail("require", "summary", "production", "rougeL >= 0.9", "rougeL > base")
    assert (code, out) == (0, "rougeL >= 0.9\nrougeL > base\n")
    assert as_json("require", "summary", "production")["requirements"] == [
        "rougeL >= 0.9",
        "rougeL > base",
    ]
    assert dovetail("promote", "summary/2", "production")[0] == 7
    assert dovetail("require", "summary", "production", "--clear")[2] == (
        "summary@production requires nothing\n"
    )
    assert dovetail("promote", "summary/2", "production")[0] == 0
    assert dovetail("require", "summary", "production", "x > 1", "--clear")[0] == 2
    assert dovetail("require", "summary", "production", "x < 1")[0] == 5


def test_pull_writes_the_files(dovetail, tmp_path):
    """Where it prints; a directory with something in it is a conflict."""
    code, out, _ = dovetail("pull", "summary@production", tmp_path / "out")
    assert (code, out) == (0, f"{tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    assert dovetail("pull", "summary@production", tmp_path / "out")[0] == 4
    assert dovetail("pull", "summary/9", tmp_path / "new")[0] == 3


def test_delete_and_restore(dovetail, as_json):
    """Deleting says how to undo it."""
    assert dovetail("delete", "summary/1")[0] == 4
    assert dovetail("delete", "summary/2")[1] == (
        "deleted summary/2; undo: dovetail restore summary/2\n"
    )
    assert dovetail("show", "summary/2")[0] == 3
    assert dovetail("restore", "summary/2")[1] == "summary/2 is there again\n"
    assert as_json("delete", "summary/2")["deleted_at"] is not None
    assert as_json("restore", "summary/2")["deleted_at"] is None


def test_register_adds_a_version(dovetail, as_json, make, tmp_path, tiny_base):
    """With everything that is given; the same files again add nothing."""
    payload = make.prompt(tmp_path / "p", seed=5)
    arguments = (
        "register",
        "labels",
        payload,
        "--base",
        tiny_base,
        "--task",
        "text-classification",
        "--tag",
        "team=support",
        "--tag",
        "empty=",
        "--param",
        "lr=0.1",
        "--param",
        "name=x",
        "--generation",
        "max_new_tokens=4",
        "--score",
        "accuracy=0.75",
        "--run",
        "run-1",
        "--template",
        "Label: {text}",
        "--description",
        "All of it",
    )
    code, out, _ = dovetail(*arguments)
    assert code == 0
    assert out.startswith("registered labels/1: PROMPT_TUNING, 24 parameters, base tiny")
    found = as_json("show", "labels/1")
    assert found["version"]["hyperparameters"] == {"lr": 0.1, "name": "x"}
    assert found["version"]["generation_config"] == {"max_new_tokens": 4}
    assert found["evaluations"][0]["kind"] == "reported"
    assert as_json("show", "labels")["tags"] == {"team": "support", "empty": ""}
    assert "nothing was added" in dovetail(*arguments)[1]


def test_register_takes_a_base_by_name_or_fingerprint(dovetail, make, tmp_path, stocked):
    """As the registry knows it; another one is told apart."""
    with stocked.open() as registry:
        fingerprint = registry.base_model("tiny").fingerprint
    for seed, base in ((5, "tiny"), (6, fingerprint)):
        payload = make.prompt(tmp_path / f"p{seed}", seed=seed)
        assert dovetail("register", "x", payload, "--base", base)[0] == 0
    assert dovetail("register", "x", payload, "--base", "/nowhere")[0] == 3


@pytest.mark.parametrize(
    "option", [("--tag", "x"), ("--tag", "=x"), ("--score", "a=b"), ("--param", "x")]
)
def test_an_option_that_is_not_a_pair_is_wrong_usage(dovetail, tmp_path, option):
    """The message names the option."""
    code, _, err = dovetail("register", "x", tmp_path, "--base", "tiny", *option)
    assert code == 2
    assert option[0] in err


def test_base_models_are_added_shown_and_checked(dovetail, as_json, make, tmp_path, tiny_base):
    """Other weights are exit code 6, with what differs."""
    other = make.base(tmp_path / "other", seed=9)
    added = as_json("base", "add", other, "--name", "second", "--revision", "abc")
    assert [m["name"] for m in as_json("base", "list")] == ["tiny", "second"]
    assert as_json("base", "show", added["fingerprint"])["revision"] == "abc"
    assert as_json("base", "check", tiny_base, "tiny")["matches"] is True
    assert dovetail("base", "check", tiny_base, "tiny")[0] == 0
    code, _, err = dovetail("base", "check", other, "tiny")
    assert code == 6
    assert "tensors" in err
    assert dovetail("base", "show", "nothing")[0] == 3


def test_db_commands_tell_the_schema(dovetail, as_json, stocked):
    """An up-to-date database needs no upgrade; another schema is exit code 9."""
    current = as_json("db", "current")
    assert current["schema"] == current["expected"]
    assert "already" in dovetail("db", "upgrade")[1]
    assert dovetail("db", "check")[0] == 0
    stocked.execute("UPDATE alembic_version SET version_num = 'older'")
    code, _, err = dovetail("db", "check")
    assert code == 9
    assert "run: dovetail db upgrade" in err
    assert as_json("db", "current")["schema"] == "older"


def test_history_that_was_edited_is_exit_code_8(dovetail, stocked):
    """``--verify`` says where, and nothing is printed as if it were true."""
    assert "the chain is whole" in dovetail("history", "--verify")[2]
    stocked.execute("UPDATE events SET reason = 'never' WHERE position = 3")
    code, out, err = dovetail("history", "--verify")
    assert (code, out) == (8, "")
    assert "event 3 does not fit" in err


def test_history_names_who_did_it(dovetail, stocked):
    """The actor comes from the environment."""
    dovetail("promote", "summary/2", "staging", "--reason", "because")
    assert any(
        "tester" in line and "summary@staging → 2" in line and "because" in line
        for line in dovetail("history", "summary")[1].splitlines()
    )


def test_the_command_line_and_the_library_see_one_registry(as_json, stocked):
    """The CLI is a thin layer over the same functions."""
    with Registry.open(*stocked.urls, cache_dir=stocked.cache) as registry:
        assert as_json("show", "summary/1")["version"]["payload_digest"] == (
            registry.resolve("summary/1").payload_digest
        )
