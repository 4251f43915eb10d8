"""``edit``, ``drop``, ``delete --all`` and ``--notify``: what they do, print and return."""

import json

import pytest


def test_edit_describes_and_tags_a_version(dovetail, as_json):
    """What is said is shown, listed, searched, and in the history."""
    code, out, _ = dovetail(
        "edit", "summary@production", "--description", "the best", "--tag", "a=b=c", "--tag", "x="
    )
    assert (code, out) == (0, "edited summary/1; see it with: dovetail show summary/1\n")
    version = as_json("show", "summary/1")["version"]
    assert (version["description"], version["tags"]) == ("the best", {"a": "b=c", "x": ""})
    shown = dovetail("show", "summary/1")[1]
    assert "the best" in shown
    assert "a=b=c" in shown
    listed = dovetail("list", "summary")[1]
    assert "description" in listed
    assert "the best" in listed
    assert [v["number"] for v in as_json("search", "version_tags.a = 'b=c'")["versions"]] == [1]
    assert as_json("edit", "summary/1", "--untag", "a", "--untag", "gone")["tags"] == {"x": ""}
    assert dovetail("edit", "summary/1", "--description", "")[0] == 0
    assert as_json("show", "summary/1")["version"]["description"] == ""
    assert [e["action"] for e in as_json("history", "summary")][-3:] == ["edit"] * 3


def test_a_list_has_no_columns_for_what_nobody_said(dovetail):
    """Neither of tags nor of descriptions."""
    listed = dovetail("list", "summary")[1]
    assert "description" not in listed
    assert "tags" not in listed


def test_a_long_description_is_cut_in_lists_and_whole_in_show(dovetail):
    """And stays on its line."""
    text = "word\n" * 40
    dovetail("edit", "summary/1", "--description", text)
    listed = dovetail("list", "summary")[1]
    assert "word word" in listed
    assert "…" in listed
    assert text in dovetail("show", "summary/1")[1]


def test_edit_describes_and_tags_an_adapter(dovetail, as_json):
    """By its name alone."""
    code, out, _ = dovetail("edit", "summary", "--description", "all", "--untag", "team")
    assert (code, out) == (0, "edited summary; see it with: dovetail show summary\n")
    adapter = as_json("show", "summary")
    assert (adapter["description"], adapter["tags"]) == ("all", {})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("edit", "summary/1"), 2, "nothing to change"),
        (("edit", "summary/1", "--tag", "x"), 2, "is not KEY=VALUE"),
        (("edit", "summary/1", "--tag", "x=1", "--untag", "x"), 5, "both given and taken away"),
        (("edit", "summary/9", "--tag", "x=1"), 3, "the latest is 2"),
        (("edit", "other", "--tag", "x=1"), 3, "there is no adapter 'other'"),
        (("drop", "summary", "canary"), 3, "it has: latest, production"),
        (("drop", "summary", "latest"), 5, "latest"),
        (("delete", "summary"), 2, "add --all"),
        (("delete", "summary/1", "--all"), 2, "give its name alone"),
        (("delete", "summary/1", "--force"), 2, "--force is for --all"),
        (("delete", "other", "--all"), 3, "there is no adapter 'other'"),
        (("delete", "summary", "--all"), 4, "production is summary/1; drop each alias"),
    ],
)
def test_what_cannot_be_done_says_so_and_changes_nothing(
    dovetail, stocked, arguments, code, message
):
    """With the exit code that the help has."""
    before = stocked.rows()
    found, out, err = dovetail(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert stocked.rows() == before


def test_drop_takes_an_alias_away(dovetail, as_json):
    """The version stays."""
    code, out, _ = dovetail("drop", "summary", "production", "--reason", "over")
    assert (code, out) == (0, "summary@production is gone (was summary/1)\n")
    assert as_json("show", "summary")["aliases"] == {}
    assert as_json("history", "summary")[-1]["reason"] == "over"
    assert "summary@production dropped (was 1)" in dovetail("history", "summary")[1]
    dovetail("promote", "summary/2", "production")
    dropped = as_json("drop", "summary", "production")
    assert (dropped["number"], dropped["previous"]) == (None, 2)


def test_delete_all_hides_an_adapter(dovetail, as_json):
    """With an alias only if it is forced; restoring a version brings it back."""
    code, out, err = dovetail("delete", "summary", "--all", "--force", "--reason", "unused")
    assert code == 0
    assert "dropped summary@production (was summary/1)" in err
    assert "deleted summary with 2 versions; undo: dovetail restore summary/NUMBER" in out
    assert as_json("list") == []
    assert dovetail("show", "summary")[0] == 3
    assert as_json("history", "summary")[-1]["details"] == {"versions": [1, 2]}
    assert dovetail("restore", "summary/2")[0] == 0
    assert as_json("show", "summary")["versions"] == 1
    assert as_json("delete", "summary", "--all")["name"] == "summary"


def test_register_takes_a_description_and_tags_of_the_version(dovetail, as_json, make, tmp_path):
    """Beside those of the adapter."""
    files = make.prompt(tmp_path / "new", seed=9)
    made = as_json(
        *("register", "summary", files, "--base", "tiny", "--tag", "team=all"),
        *("--version-tag", "team=mine", "--version-description", "with dropout"),
    )["version"]
    assert (made["tags"], made["description"]) == ({"team": "mine"}, "with dropout")
    assert as_json("show", "summary")["tags"] == {"team": "all"}


def test_promote_and_rollback_notify(dovetail, as_json, listener):
    """Each URL; who was told is said on stderr, and is in the JSON."""
    code, out, err = dovetail(
        *("promote", "summary/2", "production", "--reason", "new"),
        *("--notify", f"{listener.url}/a", "--notify", f"{listener.url}/b"),
    )
    assert code == 0
    assert "is now summary/2" in out
    assert f"notified {listener.url}/a (1 attempt)" in err
    assert [request.path for request in listener.got] == ["/a", "/b"]
    moved = as_json("rollback", "summary", "production", "--notify", listener.url)
    assert moved["notifications"][0]["delivered"]
    assert json.loads(listener.got[-1].body)["type"] == "dovetail.rollback"


@pytest.mark.parametrize("as_document", [False, True])
def test_a_notification_that_fails_is_exit_code_11(dovetail, listener, as_document):
    """The alias has moved, which is said; programs still get their document."""
    listener.answers = [404]
    code, out, err = dovetail(
        *("promote", "summary/2", "production", "--notify", listener.url),
        *(["--json"] if as_document else []),
    )
    assert code == 11
    assert (
        f"could not notify {listener.url} (1 attempt): it answered 404; the alias has moved" in err
    )
    assert not as_document or json.loads(out)["moved"]
    assert dovetail("show", "summary@production")[0] == 0
    history = dovetail("history", "summary")[1]
    assert "notify-failed" in history
    assert f"summary@production: {listener.url}" in history


def test_notify_needs_a_secret(dovetail, monkeypatch, as_json):
    """Before anything moves."""
    monkeypatch.delenv("DOVETAIL_NOTIFY_SECRET", raising=False)
    code, out, err = dovetail("promote", "summary/2", "production", "--notify", "http://localhost")
    assert (code, out) == (5, "")
    assert "set DOVETAIL_NOTIFY_SECRET" in err
    assert as_json("show", "summary")["aliases"] == {"production": 1}
