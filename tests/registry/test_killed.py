"""Processes killed with SIGKILL at each of their steps in turn.

A step is every call of the object store, piece of an HTTP request, SQL statement, end of a
transaction and change of a file. Whatever is killed, and wherever: the registry opens, everything
that was acknowledged reads back, numbers have no gap, the history is unbroken, and the same command
run again succeeds. What else is left is for garbage collection, and nothing more than that.
"""

import random
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import inspect, select, union, update

from dovetail.registry.database import Database
from dovetail.registry.digests import digest_bytes
from dovetail.registry.examples import ExampleScores, format_examples, score_interval
from dovetail.registry.intents import publish
from dovetail.registry.objects import open_object_store
from dovetail.registry.objects.s3client import PART_BYTES
from dovetail.registry.records import Score
from dovetail.registry.schema import SCHEMA_REVISION, GarbageRow, IntentBlobRow, IntentRow
from dovetail.registry.store import Registry
from dovetail.settings import Settings

pytestmark = [pytest.mark.heavy, pytest.mark.backends("sqlite+local", "postgresql+radosgw")]
NOW, LATER = timedelta(0), -timedelta(hours=1)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _quick_clients(monkeypatch):
    """Let botocore read its description of S3 once, and not in every process that is killed."""
    import boto3
    import botocore.session

    loader = botocore.session.get_session().get_component("data_loader")
    monkeypatch.setattr("botocore.session.create_loader", lambda _path: loader)
    boto3.session.Session().client("s3", region_name="us-east-1").close()


@pytest.fixture
def adapters(make, tmp_path):
    """Directories of three LoRAs."""
    return [make.lora(tmp_path / f"lora-{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def model(place_at, quick):
    """A place where the registry is made that every process finds."""
    return place_at(quick / "model")


@pytest.fixture
def place(places, quick):
    """A place for its copies."""
    return places.make(quick / "place")


@pytest.fixture
def kill(place, model, killing, children):
    """Do something with copies of that registry, killed at every step; open each of them after."""

    def kill(action):
        model.open().close()
        objects = open_object_store(place.urls[1])
        settings = Settings.from_env(
            database_url=place.urls[0], objects_url=place.urls[1], cache_dir=place.cache
        )
        steps = killing.kill_at_every_step(
            children,
            lambda: place.fill(model.root),
            lambda step: killing.act(place, action, step),
        )
        for number in steps:
            database = Database(place.urls[0])
            database.prepare()
            with Registry(database, objects, settings) as registry:
                yield number, registry

    return kill


def contents(folder):
    """Return the names and bytes of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_sound(registry, sources):
    """Check all that must be so after whatever was killed; return how many versions there are.

    Args:
        registry: The registry.
        sources: The directories that versions of the one adapter were made from, in their order.
    """
    names = [adapter.name for adapter in registry.adapters()]
    versions = registry.versions("summary")[::-1] if names else []
    assert [version.number for version in versions] == list(range(1, len(versions) + 1))
    for version, source in zip(versions, sources, strict=False):
        assert contents(registry.pull(version.reference)) == contents(source)
        registry.evaluations(version.reference)
        registry.base_manifest(version.base_model)
    registered = [e.number for e in registry.history() if e.action == "register"]
    assert registered == [version.number for version in versions]
    assert registry.broken_history() is None
    assert registry.verify().sound
    return len(versions)


def check_collectable(registry):
    """Check that garbage collection removes all that somebody killed has left, and nothing else."""
    database = registry._context.database
    database.write(lambda c: c.execute(update(IntentRow).values(expires_at=LONG_AGO)))
    registry.collect_garbage(grace=NOW, unfinished_after=LATER)
    verified = registry.verify()
    assert (verified.sound, verified.orphaned, verified.announced) == (True, (), ())
    with database.reading() as connection:
        ids = union(*(map(select, (IntentRow.id, IntentBlobRow.digest, GarbageRow.digest))))
        assert connection.execute(ids).all() == []
    assert list(registry._context.objects.leftovers()) == []


def in_turns(number, registry, *checks):
    """Call two functions with a registry, now the one first and now the other."""
    for check in checks if number % 2 else checks[::-1]:
        check(registry)


def evaluate(registry, reference, seed):
    """Record a measured evaluation, with its scores by example in a blob."""
    scores = ExampleScores("mean", [0.5 + seed / 100, 0.6, 0.4] * 4)
    interval = score_interval(scores)
    registry.record_evaluation(
        reference=reference,
        base_model=registry.resolve(reference).base_model,
        dataset_name="test",
        dataset_digest=digest_bytes(b"rows"),
        settings={"max_new_tokens": 32},
        library="rouge-score 0.1.2",
        n=len(scores.values),
        scores={
            "rougeL": Score(
                metric="rougeL", value=interval.value, ci_low=interval.low, ci_high=interval.high
            )
        },
        examples=format_examples({"rougeL": scores}),
    )


def test_a_killed_publisher_leaves_a_whole_version_or_none(
    kill, model, adapters, make, tmp_path, tiny_base
):
    """A version, its base model's manifest and reported scores come together or not at all."""
    with model.open() as registry:
        registry.register("summary", adapters[0], base=tiny_base)
    base = make.base(tmp_path / "another base", seed=7)

    def register(registry):
        return registry.register(
            "summary", adapters[1], base=base, task="summarization", scores={"rougeL": 0.5}
        ).version

    def again(registry):
        assert register(registry).number == 2
        assert registry.evaluations("summary/2")[0].scores["rougeL"].value == 0.5
        assert check_sound(registry, adapters) == 2

    outcomes = set()
    for number, registry in kill(register):
        outcomes.add(check_sound(registry, adapters))
        in_turns(number, registry, again, check_collectable)
    assert outcomes == {1, 2}


def test_a_killed_promoter_moves_the_alias_with_its_event_or_not(kill, model, adapters, tiny_base):
    """The alias and the history agree, and the gate's scores can still be read."""
    with model.open() as registry:
        for number in (1, 2):
            registry.register("summary", adapters[number - 1], base=tiny_base)
            evaluate(registry, f"summary/{number}", seed=number)
        registry.promote("summary/1", "production")

    def promote(registry):
        return registry.promote(
            "summary/2", "production", require=["rougeL >= production"], reason="better"
        )

    def moves(registry):
        found = [event.number for event in registry.history() if event.action == "promote"]
        assert registry.resolve("summary@production").number == found[-1]
        return tuple(found)

    outcomes = set()
    for _, registry in kill(promote):
        assert check_sound(registry, adapters) == 2
        outcomes.add(moves(registry))
        assert promote(registry).number == 2
        assert moves(registry) == (1, 2)
    assert outcomes == {(1,), (1, 2)}


def test_a_killed_collection_removes_nothing_but_garbage(kill, model, adapters, tiny_base):
    """What it has marked, expired, deleted and not yet written down is found by the next one."""
    with model.open() as registry:
        registry.register("summary", adapters[0], base=tiny_base)
        objects = open_object_store(model.urls[1])

        def abandon(data):
            objects.put(digest_bytes(data), data)

        abandon(b"marked before")
        registry.collect_garbage()
        abandon(b"new")
        abandon(b"announced by a process that was killed")
        announced = digest_bytes(b"announced by a process that was killed")
        long_ago = "2026-01-01 00:00:00.000000"
        intent = ("a" * 32, "register", "ann", long_ago, long_ago)
        model.execute("INSERT INTO intents VALUES (?, ?, ?, ?, ?)", *intent)
        model.execute("INSERT INTO intent_blobs VALUES (?, ?)", "a" * 32, announced)

    def collect(registry):
        return registry.collect_garbage(grace=NOW, unfinished_after=LATER)

    left = set()
    for _, registry in kill(collect):
        assert check_sound(registry, adapters) == 1
        left.add(len(registry.verify().orphaned))
        collect(registry)
        assert collect(registry).deleted == ()
        noted = [e.details["blobs"] for e in registry.history() if e.action == "gc"]
        # One that was killed after it deleted and before it noted it leaves nothing to note.
        assert sum(noted) <= 3
        check_collectable(registry)
    assert {0, 3} <= left


def test_a_killed_import_goes_on_when_it_is_run_again(
    kill, model, place_at, adapters, tmp_path, tiny_base
):
    """Each adapter comes whole, with evaluations, aliases and history, or not at all."""
    with place_at(tmp_path / "source").open() as registry:
        registry.register("summary", adapters[0], base=tiny_base)
        evaluate(registry, "summary/1", seed=1)
        registry.require("summary", "production", ["rougeL >= 0.1"])
        registry.promote("summary/1", "production")
        registry.export(None, tmp_path / "bundle")
        expected = registry.history()

    def added(registry):
        return [event.origin for event in registry.history() if event.origin]

    def again(registry):
        registry.import_bundle(tmp_path / "bundle")
        assert registry.resolve("summary@production").number == 1
        assert len(registry.evaluations("summary/1")) == 1
        assert registry.import_bundle(tmp_path / "bundle").adapters == ()
        assert added(registry) == [event.hash for event in expected]
        assert check_sound(registry, adapters) == 1

    outcomes = set()
    for number, registry in kill(lambda opened: opened.import_bundle(tmp_path / "bundle")):
        outcomes.add((check_sound(registry, adapters), len(added(registry))))
        in_turns(number, registry, again, check_collectable)
    assert outcomes == {(0, 0), (0, 1), (1, len(expected))}


@pytest.mark.backends("postgresql+radosgw")
def test_a_killed_upload_in_parts_leaves_nothing_under_the_name(kill, tmp_path):
    """A blob of several parts is there whole or not at all, and the parts are collected."""
    data = random.Random(1).randbytes(PART_BYTES + 1)  # noqa: S311
    source, digest = tmp_path / "large", digest_bytes(data)
    source.write_bytes(data)

    def upload(registry):
        publish(registry._context, {digest: source}, purpose="test", commit=lambda _: None)

    outcomes = set()
    for number, registry in kill(upload):
        objects = registry._context.objects
        outcomes.add((objects.size(digest), len(list(objects.leftovers()))))

        def again(registry, objects=objects):
            upload(registry)
            with objects.open(digest) as stream:
                assert stream.read() == data

        if number % 4 == 0:  # it takes a while
            again(registry)
        check_collectable(registry)
        assert objects.size(digest) is None
    assert outcomes == {(None, 0), (None, 1), (len(data), 0)}


def test_a_registry_that_was_killed_while_it_is_made_can_be_made_again(
    place, quick, killing, children, adapters, tiny_base
):
    """There is the whole schema or none of it, and making it again completes it."""

    def make(step):
        database = Database(place.urls[0])
        step.watch(database.engine)
        step.watch_process()
        database.upgrade()
        database.close()

    def unmake():
        if made and place.server_url:
            place.execute("DROP SCHEMA public CASCADE")
            place.execute("CREATE SCHEMA public")
        elif not place.server_url:
            shutil.rmtree(place.root, ignore_errors=True)

    made, found = True, set()
    for number in killing.kill_at_every_step(children, unmake, make):
        database = Database(place.urls[0])
        # On a server it is cheaper to see that there is nothing at all than to make it anew.
        again = not place.server_url or number % 8 == 0
        found.add(before := database.upgrade()[0] if again else database.revision())
        if made := again or before is not None:
            assert database.revision() == SCHEMA_REVISION
            assert database.differences() == []
        else:
            assert inspect(database.engine).get_table_names() == []
        database.close()
    assert found == {None, SCHEMA_REVISION}
    with place.open() as registry:
        assert registry.register("summary", adapters[0], base=tiny_base).version.number == 1
        assert check_sound(registry, adapters) == 1
