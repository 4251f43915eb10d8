"""The history: a chain in which every change shows, and where."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.errors import InvalidInput
from dovetail.registry.database import Database
from dovetail.registry.events import (
    GENESIS,
    append_event,
    event_hash,
    first_broken_link,
    read_events,
)
from dovetail.registry.records import Event

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")

COUNT = 7


def chain(count=COUNT):
    """Make a sound chain of events."""
    events, before = [], GENESIS
    for position in range(1, count + 1):
        fields = {
            "position": position,
            "time": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=position),
            "actor": "ann",
            "action": "promote",
            "name": "summary",
            "number": position,
            "alias": "production",
            "previous": position - 1 or None,
            "reason": None,
            "details": {"forced": False, "gates": []},
            "previous_hash": before,
        }
        before = event_hash(fields)
        events.append(Event(**fields, hash=before))
    return events


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
STORABLE = TEXT.filter(lambda text: "\0" not in text)  # as text; within JSON it is escaped
EDITS = {
    "time": st.integers(1, 10**9).map(
        lambda more: datetime(2027, 1, 1, tzinfo=UTC) + timedelta(microseconds=more)
    ),
    "actor": TEXT.filter(lambda text: text != "ann"),
    "action": st.sampled_from(["rollback", "register", ""]),
    "name": TEXT | st.none(),
    "number": st.integers(COUNT + 1, 10**6) | st.none(),
    "alias": TEXT | st.none(),
    "previous": st.integers(COUNT + 1, 10**6),
    "reason": TEXT,
    "details": st.dictionaries(TEXT, st.integers() | TEXT | st.booleans()),
    "previous_hash": st.integers(0, 99).map(lambda number: f"sha256:{number:064x}"[:-1] + "f"),
    "hash": st.integers(0, 99).map(lambda number: f"sha256:{number:064x}"[:-1] + "f"),
}


def test_the_made_chain_is_whole():
    """A chain that nobody touched has no broken link, and neither has an empty one."""
    assert first_broken_link(chain()) is None
    assert first_broken_link([]) is None


@pytest.mark.parametrize("field", EDITS)
@given(data=st.data(), index=st.integers(0, COUNT - 1))
def test_any_edit_is_found_where_it_is(field, data, index):
    """Whatever field of whatever event is changed, that event is named."""
    events = chain()
    events[index] = replace(events[index], **{field: data.draw(EDITS[field])})
    assert first_broken_link(events).position == index + 1


@given(index=st.integers(0, COUNT - 1), actor=TEXT.filter(lambda text: text != "ann"))
def test_an_edit_with_its_hash_made_anew_is_found_at_the_next(index, actor):
    """A forger who recomputes one hash breaks the link of the event after it."""
    events = chain()
    forged = replace(events[index], actor=actor)
    fields = {key: getattr(forged, key) for key in Event.__slots__}
    events[index] = replace(forged, hash=event_hash(fields))
    # Of the last event nothing but a copy elsewhere can tell.
    broken = first_broken_link(events)
    if index + 1 == COUNT:
        assert broken is None
    else:
        assert (broken.position, broken.problem) == (index + 2, "link")


@given(index=st.integers(0, COUNT - 2))
def test_a_removed_event_is_found(index):
    """Where an event is gone, the one after it does not fit."""
    events = chain()
    del events[index]
    broken = first_broken_link(events)
    assert (broken.position, broken.problem, broken.expected) == (index + 2, "gap", index + 1)


@given(index=st.integers(0, COUNT), source=st.integers(0, COUNT - 1))
def test_an_inserted_event_is_found(index, source):
    """A copy of an event put in anywhere is found there."""
    events = chain()
    events.insert(index, replace(events[source], position=index + 1))
    assert first_broken_link(events).position == index + 1


@given(st.permutations(range(COUNT)).filter(lambda order: list(order) != list(range(COUNT))))
def test_reordered_events_are_found(order):
    """The first event that is not where it was is named."""
    events = chain()
    first = next(index for index, source in enumerate(order) if index != source)
    found = first_broken_link([events[source] for source in order])
    assert found.position == events[order[first]].position


@pytest.fixture
def empty(place):
    """A database with the schema and no rows."""
    database = Database(place.urls[0])
    database.upgrade()
    yield database
    database.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(
        st.fixed_dictionaries(
            {
                "actor": STORABLE,
                "action": st.sampled_from(["promote", "delete"]),
                "reason": STORABLE | st.none(),
                "details": st.dictionaries(
                    TEXT, st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
                ),
            }
        ),
        max_size=6,
    )
)
def test_what_is_appended_reads_back_as_a_whole_chain(empty, events):
    """Any text, number and table goes through the database with its hash unchanged."""
    with empty.engine.connect() as connection:  # which rolls back in the end
        written = [append_event(connection, **event) for event in events]
        assert read_events(connection) == written
        assert first_broken_link(written) is None


@pytest.fixture
def used(place, make, tiny_base, tmp_path):
    """A registry with a history: registrations, promotions, a rollback, a deletion."""
    with place.open() as registry:
        for seed in range(3):
            made = make.prompt(tmp_path / f"prompt-{seed}", seed=seed)
            registry.register("summary", made, base=tiny_base)
        registry.promote("summary/1", "production")
        registry.promote("summary/2", "production", reason="better")
        registry.rollback("summary", "production", reason="worse")
        registry.delete("summary/3", reason="bad data")
    return place


def test_every_action_is_one_event(used):
    """What was done is in the history, in order, with who, what and why."""
    with used.open() as registry:
        events = registry.history()
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        assert [(event.action, event.number, event.previous, event.reason) for event in events] == [
            ("register-base", None, None, None),
            ("register", 1, None, None),
            ("register", 2, None, None),
            ("register", 3, None, None),
            ("promote", 1, None, None),
            ("promote", 2, 1, "better"),
            ("rollback", 1, 2, "worse"),
            ("delete", 3, None, "bad data"),
        ]
        assert registry.broken_history() is None


def test_the_actor_is_that_of_the_settings(used, make, tiny_base, tmp_path):
    """Events, versions and aliases carry the name that the registry was opened with."""
    with used.open(actor="Zoë 💫") as registry:
        made = make.prompt(tmp_path / "another", seed=9)
        assert registry.register("summary", made, base=tiny_base).version.created_by == "Zoë 💫"
        registry.promote("summary/4", "production")
        assert [event.actor for event in registry.history()[-2:]] == ["Zoë 💫", "Zoë 💫"]
        assert registry.broken_history() is None
    with used.open(actor="bo") as registry:
        registry.rollback("summary", "production")
        assert registry.history()[-1].actor == "bo"


@pytest.mark.parametrize(
    ("statement", "position", "problem"),
    [
        ("UPDATE events SET reason = 'because' WHERE position = 6", 6, "hash"),
        ("UPDATE events SET time = '2020-01-01 00:00:00.000000' WHERE position = 2", 2, "hash"),
        ("UPDATE events SET details = '{}' WHERE position = 3", 3, "hash"),
        ("DELETE FROM events WHERE position = 4", 5, "gap"),
        ("DELETE FROM events WHERE position = 1", 2, "gap"),
        ("UPDATE events SET position = 99 WHERE position = 5", 6, "gap"),
    ],
)
def test_a_change_in_the_database_is_found_and_told(used, command, statement, position, problem):
    """An edit with SQL is found by the library, and by the command line with exit code 8."""
    assert used.execute(statement) == 1
    with used.open() as registry:
        broken = registry.broken_history()
    assert (broken.position, broken.problem) == (position, problem)
    code, said = command("history", "--verify")
    assert code == 8
    assert f"event {position} does not fit" in said


@pytest.mark.backends("sqlite+local")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET details = 'no json' WHERE position = 3",
        "UPDATE events SET time = 'yesterday' WHERE position = 3",
        "UPDATE events SET actor = x'ff' WHERE position = 3",
    ],
)
def test_what_cannot_be_read_is_a_broken_link(used, statement):
    """SQLite keeps anything in any column; the event before it is still whole."""
    used.execute(statement)
    with used.open() as registry:
        broken = registry.broken_history()
    assert (broken.position, broken.problem) == (3, "unreadable")


def test_a_page_of_the_history_has_the_newest(used):
    """From the oldest to the newest; the page before ends where it begins."""
    with used.open() as registry:
        assert [event.position for event in registry.history(limit=3)] == [6, 7, 8]
        assert [event.position for event in registry.history(limit=3, before=6)] == [3, 4, 5]
        assert [event.position for event in registry.history("summary", before=3)] == [2]
        assert registry.history(before=-(10**30)) == []
        assert len(registry.history(before=10**30)) == 8
        for limit in (0, -1, 10**30):
            with pytest.raises(InvalidInput, match="limit"):
                registry.history(limit=limit)
