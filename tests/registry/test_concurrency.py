"""Many processes at once: numbers, aliases and a registry's first moment."""

import sqlite3
import threading
from collections import Counter

import pytest
from sqlalchemy import event

from dovetail.errors import ConflictError, VersionNotFound
from dovetail.registry import aliases
from dovetail.registry.database import Database
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.reading import find_version
from dovetail.registry.reference import Reference
from dovetail.registry.schema import SCHEMA_REVISION
from dovetail.registry.store import Registry
from dovetail.settings import Settings

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")

PROCESSES = 8
ROUNDS = 50


@pytest.fixture
def prompts(make, tmp_path):
    """Give the directory of the soft prompt with a seed, made on first use."""

    def directory(seed):
        target = tmp_path / "prompts" / str(seed)
        return target if target.exists() else make.prompt(target, seed=seed)

    return directory


@pytest.fixture
def three(place, prompts, tiny_base):
    """A registry of three versions."""
    with place.open() as registry:
        for seed in range(3):
            registry.register("summary", prompts(seed), base=tiny_base)
    return place


def results(finished):
    """Return what processes gave, all of which must have ended well."""
    assert [child.code for child in finished] == [0] * len(finished), finished
    return [child.result for child in finished]


def test_numbers_are_dense_whatever_is_registered_at_once(place, children, prompts, tiny_base):
    """Eight processes of fifty registrations, every other one of shared content, to one name."""

    def seeds(process):
        return [round_ if round_ % 2 else 1000 * (process + 1) + round_ for round_ in range(ROUNDS)]

    distinct = {seed for process in range(PROCESSES) for seed in seeds(process)}
    for seed in distinct:
        prompts(seed)

    def work(process):
        done = []
        with place.open(actor=f"process-{process}") as registry:
            for seed in seeds(process):
                made = registry.register("summary", prompts(seed), base=tiny_base)
                done.append([seed, made.version.number, made.created])
        return done

    place.open().close()
    tasks = [lambda process=process: work(process) for process in range(PROCESSES)]
    done = [entry for result in results(children.run_all(tasks)) for entry in result]
    assert len(done) == PROCESSES * ROUNDS
    numbers = {}
    for seed, number, _ in done:
        assert numbers.setdefault(seed, number) == number
    assert sorted(numbers.values()) == list(range(1, len(distinct) + 1))
    # Each content was new to exactly one of the processes.
    assert Counter(seed for seed, _, created in done if created) == Counter(distinct)
    with place.open() as registry:
        versions = registry.versions("summary")
        assert [version.number for version in versions] == list(range(len(distinct), 0, -1))
        assert registry.broken_history() is None
        registered = [e.number for e in registry.history() if e.action == "register"]
        assert registered == list(range(1, len(distinct) + 1))
        for seed in (1, 1000, 8048):
            pulled = registry.pull(f"summary/{numbers[seed]}")
            weights = "adapter_model.safetensors"
            assert (pulled / weights).read_bytes() == (prompts(seed) / weights).read_bytes()


@pytest.mark.parametrize("attempt", range(4))
def test_a_new_registry_may_be_made_by_all_at_once(place, children, prompts, tiny_base, attempt):
    """Processes that all find no registry make one, and each registers in it."""
    for seed in range(PROCESSES):
        prompts(seed)

    def work(process):
        with place.open() as registry:
            made = registry.register("summary", prompts(process), base=tiny_base)
            return made.version.number

    tasks = [lambda process=process: work(process) for process in range(PROCESSES)]
    assert sorted(results(children.run_all(tasks))) == list(range(1, PROCESSES + 1))
    with place.open() as registry:
        assert registry.broken_history() is None
        assert len(registry.base_models()) == 1


@pytest.mark.backends("sqlite+local")
def test_a_new_registry_waits_for_who_is_making_it(place):
    """A lock that another process takes at the first moment is waited for."""
    place.root.mkdir()
    other = sqlite3.connect(place.database, isolation_level=None, check_same_thread=False)
    release = threading.Timer(0.3, other.execute, ["COMMIT"])
    database = Database(place.urls[0])

    def take(*_):
        if not release.is_alive() and not release.finished.is_set():
            other.execute("CREATE TABLE made_by_another (x)")
            other.execute("BEGIN EXCLUSIVE")
            release.start()

    event.listen(database.engine, "checkout", take)
    try:
        database.upgrade()
        assert database.revision() == SCHEMA_REVISION
    finally:
        release.join()
        other.close()
        database.close()


def test_promoters_at_once_make_one_history(three, children):
    """Every move starts where the one before it ended, and losers are told to look again."""

    def work(process):
        won = lost = 0
        with three.open(actor=f"process-{process}") as registry:
            for round_ in range(10):
                number = (process + round_) % 3 + 1
                try:
                    won += registry.promote(f"summary/{number}", "production").moved
                except ConflictError:
                    lost += 1
        return [won, lost]

    tasks = [lambda process=process: work(process) for process in range(PROCESSES)]
    done = results(children.run_all(tasks))
    with three.open() as registry:
        moves = [event for event in registry.history() if event.action == "promote"]
        assert len(moves) == sum(won for won, _ in done)
        assert [move.previous for move in moves] == [None, *(move.number for move in moves[:-1])]
        assert registry.resolve("summary@production").number == moves[-1].number
        assert registry.broken_history() is None


def test_one_of_two_who_saw_the_same_state_is_refused(three):
    """A move that expects what is no longer so changes nothing and names both states."""
    with three.open() as registry:
        registry.promote("summary/1", "production")
    database = Database(three.urls[0])
    move = {"name": "summary", "alias": "production", "actor": "ann"}
    try:
        with database.writing() as connection:
            second = find_version(connection, Reference(name="summary", number=2))[0]
            third = find_version(connection, Reference(name="summary", number=3))[0]
            aliases.move_alias(connection, version_id=second, expected=1, **move)
        before = three.state()
        with (
            pytest.raises(ConflictError, match="was moved to 2 while this was being decided") as e,
            database.writing() as connection,
        ):
            aliases.move_alias(connection, version_id=third, expected=1, **move)
        assert (e.value.expected, e.value.found) == (1, 2)
        with pytest.raises(ConflictError, match="it was not set"), database.writing() as connection:
            aliases.move_alias(connection, version_id=third, expected=None, **move)
    finally:
        database.close()
    assert three.state() == before


@pytest.mark.parametrize("first", [None, 1])
def test_a_promotion_that_was_overtaken_is_refused(three, first):
    """Somebody else moves the alias after the gate was decided and before the alias is moved."""
    if first:
        with three.open() as registry:
            registry.promote(f"summary/{first}", "production")
    database = Database(three.urls[0])
    settings = Settings(
        database_url=three.urls[0], objects_url=three.urls[1], cache_dir=three.cache, actor="slow"
    )
    overtaken = []

    def overtake(_connection):
        if not overtaken:
            overtaken.append(True)
            with three.open(actor="quick") as quick:
                quick.promote("summary/2", "production")

    with Registry(database, LocalObjectStore(three.objects), settings) as slow:
        event.listen(database.engine, "commit", overtake)  # the end of what was read for the gate
        with pytest.raises(ConflictError) as caught:
            slow.promote("summary/3", "production")
        assert (caught.value.expected, caught.value.found) == (first, 2)
        assert slow.resolve("summary@production").number == 2
        assert [e.actor for e in slow.history() if e.number == 2 and e.alias] == ["quick"]
        assert not [e for e in slow.history() if e.number == 3 and e.alias]
        # Who looks again sees the new state, and may move it.
        assert slow.promote("summary/3", "production").previous == 2


def test_readers_see_whole_versions_while_others_write(place, children, prompts, tiny_base):
    """Whatever a reader finds at any moment, it can pull."""
    for seed in range(20):
        prompts(seed)

    def write():
        with place.open() as registry:
            for seed in range(20):
                registry.register("summary", prompts(seed), base=tiny_base)
        return 20

    def read():
        with place.open() as registry:
            seen = 0
            while seen < 20:
                versions = registry.versions("summary") if registry.adapters() else []
                assert [v.number for v in versions] == list(range(len(versions), 0, -1))
                assert len(versions) >= seen
                seen = len(versions)
                if versions:
                    registry.pull(versions[0].reference)
            return seen

    place.open().close()
    assert results(children.run_all([write, read, read, read])) == [20] * 4


def test_requirements_that_are_stored_at_once_replace_each_other(three, children):
    """Whoever comes last is what counts, whole, and the history says what it replaced."""

    def work(process):
        with three.open(actor=f"process-{process}") as registry:
            for round_ in range(10):
                wanted = [f"rougeL >= 0.{process}{round_}", f"rouge1 >= 0.{process}"]
                registry.require("summary", "production", wanted)
        return process

    tasks = [lambda process=process: work(process) for process in range(1, 5)]
    assert results(children.run_all(tasks)) == [1, 2, 3, 4]
    with three.open() as registry:
        stored = [event for event in registry.history() if event.action == "require"]
        assert len(stored) == 40
        assert [e.details["before"] for e in stored[1:]] == [
            e.details["requirements"] for e in stored[:-1]
        ]
        assert (
            list(registry.requirements("summary", "production"))
            == stored[-1].details["requirements"]
        )
        assert registry.broken_history() is None


def test_what_is_deleted_and_promoted_at_once_is_one_or_the_other(three, children):
    """No alias ever points to a deleted version, whoever was quicker."""

    def work(process):
        done = 0
        with three.open(actor=f"process-{process}") as registry:
            for _ in range(15):
                try:
                    if process % 2:
                        registry.promote("summary/3", "production")
                        registry.promote("summary/1", "production")
                    else:
                        registry.delete("summary/3")
                        registry.restore("summary/3")
                    done += 1
                except (ConflictError, VersionNotFound):
                    pass
                with three.open() as other:
                    assert other.resolve("summary@production").deleted_at is None
        return done

    with three.open() as registry:
        registry.promote("summary/1", "production")
    tasks = [lambda process=process: work(process) for process in range(4)]
    assert sum(results(children.run_all(tasks))) > 0
    with three.open() as registry:
        assert registry.broken_history() is None
