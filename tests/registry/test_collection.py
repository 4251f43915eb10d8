"""Garbage collection: what nothing names goes, after a while, and nothing else."""

from datetime import timedelta

import pytest

from dovetail.errors import StorageError
from dovetail.registry.digests import digest_bytes
from dovetail.registry.intents import LEASE, announced, publish
from dovetail.registry.objects import open_object_store

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+moto")
NOW = timedelta(0)
DATA = b"nobody's"
DIGEST = digest_bytes(DATA)


@pytest.fixture
def objects(place):
    """The place's blobs."""
    return open_object_store(place.urls[1])


@pytest.fixture
def used(place, make, tmp_path, tiny_base):
    """A registry of two versions, one of them deleted, and an evaluated base model."""
    with place.open() as registry:
        for seed in (1, 2):
            registry.register(
                "summary", make.prompt(tmp_path / str(seed), seed=seed), base=tiny_base
            )
        registry.delete("summary/2")
        yield registry


def digests(objects):
    """Return which blobs are there."""
    return {blob.digest for blob in objects.blobs()}


def expire(place):
    """Let every lease have run out."""
    place.execute("UPDATE intents SET expires_at = ?", "2026-01-01 00:00:00")


def marked_long_ago(place):
    """Let every mark be old."""
    place.execute("UPDATE garbage SET marked_at = ?", "2026-01-01 00:00:00")


def test_a_blob_is_marked_first_and_deleted_when_its_grace_is_over(used, place, objects):
    """The first run marks, an early second one waits, a late one deletes."""
    named = digests(objects)
    objects.put(DIGEST, DATA)
    first = used.collect_garbage()
    assert (first.deleted, [item.digest for item in first.waiting]) == ((), [DIGEST])
    second = used.collect_garbage()
    assert second.waiting == first.waiting
    assert digests(objects) == {*named, DIGEST}
    marked_long_ago(place)
    third = used.collect_garbage()
    assert [(item.digest, item.size) for item in third.deleted] == [(DIGEST, len(DATA))]
    assert (third.bytes_deleted, third.waiting) == (len(DATA), ())
    assert digests(objects) == named
    assert used.collect_garbage(grace=NOW).deleted == ()


def test_what_is_named_is_never_collected(used, place, objects):
    """Payloads, deleted versions' too, manifests and examples stay whatever the grace."""
    before = place.state()
    done = used.collect_garbage(grace=NOW, unfinished_after=NOW)
    assert (done.deleted, done.waiting, done.unfinished, done.expired_intents) == ((), (), (), 0)
    assert place.state() == before
    assert used.pull("summary/1").is_dir()
    assert used.restore("summary/2").number == 2
    assert used.pull("summary/2").is_dir()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(used, place, objects):
    """It lists blobs to delete and to mark, and changes neither rows nor blobs."""
    objects.put(DIGEST, DATA)
    with announced(used._context, [DIGEST], purpose="test"):
        expire(place)
        before = place.state()
        done = used.collect_garbage(grace=NOW, dry_run=True)
        assert [item.digest for item in done.deleted] == [DIGEST]
        assert (done.expired_intents, done.dry_run) == (1, True)
        later = used.collect_garbage(dry_run=True)
        assert [item.digest for item in later.waiting] == [DIGEST]
        assert place.state() == before


def test_an_intent_protects_until_its_lease_is_over(used, place, objects):
    """What somebody announced is neither marked nor deleted; when the lease is over it is."""
    with announced(used._context, [DIGEST], purpose="test"):
        objects.put(DIGEST, DATA)
        assert used.collect_garbage(grace=NOW).deleted == ()
        expire(place)
        done = used.collect_garbage(grace=NOW)
        assert (done.expired_intents, [item.digest for item in done.deleted]) == (1, [DIGEST])
    assert DIGEST not in digests(objects)


def test_an_intent_protects_what_was_marked_before(used, place, objects):
    """A mark is looked at again under the lock: announced since then, the blob stays."""
    objects.put(DIGEST, DATA)
    used.collect_garbage()
    marked_long_ago(place)
    with announced(used._context, [DIGEST], purpose="test") as intent:
        assert used.collect_garbage(grace=NOW).deleted == ()
        used._context.database.write(intent.close)
    assert DIGEST in digests(objects)
    # It was not garbage in between, so its time begins anew.
    assert [item.digest for item in used.collect_garbage().waiting] == [DIGEST]


def test_a_publisher_who_outlives_the_lease_starts_again(used, place, objects):
    """Collected while uploading, it finds its intent gone, and writes its blobs once more."""
    attempts = []

    def commit(connection):
        assert DIGEST in digests(objects)
        return "done"

    def collected(done, total):
        # Between the upload and the transaction, on the first attempt alone.
        if done == total and not attempts:
            attempts.append(done)
            expire(place)
            with place.open() as other:
                removed = other.collect_garbage(grace=NOW)
                assert removed.expired_intents == 1

    result = publish(
        used._context, {DIGEST: DATA}, purpose="test", commit=commit, progress=collected
    )
    assert (result, attempts) == ("done", [len(DATA)])


def test_a_publisher_who_fails_leaves_no_intent(used, place):
    """The blobs of a registration that was refused at the end are garbage at once."""

    def commit(connection):
        raise StorageError("the disk is full")

    with pytest.raises(StorageError, match="the disk is full"):
        publish(used._context, {DIGEST: DATA}, purpose="test", commit=commit)
    assert place.rows()["intents"] == place.rows()["intent_blobs"] == []
    assert [item.digest for item in used.collect_garbage(grace=NOW).deleted] == [DIGEST]


def test_a_long_upload_renews_its_lease(used, place, objects):
    """While bytes move, the end of the lease moves too."""
    ends = []

    def look(done, total):
        with place.open() as other, other._context.database.reading() as connection:
            ends.append(str(connection.exec_driver_sql("SELECT expires_at FROM intents").scalar()))

    with announced(used._context, [DIGEST], purpose="test") as intent:
        look(0, 0)
        intent.renew(used._context)
        look(0, 0)
    assert ends[1] > ends[0]
    assert timedelta(hours=1) < LEASE


def test_the_history_says_what_was_collected(used, objects):
    """Who collected how many blobs of how many bytes is an event; a run without any is none."""
    before = len(used.history())
    used.collect_garbage(grace=NOW)
    assert len(used.history()) == before
    objects.put(DIGEST, DATA)
    used.collect_garbage(grace=NOW)
    last = used.history()[-1]
    assert (last.action, last.actor) == ("gc", "tester")
    assert last.details == {"blobs": 1, "bytes": len(DATA)}
    assert used.broken_history() is None


@pytest.mark.backends("sqlite+local")
def test_collecting_many_blobs_reports_how_far_it_is(used, objects):
    """More blobs than one lock is held for go in several batches."""
    for number in range(1100):
        data = str(number).encode()
        objects.put(digest_bytes(data), data)
    seen = []
    done = used.collect_garbage(grace=NOW, progress=lambda *counts: seen.append(counts))
    assert len(done.deleted) == 1100
    assert seen == [(500, 1100), (1000, 1100), (1100, 1100)]


def test_unfinished_writes_go_when_they_are_old(used, place, objects):
    """A half-written blob is left alone while somebody may be writing it, and then removed."""
    begin_and_stop(place, objects)
    long = timedelta(days=36_500)  # moto says of every upload that it began in 2010
    assert used.collect_garbage(unfinished_after=long).unfinished == ()
    assert len(list(objects.leftovers())) == 1
    listed = used.collect_garbage(unfinished_after=-timedelta(hours=1), dry_run=True).unfinished
    assert len(listed) == 1
    assert used.collect_garbage(unfinished_after=-timedelta(hours=1)).unfinished == listed
    assert list(objects.leftovers()) == []


def begin_and_stop(place, objects):
    """Begin to write a blob, as a process does that is killed meanwhile."""
    if place.bucket:
        key = f"sha256/{DIGEST[7:9]}/{DIGEST[9:]}"
        place.bucket.client().create_multipart_upload(Bucket=place.bucket.name, Key=key)
    else:
        (place.objects / "tmp" / "put-half").write_bytes(b"half")


@pytest.mark.backends("sqlite+local")
def test_the_command_line_says_what_it_did(used, objects, command, capsys):
    """The command marks, lists and deletes, and refuses a length of time that is none."""
    objects.put(DIGEST, DATA)
    assert command("gc", "--dry-run")[0] == 0
    assert command("gc", "--grace", "soon")[0] == 2
    assert command("gc", "--grace", "0s")[0] == 0
    assert DIGEST not in digests(objects)
