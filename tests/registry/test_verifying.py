"""Verification finds what is missing and what is corrupt, and repairs it from a copy."""

import shutil
from datetime import UTC, datetime

import pytest

from dovetail.errors import InvalidInput, NotFoundError, StorageError
from dovetail.registry.digests import digest_bytes
from dovetail.registry.inserting import insert_blobs
from dovetail.registry.intents import announced
from dovetail.registry.objects import LocalObjectStore, open_object_store

EVERYWHERE = pytest.mark.backends("sqlite+local", "postgresql+radosgw")


@pytest.fixture
def objects(place, summary):
    """The object store of the registry."""
    return open_object_store(place.urls[1])


@pytest.fixture
def copy(summary_files, tmp_path):
    """Another object store with the same blobs."""
    shutil.copytree(summary_files / "objects", tmp_path / "copy")
    return LocalObjectStore(tmp_path / "copy")


def files_of(registry, reference):
    """Return a version's files by path."""
    return {file.path: file for file in registry.resolve(reference).files}


def damage(place, objects, digest, data=None):
    """Put other bytes of the same length under a blob's name, behind the store's back."""
    if data is None:
        with objects.open(digest) as stream:
            whole = stream.read()
        data = bytes([whole[0] ^ 1]) + whole[1:]
    if place.bucket:
        digits = digest.removeprefix("sha256:")
        keys = [key for key in place.bucket.contents() if key.replace("/", "").endswith(digits)]
        place.bucket.client().put_object(Bucket=place.bucket.name, Key=keys[0], Body=data)
    else:
        path = LocalObjectStore(place.objects).path(digest)
        path.unlink()
        path.write_bytes(data)


@EVERYWHERE
def test_a_sound_registry_verifies(summary, measure):
    """Every blob is read: files, the base model's manifest and the scores of examples."""
    measure("summary/1", [0.5] * 12)
    found = summary.verify()
    assert found.sound
    assert found.checked == 2 * 3 - 2 + 1 + 1  # the configuration is the same in all three
    assert (found.orphaned, found.announced, found.repaired) == ((), (), ())


@EVERYWHERE
def test_missing_and_corrupt_blobs_are_told_with_what_needs_them(place, summary, measure, objects):
    """A blob that several versions share names them all; the base and evaluations are named."""
    examples = measure("summary/2", [0.25] * 12).examples_digest
    files = files_of(summary, "summary/1")
    manifest = summary.base_model("tiny").manifest_digest
    config, weights = files["adapter_config.json"], files["adapter_model.safetensors"]
    objects.delete(config.digest)
    objects.delete(manifest)
    damage(place, objects, weights.digest)
    damage(place, objects, examples, b"short")
    found = summary.verify()
    assert not found.sound
    assert {blob.digest: blob.named_by for blob in found.missing} == {
        config.digest: tuple(f"summary/{number} adapter_config.json" for number in (1, 2, 3)),
        manifest: ("base model tiny",),
    }
    assert {blob.digest: blob.named_by for blob in found.corrupt} == {
        weights.digest: ("summary/1 adapter_model.safetensors",),
        examples: ("evaluation of summary/2 on test",),
    }
    assert all("its bytes hash to sha256:" in blob.detail for blob in found.corrupt)


def test_a_recorded_size_that_is_wrong_is_corrupt(place, summary):
    """Though the bytes are right."""
    file = files_of(summary, "summary/1")["adapter_model.safetensors"]
    place.execute("UPDATE blobs SET size = size + 1 WHERE digest = ?", file.digest)
    (blob,) = summary.verify().corrupt
    assert blob.detail == f"{file.size + 1:,} bytes are recorded, it has {file.size:,}"


def test_one_reference_is_verified_alone(place, summary, measure, objects):
    """With its base model's manifest and its evaluations; deleted versions, too."""
    measure("summary/1", [0.5] * 12)
    summary.delete("summary/2")
    damaged = files_of(summary, "summary/1")["adapter_model.safetensors"].digest
    damage(place, objects, damaged)
    assert [blob.digest for blob in summary.verify("summary/1").corrupt] == [damaged]
    assert summary.verify("summary/1").checked == 4
    assert summary.verify("summary/2").sound
    assert summary.verify("summary@latest").checked == 3
    with pytest.raises(NotFoundError):
        summary.verify("summary/9")


def test_a_sample_reads_some_blobs(summary, objects):
    """A number of them, or a part, rounded up; what is garbage is not looked for."""
    objects.put(digest_bytes(b"garbage"), b"garbage")
    assert summary.verify(sample=2).checked == 2
    assert summary.verify(sample=0.01).checked == 1
    assert summary.verify(sample=0.5).checked == 3
    assert summary.verify(sample=1.0).checked == summary.verify(sample=99).checked == 5
    assert summary.verify(sample=99).orphaned == ()


def test_a_sample_is_not_always_the_same(summary):
    """So that many small samples find in time what is wrong anywhere."""
    seen = []
    for _ in range(40):
        summary.verify(sample=1, progress=lambda _done, total: seen.append(total))
    assert len(set(seen)) > 1


@pytest.mark.parametrize("sample", [0, -1, 0.0, 1.5, float("nan"), float("inf")])
def test_a_sample_of_nothing_is_refused(summary, sample):
    """As is one of more than all."""
    with pytest.raises(InvalidInput, match="sample"):
        summary.verify(sample=sample)


def test_a_sample_of_a_reference_is_refused(summary):
    """It is one or the other."""
    with pytest.raises(InvalidInput, match="sample"):
        summary.verify("summary/1", sample=1)


@EVERYWHERE
def test_blobs_that_nothing_names_are_orphaned_or_announced(summary, objects):
    """What somebody is just publishing is no orphan, and neither is a fault."""
    objects.put(digest_bytes(b"garbage"), b"garbage")
    objects.put(digest_bytes(b"soon"), b"soon")
    with announced(summary._context, [digest_bytes(b"soon")], purpose="test"):
        found = summary.verify()
    assert [blob.digest for blob in found.orphaned] == [digest_bytes(b"garbage")]
    assert [blob.digest for blob in found.announced] == [digest_bytes(b"soon")]
    assert found.sound


@EVERYWHERE
def test_bad_blobs_are_repaired_from_another_store(place, summary, objects, copy, tmp_path):
    """They are as they were; the history says who did it and from where."""
    before = place.files()
    files = files_of(summary, "summary/1")
    damage(place, objects, files["adapter_model.safetensors"].digest)
    objects.delete(files["adapter_config.json"].digest)
    found = summary.verify(repair_from=copy.url)
    assert found.sound
    assert {blob.problem for blob in found.repaired} == {"missing", "corrupt"}
    assert place.files() == before
    assert summary.verify().sound
    event = summary.history()[-1]
    size = sum(file.size for file in files.values())
    assert (event.action, event.actor) == ("repair", "tester")
    assert event.details == {"blobs": 2, "bytes": size, "from": copy.url}
    assert summary.pull("summary/1", tmp_path / "out")


def test_what_the_other_store_lacks_or_has_corrupt_is_told(place, summary, objects, copy):
    """The rest is repaired, and what was bad is left as it was."""
    wanted = [files_of(summary, f"summary/{number}") for number in (1, 2, 3)]
    lacking, corrupt, good = (files["adapter_model.safetensors"].digest for files in wanted)
    for digest in (lacking, corrupt, good):
        damage(place, objects, digest)
    copy.delete(lacking)
    copy.path(corrupt).chmod(0o644)
    copy.path(corrupt).write_bytes(b"also bad")
    before = objects.path(corrupt).read_bytes()
    found = summary.verify(repair_from=copy)
    assert [blob.digest for blob in found.repaired] == [good]
    details = {blob.digest: blob.detail for blob in found.corrupt}
    assert f"nor in {copy.url}" in details[lacking]
    assert "is corrupt, too" in details[corrupt]
    assert objects.path(corrupt).read_bytes() == before


def test_nothing_to_repair_writes_no_history(summary, copy):
    """Looking is no event."""
    before = summary.history()
    assert summary.verify(repair_from=copy).repaired == ()
    assert summary.history() == before


def test_a_wrong_record_is_not_repaired_by_good_bytes(place, summary, copy):
    """What the database says is wrong, so it is told."""
    file = files_of(summary, "summary/1")["adapter_model.safetensors"]
    place.execute("UPDATE blobs SET size = size + 1 WHERE digest = ?", file.digest)
    found = summary.verify(repair_from=copy)
    assert [blob.digest for blob in found.corrupt] == [file.digest]
    assert found.repaired == ()


def test_an_empty_store_is_taken_for_one_that_is_not_there(place, summary, copy):
    """A disk that is not mounted is no loss; but the store can be filled from a copy."""
    shutil.rmtree(place.objects)
    with pytest.raises(StorageError, match=r"is empty.*mounted.*--repair-from"):
        summary.verify()
    assert summary.verify(repair_from=copy).sound


@pytest.mark.backends("sqlite+radosgw")
def test_a_store_that_cannot_be_reached_is_no_missing_blob(
    place, summary, monkeypatch, rados_gateway
):
    """It is an error of the storage."""
    monkeypatch.setenv("DOVETAIL_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with place.open() as registry, pytest.raises(StorageError, match="cannot"):
        registry.verify()


def test_a_file_that_cannot_be_read_is_corrupt(place, summary, objects):
    """A failing disk takes one blob, not the whole look around."""
    digest = files_of(summary, "summary/1")["adapter_model.safetensors"].digest
    path = objects.path(digest)
    path.unlink()
    path.symlink_to("/proc/self/mem")  # opens, and fails when read
    (blob,) = summary.verify().corrupt
    assert blob.digest == digest
    assert "cannot be read" in blob.detail


def test_all_pages_of_blobs_are_read(place, store):
    """More than are looked up at once."""
    rows = {digest_bytes(str(index).encode()): str(index).encode() for index in range(1_203)}
    objects = open_object_store(place.urls[1])
    for digest, data in rows.items():
        objects.put(digest, data)
    sizes = {digest: len(data) for digest, data in rows.items()}
    store._context.database.write(lambda c: insert_blobs(c, sizes, now=datetime.now(UTC)))
    seen = []
    found = store.verify(progress=lambda done, total: seen.append((done, total)))
    assert (found.checked, found.sound, found.orphaned) == (1_203, True, ())
    total = sum(map(len, rows.values()))
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
