"""Describing and tagging adapters and versions."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.errors import AdapterNotFound, AliasNotFound, InvalidInput, VersionNotFound

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")


def test_a_version_is_described_and_tagged(summary):
    """What is said of one version is said of no other, nor of the adapter."""
    before = summary.resolve("summary/2")
    assert (before.description, before.tags) == ("", {})
    after = summary.edit_version("summary/2", description="the best", tags={"team": "support"})
    assert (after.description, after.tags) == ("the best", {"team": "support"})
    assert summary.resolve("summary/2") == after
    assert summary.resolve("summary/1").tags == {}
    assert summary.adapter("summary").tags == {}
    assert summary.versions("summary")[1].description == "the best"


def test_an_adapter_is_described_and_tagged(summary):
    """Tags are added, changed and taken away one by one; the rest stays."""
    summary.edit_adapter("summary", description="Kürzt", tags={"a": "1", "b": "2"})
    summary.edit_adapter("summary", tags={"b": "3"}, remove_tags=["a", "never there"])
    adapter = summary.adapter("summary")
    assert (adapter.description, adapter.tags) == ("Kürzt", {"b": "3"})


def test_the_history_has_what_was_said_before(summary):
    """Each edit is an event, with the old and the new values of what changed, and no others."""
    summary.edit_version("summary/1", description="good", tags={"a": "1", "b": "2"}, reason="new")
    summary.edit_version("summary@latest", tags={"x": "y"})
    summary.edit_version("summary/1", tags={"a": "3", "b": "2"}, remove_tags=["c"])
    summary.edit_adapter("summary", description="all", remove_tags=["gone"])
    events = [event for event in summary.history("summary") if event.action == "edit"]
    assert [(event.number, event.reason, event.details) for event in events] == [
        (
            1,
            "new",
            {
                "description": {"old": "", "new": "good"},
                "tags": {"a": {"old": None, "new": "1"}, "b": {"old": None, "new": "2"}},
            },
        ),
        (3, None, {"tags": {"x": {"old": None, "new": "y"}}}),
        (1, None, {"tags": {"a": {"old": "1", "new": "3"}}}),
        (None, None, {"description": {"old": "", "new": "all"}}),
    ]
    assert summary.broken_history() is None


def test_an_edit_that_changes_nothing_is_no_event(summary, place):
    """Tags that are as they are, and tags to take away that are not there, change no row."""
    summary.edit_version("summary/1", tags={"a": "1"})
    before = place.rows()
    summary.edit_version("summary/1", tags={"a": "1"}, remove_tags=["b"])
    summary.edit_version("summary/1")
    summary.edit_adapter("summary", remove_tags=["b"])
    assert place.rows() == before


def test_a_version_is_changed_when_it_is_described_and_not_when_it_is_tagged(summary):
    """Nor when an alias moves to it; the same description again counts as a change."""
    first = summary.resolve("summary/1")
    assert first.updated_at == first.created_at
    summary.promote("summary/1", "production")
    assert summary.edit_version("summary/1", tags={"a": "1"}).updated_at == first.created_at
    second = summary.edit_version("summary/1", description="good").updated_at
    assert second > first.updated_at
    assert summary.edit_version("summary/1", description="good").updated_at > second


def test_an_adapter_is_changed_by_versions_and_its_description(summary, make, tmp_path):
    """Registering, deleting and restoring count, tags and aliases do not."""

    def when():
        return summary.adapter("summary").updated_at

    times = [when()]
    summary.edit_adapter("summary", tags={"a": "1"})
    summary.promote("summary/1", "production")
    summary.drop_alias("summary", "production")
    assert when() == times[0]
    summary.edit_adapter("summary", description="good")
    times.append(when())
    summary.register("summary", make.prompt(tmp_path / "new", seed=9), base="tiny")
    times.append(when())
    summary.delete("summary/1")
    times.append(when())
    summary.restore("summary/1")
    times.append(when())
    assert sorted(set(times)) == times


def test_a_version_is_registered_with_its_own_description_and_tags(summary, make, tmp_path):
    """Beside those of the adapter, which they do not touch."""
    files = make.prompt(tmp_path / "new", seed=9)
    version = summary.register(
        "summary",
        files,
        base="tiny",
        tags={"team": "all"},
        version_description="with dropout",
        version_tags={"team": "mine"},
    ).version
    assert (version.description, version.tags) == ("with dropout", {"team": "mine"})
    assert summary.resolve("summary/4") == version
    assert summary.adapter("summary").tags == {"team": "all"}
    again = summary.register("summary", files, base="tiny", version_tags={"other": "x"})
    assert (again.created, again.version.tags) == (False, {"team": "mine"})


def test_what_is_not_there_is_not_edited(summary):
    """Unknown and deleted adapters and versions are said to be so."""
    summary.delete("summary/2")
    with pytest.raises(VersionNotFound, match="was deleted"):
        summary.edit_version("summary/2", description="x")
    with pytest.raises(VersionNotFound):
        summary.edit_version("summary/9", description="x")
    with pytest.raises(AliasNotFound):
        summary.edit_version("summary@production", description="x")
    with pytest.raises(AdapterNotFound):
        summary.edit_adapter("other", description="x")


@pytest.mark.parametrize(
    "edit",
    [
        {"description": "a\0b"},
        {"description": "x" * 1_048_577},
        {"tags": {"": "x"}},
        {"tags": {"a": 1}},
        {"tags": {"a": "\ud800"}},
        {"remove_tags": [""]},
        {"remove_tags": [3]},
        {"tags": {"a": "1"}, "remove_tags": ["a"]},
    ],
    ids=str,
)
def test_what_cannot_be_kept_is_refused(summary, place, edit):
    """Before anything is written."""
    before = place.rows()
    for call in (
        lambda: summary.edit_adapter("summary", **edit),
        lambda: summary.edit_version("summary/1", **edit),
    ):
        with pytest.raises(InvalidInput):
            call()
    assert place.rows() == before


_KEYS = st.sampled_from(["a", "b", "Ä ö", '"', "c.d", "x" * 200])
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(
        st.tuples(
            st.none() | _TEXT,
            st.dictionaries(_KEYS, _TEXT, max_size=3),
            st.lists(_KEYS, max_size=3),
        ),
        max_size=6,
    )
)
def test_any_row_of_edits_gives_what_they_say(summary, edits):
    """A version and an adapter end as plain Python says, and the history tells the way there."""
    seen = len(summary.history("summary"))
    described, tagged = summary.resolve("summary/1").description, summary.resolve("summary/1").tags
    summary.edit_adapter("summary", description=described, tags=tagged)
    gone = summary.adapter("summary").tags.keys() - tagged.keys()
    summary.edit_adapter("summary", remove_tags=sorted(gone))
    tagged = dict(tagged)
    for description, tags, unwanted in edits:
        removed = [key for key in unwanted if key not in tags]
        options = {"description": description, "tags": tags, "remove_tags": removed}
        summary.edit_version("summary/1", **options)
        summary.edit_adapter("summary", **options)
        described = described if description is None else description
        tagged = {key: value for key, value in tagged.items() if key not in removed} | tags
    for found in (summary.resolve("summary/1"), summary.adapter("summary")):
        assert (found.description, found.tags) == (described, tagged)
    told = {}
    for event in summary.history("summary")[seen:]:
        if event.number is None:
            for key, change in event.details.get("tags", {}).items():
                assert told.get(key, change["old"]) == change["old"]
                told[key] = change["new"]
    assert {key for key, value in told.items() if value is not None} <= tagged.keys()
    assert all(tagged.get(key) == value for key, value in told.items())
    assert summary.broken_history() is None
