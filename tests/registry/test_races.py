"""Races that are made to happen: processes that want the same thing at the same moment."""

import multiprocessing
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import event

from dovetail.errors import ConflictError, NotFoundError
from dovetail.registry.database import Database
from dovetail.registry.digests import digest_bytes
from dovetail.registry.objects import open_object_store
from dovetail.registry.store import Registry
from dovetail.settings import Settings

pytestmark = [pytest.mark.heavy, pytest.mark.backends("sqlite+local", "postgresql+local")]
NOW, LATER = timedelta(0), -timedelta(hours=1)
LIMIT_S = 60  # of waiting at a barrier for a process that failed


@pytest.fixture
def place(places, quick):
    """A place in memory: what is raced for is locks, not disks."""
    return places.make(quick / "place")


def barrier(processes):
    """Give a barrier at which forked processes meet."""
    return multiprocessing.get_context("fork").Barrier(processes, timeout=LIMIT_S)


def results(finished):
    """Return what processes gave, all of which must have ended well."""
    assert [child.code for child in finished] == [0] * len(finished), finished
    return [child.result for child in finished]


def check_clean(place):
    """Check that after garbage collection there is nothing in the store but what is named."""
    place.execute("UPDATE intents SET expires_at = ?", "2026-01-01 00:00:00")
    with place.open() as registry:
        registry.collect_garbage(grace=NOW, unfinished_after=LATER)
        verified = registry.verify()
        assert (verified.sound, verified.orphaned, verified.announced) == (True, (), ())
        assert registry.broken_history() is None
        rows = place.rows()
        assert (rows["intents"], rows["intent_blobs"], rows["garbage"]) == ([], [], [])
        return registry.history()


def test_sixteen_who_want_the_same_number_get_sixteen(place, children, make, tmp_path, tiny_base):
    """Fifty times sixteen processes see the same latest version, then go on at the same moment."""
    processes, rounds = 16, 50
    adapters = [
        [
            make.prompt(tmp_path / f"{who}-{turn}", seed=who + processes * turn)
            for turn in range(rounds)
        ]
        for who in range(processes)
    ]
    start, go = barrier(processes), barrier(processes)

    def work(who):
        done = []
        with place.open(actor=f"process-{who}") as registry:

            def meet(moved, total):
                if moved == total:  # the number is what comes next
                    with suppress(NotFoundError):
                        seen.append(registry.resolve("summary@latest").number)
                    go.wait()

            for source in adapters[who]:
                seen = [0]
                start.wait()
                made = registry.register("summary", source, base="tiny", upload_progress=meet)
                done.append((seen[-1], made.version.number))
        return done

    with place.open() as registry:
        registry.register_base(tiny_base, name="tiny")
    done = results(children.run_all([lambda who=who: work(who) for who in range(processes)]))
    for turn in range(rounds):
        # Each wanted the number after the one that all of them saw; fifteen were too late.
        first = processes * turn
        assert {own[turn][0] for own in done} == {first}
        numbers = sorted(own[turn][1] for own in done)
        assert numbers == list(range(first + 1, first + processes + 1))
    with place.open() as registry:
        versions = registry.versions("summary")
        assert [version.number for version in versions] == list(range(processes * rounds, 0, -1))
        registered = [event for event in registry.history() if event.action == "register"]
        assert [(e.number, e.actor) for e in registered] == [
            (version.number, version.created_by) for version in versions[::-1]
        ]
    check_clean(place)


def test_of_eight_who_saw_the_same_alias_one_moves_it(place, children, make, tmp_path, tiny_base):
    """Every move starts where the one before it ended, and the others are told to look again."""
    processes, rounds = 8, 20
    with place.open() as registry:
        for seed in range(processes + 1):
            registry.register(
                "summary", make.prompt(tmp_path / str(seed), seed=seed), base=tiny_base
            )
        registry.promote("summary/9", "production")
    start, go = barrier(processes), barrier(processes)

    def work(who):
        outcomes = []
        settings = Settings.from_env(
            database_url=place.urls[0], objects_url=place.urls[1], cache_dir=place.cache
        )
        database = Database(place.urls[0])
        waiting = []

        def meet(_connection):  # at the end of what is read for the gate, and not of the move
            if waiting:
                waiting.pop()
                go.wait()

        event.listen(database.engine, "commit", meet)
        with Registry(database, open_object_store(place.urls[1]), settings) as registry:
            for turn in range(rounds):
                start.wait()
                waiting.append(True)
                number = (who + turn) % (processes + 1) + 1
                try:
                    moved = registry.promote(f"summary/{number}", "production").moved
                    outcomes.append("moved" if moved else "stayed")
                except ConflictError as error:
                    outcomes.append("late" if "was moved" in str(error) else str(error))
        return outcomes

    done = results(children.run_all([lambda who=who: work(who) for who in range(processes)]))
    for outcomes in zip(*done, strict=True):
        counts = Counter(outcomes)
        assert counts["moved"] == 1
        assert counts["late"] >= processes - 2  # one may have found it where it wanted it
        assert counts.keys() <= {"moved", "late", "stayed"}
    with place.open() as registry:
        moves = [event for event in registry.history() if event.action == "promote"]
        assert len(moves) == 1 + rounds
        assert [move.previous for move in moves] == [None, *(move.number for move in moves[:-1])]
        assert registry.resolve("summary@production").number == moves[-1].number
        assert registry.broken_history() is None


@pytest.mark.backends("sqlite+local", "postgresql+local", "postgresql+radosgw")
def test_collection_never_removes_what_a_publisher_relies_on(
    place, children, make, tmp_path, tiny_base
):
    """Garbage is collected by two at the moment when two others publish the same bytes."""
    rounds, publishers, collectors = 50 if place.bucket else 500, 2, 2
    adapters = [
        make.prompt(tmp_path / str(seed), seed=seed, revision=str(seed)) for seed in range(rounds)
    ]
    go = barrier(publishers + collectors)

    def publish(who):
        with place.open(actor=f"publisher-{who}") as registry:

            def give_up(source):
                with pytest.raises(ConflictError, match="is for the task"):  # after the upload
                    registry.register("translation", source, base="tiny", task="summarization")

            for turn, source in enumerate(adapters):
                give_up(source)
                go.wait()
                for _ in range(turn % 3):  # so that now the ones are quicker and now the others
                    give_up(source)
                made = registry.register(f"name-{turn % 7}-{who}", source, base="tiny").version
                verified = registry.verify(made.reference)
                assert (verified.sound, verified.checked) == (True, 3)

    def collect(_who):
        deleted = []
        with place.open(actor="collector") as registry:
            for _ in range(rounds):
                go.wait()
                deleted += registry.collect_garbage(grace=NOW).deleted
        return [blob.digest for blob in deleted]

    with place.open() as registry:
        registry.register_base(tiny_base, name="tiny")
        registry.register(
            "translation", make.prompt(tmp_path / "x"), base="tiny", task="translation"
        )
    tasks = [lambda who=who: publish(who) for who in range(publishers)]
    tasks += [lambda who=who: collect(who) for who in range(collectors)]
    collected = results(children.run_all(tasks))[publishers:]
    with place.open() as registry:
        named = {
            file.digest
            for adapter in registry.adapters()
            if adapter.name != "translation"
            for version in registry.versions(adapter.name)
            for file in version.files
        }
    # Each won some rounds: blobs that are named were deleted as garbage before, or were not.
    deleted = named.intersection(set().union(*collected))
    assert rounds / 20 < len(deleted) < len(named), len(deleted)
    history = check_clean(place)
    assert sum(event.action == "register" for event in history) == publishers * rounds + 1


def test_collections_at_once_delete_each_blob_once(place, children, make, tmp_path, tiny_base):
    """All of them succeed, and the history counts no blob twice."""
    garbage, processes = 600, 4  # more than are deleted under one lock
    with place.open() as registry:
        registry.register("summary", make.prompt(tmp_path / "prompt"), base=tiny_base)
        objects = open_object_store(place.urls[1])
        for number in range(garbage):
            data = f"garbage {number}".encode()
            objects.put(digest_bytes(data), data)
        assert len(registry.collect_garbage().waiting) == garbage
    start = barrier(processes)

    def collect():
        with place.open() as registry:
            start.wait()
            return [blob.digest for blob in registry.collect_garbage(grace=NOW).deleted]

    deleted = [digest for own in results(children.run_all([collect] * processes)) for digest in own]
    assert len(deleted) == len(set(deleted)) == garbage
    history = check_clean(place)
    assert sum(event.details["blobs"] for event in history if event.action == "gc") == garbage


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_publisher_whose_blobs_were_collected_publishes_them_again(
    place, make, tmp_path, tiny_base, times
):
    """Once and twice it starts again by itself; the third time it says so, and names nothing."""
    source = make.prompt(tmp_path / "prompt")
    collected = []

    def lose(moved, total):
        if moved == total and len(collected) < times:
            place.execute("UPDATE intents SET expires_at = ?", "2026-01-01 00:00:00")
            with place.open() as other:
                collected.append(other.collect_garbage(grace=NOW))

    with place.open() as registry:
        registry.register_base(tiny_base, name="tiny")
        if times == 3:
            with pytest.raises(ConflictError, match=r"longer than its lease.*run the same"):
                registry.register("summary", source, base="tiny", upload_progress=lose)
            assert registry.adapters() == []
        made = registry.register("summary", source, base="tiny", upload_progress=lose).version
        assert [run.expired_intents for run in collected] == [1] * times
        assert all(run.deleted for run in collected)
        for path in registry.pull(made.reference).iterdir():
            assert path.read_bytes() == (source / path.name).read_bytes()
        assert len(registry.versions("summary")) == 1
    check_clean(place)
