"""Dropping aliases, and deleting whole adapters."""

import pytest

from dovetail.errors import (
    AdapterNotFound,
    AliasNotFound,
    ConflictError,
    GateRefused,
    InvalidReference,
)

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")


def test_a_dropped_alias_points_nowhere(summary):
    """The version stays, what the alias requires too, and the history says where it was."""
    summary.require("summary", "production", ["rougeL >= 0.9"])
    summary.promote("summary/2", "production", force=True, reason="now")
    dropped = summary.drop_alias("summary", "production", reason="too early")
    assert (dropped.number, dropped.previous, dropped.moved) == (None, 2, True)
    assert summary.adapter("summary").aliases == {}
    with pytest.raises(AliasNotFound):
        summary.resolve("summary@production")
    assert summary.resolve("summary/2").aliases == ()
    assert summary.requirements("summary", "production") == ("rougeL >= 0.9",)
    with pytest.raises(GateRefused):
        summary.promote("summary/1", "production")
    event = summary.history("summary")[-2]
    assert (event.action, event.alias, event.previous) == ("drop-alias", "production", 2)
    assert (event.number, event.reason) == (None, "too early")


def test_an_alias_that_is_not_set_is_not_dropped(summary, place):
    """The error lists those that are, and nothing is written."""
    summary.promote("summary/2", "production")
    before = place.rows()
    with pytest.raises(AliasNotFound, match="it has: latest, production"):
        summary.drop_alias("summary", "staging")
    with pytest.raises(AdapterNotFound):
        summary.drop_alias("other", "staging")
    with pytest.raises(InvalidReference):
        summary.drop_alias("summary", "latest")
    assert place.rows() == before


def test_a_rollback_does_not_go_behind_a_drop(summary):
    """An alias that was set anew was nowhere before; promotions after that can be undone."""
    summary.promote("summary/1", "production")
    summary.promote("summary/2", "production")
    summary.drop_alias("summary", "production")
    with pytest.raises(AliasNotFound):
        summary.rollback("summary", "production")
    summary.promote("summary/3", "production")
    with pytest.raises(ConflictError, match="was nowhere before"):
        summary.rollback("summary", "production")
    summary.promote("summary/1", "production")
    assert summary.rollback("summary", "production").number == 3


def test_a_version_can_be_deleted_when_its_alias_is_dropped(summary):
    """Which was in the way before."""
    summary.promote("summary/1", "production")
    with pytest.raises(ConflictError):
        summary.delete("summary/1")
    summary.drop_alias("summary", "production")
    assert summary.delete("summary/1").deleted_at is not None


def test_a_deleted_adapter_is_found_nowhere(summary):
    """Neither by name nor by listing, searching, resolving or promoting; its history stays."""
    summary.promote("summary/2", "production")
    summary.delete("summary/1")
    last = summary.delete_adapter("summary", reason="replaced")
    assert (last.name, last.versions, last.aliases) == ("summary", 2, {"production": 2})
    assert summary.adapters() == []
    assert summary.search().versions == ()
    for call in (
        lambda: summary.adapter("summary"),
        lambda: summary.versions("summary"),
        lambda: summary.resolve("summary@latest"),
        lambda: summary.resolve("summary@production"),
        lambda: summary.rollback("summary", "production"),
        lambda: summary.require("summary", "production", []),
        lambda: summary.edit_adapter("summary", description="x"),
        lambda: summary.delete("summary/2"),
        lambda: summary.delete_adapter("summary"),
    ):
        with pytest.raises(AdapterNotFound, match="was deleted on"):
            call()
    for call in (lambda: summary.resolve("summary/2"), lambda: summary.promote("summary/2", "x")):
        with pytest.raises(LookupError, match="was deleted on"):
            call()
    events = summary.history("summary")[-2:]
    assert [(e.action, e.alias, e.previous, e.reason, e.details) for e in events] == [
        ("drop-alias", "production", 2, "replaced", {}),
        ("delete-adapter", None, None, "replaced", {"versions": [2, 3]}),
    ]
    assert summary.broken_history() is None


def test_registering_brings_a_deleted_name_back(summary, make, tmp_path):
    """Its numbers go on, what it said of itself is there, and its old versions stay hidden."""
    summary.edit_adapter("summary", description="good", tags={"a": "1"})
    summary.require("summary", "production", ["rougeL >= 0.9"])
    summary.delete_adapter("summary")
    files = make.prompt(tmp_path / "new", seed=9)
    assert summary.register("summary", files, base="tiny").version.number == 4
    adapter = summary.adapter("summary")
    assert (adapter.versions, adapter.latest, adapter.aliases) == (1, 4, {})
    assert (adapter.description, adapter.tags, adapter.task) == (
        "good",
        {"a": "1"},
        "summarization",
    )
    assert [version.number for version in summary.versions("summary")] == [4]
    assert summary.requirements("summary", "production") == ("rougeL >= 0.9",)


def test_the_same_content_under_a_deleted_name_is_to_be_restored(summary, make, tmp_path):
    """Its number is known, so nothing is registered, and the name stays deleted."""
    files = make.prompt(tmp_path / "new", seed=2)
    summary.delete_adapter("summary")
    with pytest.raises(ConflictError, match="bring it back with: dovetail restore summary/2"):
        summary.register("summary", files, base="tiny")
    assert summary.adapters() == []


def test_restoring_a_version_brings_its_name_back(summary):
    """Only that version; a version deleted before the adapter can be restored, too."""
    summary.delete("summary/1")
    summary.delete_adapter("summary")
    assert summary.restore("summary/1").number == 1
    adapter = summary.adapter("summary")
    assert (adapter.versions, adapter.latest) == (1, 1)
    assert [version.number for version in summary.versions("summary")] == [1]


def test_an_adapter_without_versions_that_are_alive_can_be_deleted(summary):
    """It was still listed; now it is not."""
    for number in (1, 2, 3):
        summary.delete(f"summary/{number}")
    assert [adapter.name for adapter in summary.adapters()] == ["summary"]
    summary.delete_adapter("summary")
    assert summary.adapters() == []


def test_files_of_a_deleted_adapter_are_kept(summary):
    """Garbage collection spares them, so that everything can be restored."""
    summary.delete_adapter("summary")
    assert summary.collect_garbage().waiting == ()
    assert summary.verify().sound
    summary.restore("summary/3")
    assert summary.pull("summary@latest").is_dir()


def test_an_adapter_in_use_is_spared_if_its_aliases_are_not_to_be_dropped(summary, place):
    """The error says which are set and how to go on, and nothing is written."""
    summary.promote("summary/2", "production")
    before = place.rows()
    with pytest.raises(ConflictError, match="in use: production is summary/2") as caught:
        summary.delete_adapter("summary", drop_aliases=False)
    assert "dovetail drop summary ALIAS" in str(caught.value)
    assert (caught.value.name, caught.value.aliases) == ("summary", {"production": 2})
    assert place.rows() == before
    summary.drop_alias("summary", "production")
    assert summary.delete_adapter("summary", drop_aliases=False).aliases == {}
    assert summary.adapters() == []
