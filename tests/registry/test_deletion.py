"""Deleting hides, restoring brings back."""

import pytest

from dovetail.errors import ConflictError, VersionNotFound

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+radosgw")


def test_a_deleted_version_is_found_nowhere_but_by_name(summary):
    """Its number stays taken, and the list of deleted versions has it."""
    gone = summary.delete("summary/3", reason="bad data")
    assert gone.deleted_at is not None
    with pytest.raises(VersionNotFound, match=r"was deleted on \d{4}.*dovetail restore summary/3"):
        summary.resolve("summary/3")
    assert summary.resolve("summary@latest").number == 2
    assert [v.number for v in summary.versions("summary")] == [2, 1]
    assert [v.number for v in summary.versions("summary", deleted=True)] == [3, 2, 1]
    assert summary.adapter("summary").latest == 2
    assert [v.number for v in summary.search().versions] == [2, 1]


def test_a_number_is_not_used_again(summary, make, tmp_path):
    """The next version after a deleted one has the next number."""
    base = summary.delete("summary/3").base_model
    new = summary.register("summary", make.prompt(tmp_path / "n", seed=9), base=base)
    assert new.version.number == 4


def test_a_version_with_an_alias_is_not_deleted(summary):
    """The error names the aliases and how to move them."""
    summary.promote("summary/1", "production")
    summary.promote("summary/1", "staging")
    with pytest.raises(ConflictError, match="production and staging") as caught:
        summary.delete("summary/1")
    assert caught.value.aliases == ("production", "staging")
    assert summary.resolve("summary/1").deleted_at is None


def test_an_alias_can_be_used_to_name_what_is_deleted_only_by_latest(summary):
    """``latest`` is computed, so it does not hold a version."""
    assert summary.delete("summary@latest").number == 3


def test_a_restored_version_is_as_it_was(summary):
    """Scores, files and metadata come back; the history has both lines with their reasons."""
    before = summary.resolve("summary/2")
    summary.delete("summary/2", reason="why")
    assert summary.restore("summary/2", reason="why not") == before
    events = [e for e in summary.history("summary") if e.action in ("delete", "restore")]
    assert [(e.action, e.number, e.reason) for e in events] == [
        ("delete", 2, "why"),
        ("restore", 2, "why not"),
    ]


def test_restoring_what_is_there_changes_nothing(summary):
    """And writes no event."""
    before = summary.history()
    assert summary.restore("summary/2") == summary.resolve("summary/2")
    assert summary.history() == before


def test_deleting_twice_says_that_it_is_deleted(summary):
    """It is not there to be deleted."""
    summary.delete("summary/2")
    with pytest.raises(VersionNotFound, match="was deleted"):
        summary.delete("summary/2")


def test_when_all_versions_are_deleted_there_is_no_latest(summary):
    """The error says so, and the adapter is still listed."""
    for number in (1, 2, 3):
        summary.delete(f"summary/{number}")
    with pytest.raises(VersionNotFound, match="all of its versions are deleted"):
        summary.resolve("summary@latest")
    adapter = summary.adapter("summary")
    assert (adapter.latest, adapter.versions) == (None, 0)


def test_a_deleted_version_cannot_be_promoted_pulled_or_compared(summary):
    """Everything but restoring refuses it."""
    summary.delete("summary/2")
    for call in (
        lambda: summary.promote("summary/2", "production"),
        lambda: summary.pull("summary/2"),
        lambda: summary.compare("summary/1", "summary/2"),
        lambda: summary.evaluations("summary/2"),
    ):
        with pytest.raises(VersionNotFound, match="was deleted"):
            call()
