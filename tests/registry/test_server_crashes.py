"""Servers that crash in the middle of many publishers: nothing acknowledged is lost."""

import os
import random
import time
from datetime import timedelta

import pytest

from dovetail.errors import StorageError

pytestmark = [pytest.mark.heavy, pytest.mark.backends("postgresql+radosgw")]
PUBLISHERS, EACH, CRASHES = 8, 25, 2
NOW, LATER = timedelta(0), -timedelta(hours=1)
ACKNOWLEDGED, DATABASE, OBJECTS = b".", b"d", b"o"


@pytest.mark.parametrize("seed", [1, 2])
def test_crashing_servers_lose_nothing_that_was_acknowledged(
    place, children, postgres_server, rados_gateway, make, tmp_path, tiny_base, seed
):
    """PostgreSQL stopped at once and the gateway killed, at random moments; both come back."""
    adapters = [
        [make.prompt(tmp_path / f"{who}-{turn}", seed=EACH * who + turn) for turn in range(EACH)]
        for who in range(PUBLISHERS)
    ]
    with place.open() as registry:
        registry.register_base(tiny_base, name="tiny")
    reader, writer = os.pipe()

    def publish(who):
        errors, numbers = [], []

        def insist(action, *arguments, **options):
            while True:
                try:
                    return action(*arguments, **options)
                except StorageError as error:
                    errors.append(str(error))
                    os.write(writer, OBJECTS if "object store" in str(error) else DATABASE)
                    time.sleep(0.05)  # as somebody does who tries again

        with insist(place.open, actor=f"publisher-{who}") as registry:
            for source in adapters[who]:
                made = insist(registry.register, "summary", source, base="tiny")
                numbers.append(made.version.number)
                os.write(writer, ACKNOWLEDGED)
        return {"errors": errors, "numbers": numbers}

    def wait_for(news, count=1):
        while count:
            told = os.read(reader, 1)
            assert told, "the publishers are gone"
            count -= told == news

    def crash():
        os.close(writer)  # what is read ends when the last publisher does
        chance = random.Random(seed)  # noqa: S311
        crashes = [
            (lambda: postgres_server.stop(mode="immediate"), DATABASE, postgres_server.start),
            (rados_gateway.kill, OBJECTS, rados_gateway.start),
        ] * CRASHES
        chance.shuffle(crashes)
        for stop, error, start in crashes:
            wait_for(ACKNOWLEDGED, chance.randrange(5, 25))
            stop()
            try:
                wait_for(error)  # so it did hit somebody
            finally:
                start()

    tasks = [lambda who=who: publish(who) for who in range(PUBLISHERS)]
    finished = children.run_all(tasks, meanwhile=crash)
    os.close(reader)
    assert [child.code for child in finished] == [0] * PUBLISHERS, finished
    check_errors([child.result["errors"] for child in finished])
    check_whole(place, numbered([child.result["numbers"] for child in finished], adapters))


def check_errors(told):
    """Check that every error says what could not be done, and what to do."""
    for error in {error for errors in told for error in errors}:
        assert error.startswith("cannot "), error
        assert "; " in error, error


def numbered(numbers, adapters):
    """Return the source of every version that a publisher got the number of."""
    return {
        number: source
        for given, own in zip(numbers, adapters, strict=True)
        for number, source in zip(given, own, strict=True)
    }


def check_whole(place, sources):
    """Check that all versions are there with their bytes, and the history unbroken."""
    assert sorted(sources) == list(range(1, PUBLISHERS * EACH + 1))
    place.execute("UPDATE intents SET expires_at = ?", "2026-01-01 00:00:00")
    with place.open() as registry:
        registry.collect_garbage(grace=NOW, unfinished_after=LATER)
        verified = registry.verify()
        assert (verified.sound, verified.orphaned, verified.announced) == (True, (), ())
        registered = [e.number for e in registry.history() if e.action == "register"]
        assert registered == sorted(sources)
        assert registry.broken_history() is None
        for number, source in sources.items():
            for path in registry.pull(f"summary/{number}").iterdir():
                assert path.read_bytes() == (source / path.name).read_bytes()
