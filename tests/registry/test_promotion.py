"""Moving aliases forward and back."""

import pytest

from dovetail.errors import (
    AdapterNotFound,
    AliasNotFound,
    ConflictError,
    InvalidReference,
    VersionNotFound,
)

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")


def test_promotion_points_the_alias_and_writes_it_down(summary):
    """The promotion says where the alias was before, and so does the history."""
    first = summary.promote("summary/1", "production", reason="first")
    second = summary.promote("summary/2", "production")
    assert (first.previous, first.number, first.moved) == (None, 1, True)
    assert (second.previous, second.number, second.moved) == (1, 2, True)
    assert summary.resolve("summary@production").number == 2
    assert summary.resolve("summary/2").aliases == ("production",)
    events = [event for event in summary.history("summary") if event.action == "promote"]
    assert [(e.number, e.previous, e.alias, e.reason, e.actor) for e in events] == [
        (1, None, "production", "first", "tester"),
        (2, 1, "production", None, "tester"),
    ]


def test_promotion_to_where_the_alias_is_changes_nothing(summary):
    """It is no move, and the history has no line for it."""
    summary.promote("summary/1", "production")
    before = summary.history()
    assert not summary.promote("summary/1", "production").moved
    assert summary.history() == before


def test_an_alias_is_copied_from_another(summary):
    """A reference may be an alias or ``latest``."""
    summary.promote("summary@latest", "staging")
    assert summary.promote("summary@staging", "production").number == 3


def test_aliases_of_one_adapter_move_apart(summary):
    """Moving one leaves the other, and several may point to one version."""
    summary.promote("summary/1", "production")
    summary.promote("summary/1", "staging")
    summary.promote("summary/2", "staging")
    assert summary.adapter("summary").aliases == {"production": 1, "staging": 2}


def test_two_rollbacks_go_back_by_two(summary):
    """A rollback undoes a promotion, not the rollback before it."""
    for number in (1, 2, 3):
        summary.promote(f"summary/{number}", "production")
    assert summary.rollback("summary", "production").number == 2
    found = summary.rollback("summary", "production", reason="worse")
    assert (found.number, found.previous) == (1, 2)
    event = summary.history("summary")[-1]
    assert (event.action, event.number, event.previous) == ("rollback", 1, 2)
    assert event.reason == "worse"
    with pytest.raises(ConflictError, match="was nowhere before"):
        summary.rollback("summary", "production")


def test_a_promotion_after_a_rollback_can_be_undone(summary):
    """The way back is where the alias really was."""
    for number in (1, 2):
        summary.promote(f"summary/{number}", "production")
    summary.rollback("summary", "production")
    summary.promote("summary/3", "production")
    assert summary.rollback("summary", "production").number == 1


def test_rollbacks_of_two_aliases_do_not_mix(summary):
    """Each alias has a past of its own."""
    summary.promote("summary/1", "production")
    summary.promote("summary/2", "staging")
    summary.promote("summary/2", "production")
    summary.promote("summary/3", "staging")
    assert summary.rollback("summary", "production").number == 1
    assert summary.rollback("summary", "staging").number == 2


def test_the_first_promotion_cannot_be_rolled_back(summary):
    """The alias was nowhere; the message says what to do instead."""
    summary.promote("summary/1", "production")
    with pytest.raises(ConflictError, match=r"promote another version instead"):
        summary.rollback("summary", "production")
    assert summary.resolve("summary@production").number == 1


def test_a_refused_promotion_is_no_step_back(summary):
    """Only moves are undone."""
    summary.promote("summary/1", "production")
    summary.promote("summary/2", "production")
    with pytest.raises(Exception, match="not promoted"):
        summary.promote("summary/3", "production", require=["rougeL >= 0.1"])
    assert summary.rollback("summary", "production").number == 1


def test_rollback_to_a_deleted_version_says_how_to_restore_it(summary):
    """The alias stays; after the restore it goes back."""
    summary.promote("summary/1", "production")
    summary.promote("summary/2", "production")
    summary.delete("summary/1")
    with pytest.raises(VersionNotFound, match="dovetail restore summary/1"):
        summary.rollback("summary", "production")
    assert summary.resolve("summary@production").number == 2
    summary.restore("summary/1")
    assert summary.rollback("summary", "production").number == 1


def test_an_alias_that_is_not_set_cannot_go_back(summary):
    """The error lists those that are."""
    summary.promote("summary/1", "staging")
    with pytest.raises(AliasNotFound, match=r"no alias 'production'; it has: latest, staging"):
        summary.rollback("summary", "production")


@pytest.mark.parametrize("alias", ["latest", "base", "7", "a b", ""])
def test_aliases_that_mean_something_else_are_refused(summary, alias):
    """For every call that takes one."""
    for call in (
        lambda: summary.promote("summary/1", alias),
        lambda: summary.rollback("summary", alias),
        lambda: summary.require("summary", alias, []),
        lambda: summary.requirements("summary", alias),
    ):
        with pytest.raises(InvalidReference):
            call()


def test_what_does_not_exist_is_told_apart(summary):
    """Adapter, version and alias have errors of their own, with the nearest names."""
    with pytest.raises(AdapterNotFound, match="did you mean summary"):
        summary.promote("sumary/1", "production")
    with pytest.raises(VersionNotFound, match="the latest is 3"):
        summary.promote("summary/9", "production")
    with pytest.raises(AdapterNotFound):
        summary.require("nobody", "production", [])
    with pytest.raises(AdapterNotFound):
        summary.rollback("nobody", "production")
