"""Edits, dropped aliases and deleted adapters beside all that may happen at the same moment."""

import multiprocessing
from collections import Counter

import pytest
from sqlalchemy.event import listen

from dovetail.errors import ConflictError, NotFoundError

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")

PROCESSES = 6
ROUNDS = 15
LIMIT_S = 60  # of waiting at a barrier for a process that failed


@pytest.fixture
def filled(place, summary_files):
    """A registry of three versions."""
    place.fill(summary_files)
    return place


@pytest.fixture
def at_once(filled, children):
    """Run functions in processes that begin together, each with the registry opened for itself."""

    def run(*tasks):
        start = multiprocessing.get_context("fork").Barrier(len(tasks), timeout=LIMIT_S)

        def opened(who, task):
            with filled.open(actor=f"process-{who}") as registry:
                registry.adapters()  # connected
                start.wait()
                return task(registry)

        finished = children.run_all(
            [lambda who=who, task=task: opened(who, task) for who, task in enumerate(tasks)]
        )
        assert [child.code for child in finished] == [0] * len(finished), finished
        return [child.result for child in finished]

    return run


def outcome(call):
    """Call; return what became of it in a word."""
    try:
        call()
    except ConflictError:
        return "conflict"
    except NotFoundError:
        return "not there"
    return "done"


def check(registry):
    """Check what always holds: the chain is whole, and aliases are where the history says."""
    assert registry.broken_history() is None
    where = {}
    for event in registry.history("summary"):
        if event.action in ("promote", "rollback", "drop-alias"):
            assert event.previous == where.get(event.alias)
            where[event.alias] = event.number
    try:
        adapter = registry.adapter("summary")
    except NotFoundError:
        assert set(where.values()) <= {None}
        return
    assert adapter.aliases == {alias: at for alias, at in where.items() if at is not None}
    live = {version.number for version in registry.versions("summary")}
    assert set(adapter.aliases.values()) <= live


def test_no_tag_is_lost_whoever_sets_others_at_once(filled, at_once):
    """Six processes tag one version and one adapter, each with names of its own."""

    def tag(who):
        def work(registry):
            for turn in range(ROUNDS):
                registry.edit_version("summary/1", tags={f"{who}-{turn}": "x", "last": str(who)})
                registry.edit_adapter("summary", tags={f"{who}-{turn}": "x"})
                if turn % 3 == 0:
                    registry.edit_version("summary/1", remove_tags=[f"{who}-{turn}"])

        return work

    at_once(*(tag(who) for who in range(PROCESSES)))
    named = {(who, turn) for who in range(PROCESSES) for turn in range(ROUNDS)}
    with filled.open() as registry:
        expected = {f"{who}-{turn}" for who, turn in named if turn % 3}
        assert registry.resolve("summary/1").tags.keys() == expected | {"last"}
        assert registry.adapter("summary").tags.keys() == {f"{who}-{turn}" for who, turn in named}
        told = None
        for event in registry.history("summary"):
            change = event.details.get("tags", {}).get("last")
            if event.action == "edit" and change:
                assert change["old"] == told  # nobody overlooked what was said before
                told = change["new"]
        check(registry)


def test_descriptions_follow_each_other_in_the_history(filled, at_once):
    """Each edit names the description that it replaced."""

    def describe(who):
        def work(registry):
            for turn in range(ROUNDS):
                registry.edit_version("summary/2", description=f"{who}-{turn}")

        return work

    at_once(*(describe(who) for who in range(PROCESSES)))
    with filled.open() as registry:
        said = ""
        for event in registry.history("summary"):
            if event.action == "edit":
                assert event.details["description"]["old"] == said
                said = event.details["description"]["new"]
        assert registry.resolve("summary/2").description == said


def test_an_alias_is_dropped_once_and_promoted_as_the_history_says(filled, at_once):
    """Processes drop, promote and roll back one alias: a move begins where the last ended."""

    def work(who):
        def go(registry):
            found = Counter()
            for turn in range(ROUNDS):
                calls = (
                    lambda: registry.drop_alias("summary", "production"),
                    lambda turn=turn: registry.promote(f"summary/{turn % 3 + 1}", "production"),
                    lambda: registry.rollback("summary", "production"),
                )
                found[outcome(calls[(who + turn) % 3])] += 1
            return dict(found)

        return go

    results = at_once(*(work(who) for who in range(PROCESSES)))
    assert sum(result.get("done", 0) for result in results) > 0
    with filled.open() as registry:
        check(registry)


def test_a_deleted_adapter_keeps_no_alias_whoever_promotes(filled, at_once):
    """Deleting and restoring an adapter beside promotions, edits and deletions of versions."""

    def delete(registry):
        return [outcome(lambda: registry.delete_adapter("summary")) for _ in range(ROUNDS)]

    def restore(registry):
        return [
            outcome(lambda turn=turn: registry.restore(f"summary/{turn % 3 + 1}"))
            for turn in range(3 * ROUNDS)
        ]

    def promote(registry):
        return [
            outcome(lambda turn=turn: registry.promote(f"summary/{turn % 3 + 1}", f"a{turn % 4}"))
            for turn in range(3 * ROUNDS)
        ]

    def edit(registry):
        return [
            outcome(lambda turn=turn: registry.edit_version("summary/1", tags={"a": str(turn)}))
            for turn in range(ROUNDS)
        ]

    def hide(registry):
        return [outcome(lambda: registry.delete("summary/2")) for _ in range(ROUNDS)]

    at_once(delete, restore, promote, promote, edit, hide)
    with filled.open() as registry:
        check(registry)


@pytest.fixture
def before_statement():
    """Call something once, right before a registry sends a statement that begins so."""

    def arrange(registry, beginning, call):
        pending = [call]

        def look(_connection, _cursor, statement, *_):
            if pending and statement.startswith(beginning):
                pending.pop()()

        listen(registry._context.database.engine, "before_cursor_execute", look)
        return pending

    return arrange


@pytest.mark.backends("postgresql+local")  # on SQLite, who writes is alone
def test_an_alias_that_is_dropped_as_its_adapter_is_deleted_is_dropped_once(
    filled, before_statement
):
    """The deletion drops those aliases that it removed itself, and tells of no others."""
    with filled.open() as registry, filled.open(actor="quick") as quick:
        registry.promote("summary/1", "production")
        registry.promote("summary/2", "staging")
        pending = before_statement(
            registry, "DELETE FROM aliases", lambda: quick.drop_alias("summary", "production")
        )
        assert registry.delete_adapter("summary").aliases == {"staging": 2}
        assert not pending
        drops = [
            (event.actor, event.alias)
            for event in registry.history("summary")
            if event.action == "drop-alias"
        ]
        assert sorted(drops) == [("quick", "production"), ("tester", "staging")]
        check(registry)


@pytest.mark.backends("postgresql+local")
def test_an_alias_that_is_set_as_its_adapter_is_deleted_is_not_lost(filled, before_statement):
    """Who does not want aliases dropped is refused by one that was set at the last moment."""
    with filled.open() as registry, filled.open(actor="quick") as quick:
        pending = before_statement(
            registry,
            "SELECT adapters.id, adapters.task",
            lambda: quick.promote("summary/2", "production"),
        )
        with pytest.raises(ConflictError, match="in use: production is summary/2"):
            registry.delete_adapter("summary", drop_aliases=False)
        assert not pending
        assert registry.adapter("summary").aliases == {"production": 2}
        check(registry)


def test_registering_and_deleting_an_adapter_at_once_leaves_one_or_the_other(
    filled, at_once, make, tmp_path
):
    """Numbers go on without gaps, and a name that is shown has what was registered last."""
    files = [make.prompt(tmp_path / str(seed), seed=100 + seed) for seed in range(2 * ROUNDS)]

    def register(half):
        def work(registry):
            for path in files[half::2]:
                registry.register("summary", path, base="tiny")

        return work

    def delete(registry):
        for _ in range(ROUNDS):
            outcome(lambda: registry.delete_adapter("summary"))

    at_once(register(0), register(1), delete)
    with filled.open() as registry:
        check(registry)
        events = registry.history("summary")
        numbers = [event.number for event in events if event.action == "register"]
        assert numbers == list(range(1, 4 + 2 * ROUNDS))
        alive = set()
        for event in events:
            if event.action == "register":
                alive.add(event.number)
            if event.action == "delete-adapter":
                assert set(event.details["versions"]) == alive
                alive = set()
        shown = {version.number for version in registry.search(limit=100).versions}
        assert shown == alive
