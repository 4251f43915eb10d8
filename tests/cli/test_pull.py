"""``dovetail pull``: from the registry, by digest, and offline."""

import json

import pytest


def gone(stocked):
    """Make the database unreachable."""
    stocked.database.rename(stocked.root / "away.db")
    stocked.database.mkdir()


def test_a_digest_is_pulled(dovetail, as_json, tmp_path):
    """Any version that has the payload will do; one that nobody has is not found."""
    digest = as_json("pull", "summary/2")["payload_digest"]
    code, out, err = dovetail("pull", digest, tmp_path / "out")
    assert (code, out, err) == (0, f"{tmp_path / 'out'}\n", "")
    assert dovetail("pull", "sha256:" + "0" * 64)[0] == 3
    assert dovetail("pull", "sha256:0123")[0] == 5


def test_the_document_says_what_was_pulled(as_json, stocked):
    """Which version, where, and that the database was asked."""
    document = as_json("pull", "summary@production")
    assert document["version"]["reference"] == "summary/1"
    assert document["payload_digest"] == document["version"]["payload_digest"]
    assert document["path"].startswith(str(stocked.cache))
    assert (document["offline"], document["resolved_at"]) == (False, None)


@pytest.mark.parametrize("copy", [False, True])
def test_offline_it_says_so(dovetail, stocked, tmp_path, copy):
    """On stderr, with the version and the time; stdout is the path alone, or one document."""
    online = dovetail("pull", "summary@production")
    assert online[0] == 0
    gone(stocked)
    to = [tmp_path / "out"] if copy else []
    code, out, err = dovetail("pull", "summary@production", *to)
    assert (code, out) == (0, f"{to[0]}\n" if copy else online[1])
    assert err.startswith("offline, took summary/1, as looked up on 20")
    assert "the database cannot be reached: " in err
    code, out, err = dovetail("pull", "summary/1", "--json")
    document = json.loads(out)
    assert (code, document["offline"], document["version"]["number"]) == (0, True, 1)
    assert document["resolved_at"].startswith("20")
    assert "offline" in err


def test_offline_what_is_not_known_is_a_storage_error(dovetail, stocked):
    """As is everything else that needs the database."""
    dovetail("pull", "summary/1")
    gone(stocked)
    code, out, err = dovetail("pull", "summary/2")
    assert (code, out) == (9, "")
    assert "cannot be pulled without the database" in err
    assert dovetail("pull", "summary")[0] == 5
    assert dovetail("show", "summary/1")[0] == 9


def test_another_schema_is_not_offline(dovetail, stocked):
    """The command that helps is named instead."""
    dovetail("pull", "summary/1")
    stocked.execute("UPDATE alembic_version SET version_num = '9999'")
    code, _, err = dovetail("pull", "summary/1")
    assert (code, "dovetail db upgrade" in err) == (9, True)
