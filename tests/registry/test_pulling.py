"""Pulling: only what is lacking is fetched, into the cache or real copies, verified."""

import shutil

import pytest

from dovetail.errors import ConflictError, DigestMismatch, StorageError, VersionNotFound
from dovetail.registry import statcache
from dovetail.registry.database import Database
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.store import Registry
from dovetail.settings import Settings

WEIGHTS = "adapter_model.safetensors"


class FarStore(LocalObjectStore):
    """A store that is not on this machine, as far as anybody can tell; it notes what is read."""

    url = "far://store"

    def __init__(self, directory):
        super().__init__(directory)
        self.read = []

    def fetch(self, digest, target, *, progress=None):
        """Note and fetch."""
        self.read.append(digest)
        super().fetch(digest, target, progress=progress)


def open_far(place, *, cache=None, limit=10**9):
    """Open a registry whose blobs are far away."""
    database = Database(place.urls[0])
    database.prepare()
    settings = Settings(
        database_url=place.urls[0],
        objects_url=place.urls[1],
        cache_dir=cache or place.cache,
        actor="ann",
        cache_size=limit,
    )
    return Registry(database, FarStore(place.objects), settings)


@pytest.fixture
def far(place, summary):
    """The registry ``summary`` with its blobs far away."""
    with open_far(place) as opened:
        yield opened


def read(registry):
    """Return what was read from the far store since the last time."""
    store = registry._context.objects
    digests, store.read = store.read, []
    return sorted(digests)


def digests(*versions):
    """Return the digests of versions' files, each once."""
    return sorted({file.digest for version in versions for file in version.files})


def contents(folder):
    """Return the names and bytes of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected(place, version):
    """Return the names and bytes of a version's files as they were registered."""
    store = LocalObjectStore(place.objects)
    return {file.path: store.path(file.digest).read_bytes() for file in version.files}


@pytest.mark.parametrize("copy", [False, True])
def test_nothing_is_fetched_twice(place, far, tmp_path, copy):
    """Shared or as a real copy, the first pull fills the cache and the second moves no byte."""
    version = far.resolve("summary/1")
    far.pull("summary/1", tmp_path / "first" if copy else None)
    assert read(far) == digests(version)
    for to in (None, tmp_path / "second"):
        pulled = far.pull("summary/1", to, progress=lambda *_: pytest.fail("nothing is moved"))
        assert contents(pulled) == expected(place, version)
    with open_far(place) as other:
        other.pull("summary/1")
        assert read(other) == read(far) == []


def test_only_lacking_blobs_are_fetched(far):
    """What another version brought is there already."""
    first, second = far.resolve("summary/1"), far.resolve("summary/2")
    far.pull("summary/1")
    read(far)
    far.pull("summary/2")
    assert read(far) == sorted(set(digests(second)) - set(digests(first)))


def test_a_real_copy_is_ones_own(place, far, tmp_path):
    """It may be written to: neither the cache nor the store shares a byte with it."""
    pulled = far.pull("summary/1", tmp_path / "mine")
    before = place.files()
    for path in pulled.iterdir():
        assert path.stat().st_nlink == 1
        with path.open("ab") as file:
            file.write(b"changed")
    assert place.files() == before
    assert contents(far.pull("summary/1")) == expected(place, far.resolve("summary/1"))
    read(far)
    far.pull("summary/1")
    assert read(far) == []


def test_from_a_store_on_this_machine_no_second_copy_is_kept(place, summary, tmp_path):
    """A real copy is made from the store, and the cache stays empty."""
    summary.pull("summary/1", tmp_path / "mine")
    assert list(place.cache.glob("payloads/*")) == []
    assert list(place.cache.glob("blobs/*")) == []


def test_progress_counts_what_is_fetched(far):
    """From the first byte to the last, and only those that are moved."""
    first, second = far.resolve("summary/1"), far.resolve("summary/2")
    far.pull("summary/1")
    calls = []
    far.pull("summary/2", progress=lambda *done: calls.append(done))
    new = {file.digest: file.size for file in second.files}
    total = sum(size for digest, size in new.items() if digest not in digests(first))
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)


def test_many_are_pulled_at_once(place, far, tmp_path):
    """In the order asked for, each blob fetched once, as shared or as real copies."""
    references = ["summary/2", "summary@latest", "summary/1", "summary/2"]
    versions = [far.resolve(reference) for reference in references]
    pulled = far.pull_many(references)
    assert [one.version for one in pulled] == versions
    assert [one.payload_digest for one in pulled] == [v.payload_digest for v in versions]
    assert not any(one.offline for one in pulled)
    assert pulled[0].how == "summary/2, as the database says"
    assert read(far) == digests(*versions)
    copies = far.pull_many(references, [tmp_path / str(number) for number in range(4)])
    for one, copy, version in zip(pulled, copies, versions, strict=True):
        assert contents(one.path) == contents(copy.path) == expected(place, version)
    assert far.pull_many([]) == []


def test_a_digest_names_any_version_that_has_the_payload(far, tmp_path):
    """As long as one of them is not deleted."""
    version = far.resolve("summary/2")
    assert far.pull(version.payload_digest) == far.pull("summary/2")
    far.register("other", far.pull("summary/2", tmp_path / "copy"), base="tiny")
    far.delete("summary/2")
    assert far.pull_many([version.payload_digest])[0].version.name == "other"
    far.delete("other/1")
    with pytest.raises(VersionNotFound, match=version.payload_digest):
        far.pull(version.payload_digest)


def test_a_shared_copy_stays_while_its_registry_is_open(place, far):
    """However little room there is, and whoever needs it."""
    held = far.pull("summary/1")
    for number in (2, 3, 2):
        with open_far(place, limit=0) as other:
            other.pull(f"summary/{number}")
    assert contents(held) == expected(place, far.resolve("summary/1"))
    far.close()
    with open_far(place, limit=0) as other:
        other.pull("summary/3")
    assert not held.exists()


def test_bytes_that_rotted_unseen_are_not_copied(place, far, tmp_path):
    """A cached file that changed under unchanged times is found when it is copied from."""
    version = far.resolve("summary/1")
    cached = far.pull("summary/1")
    data = bytearray((cached / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (cached / WEIGHTS).chmod(0o644)
    (cached / WEIGHTS).write_bytes(data)
    statcache.store(  # as if the file's times were those it had when it was hashed
        place.cache / "verified" / cached.name,
        statcache.stamps(cached.iterdir()),
        version.payload_digest.encode(),
        settled=True,
    )
    assert contents(far.pull("summary/1")) != expected(place, version)
    assert contents(far.pull("summary/1", tmp_path / "mine")) == expected(place, version)
    assert contents(far.pull("summary/1")) == expected(place, version)


def test_a_list_of_files_that_was_tampered_with_is_noticed(place, summary, tmp_path):
    """Files that do not make up the payload that was registered are not handed out."""
    config = "adapter_config.json"
    assert place.execute("UPDATE files SET path = 'README.md' WHERE path = ?", config)
    for to in (None, tmp_path / "mine"):
        with pytest.raises(DigestMismatch, match="the list of summary/1's files is corrupt"):
            summary.pull("summary/1", to)
    assert not (tmp_path / "mine").exists()


def test_without_a_usable_cache_real_copies_are_made(place, summary, tmp_path):
    """What cannot be cached is fetched all the same; a shared copy cannot be had."""
    (tmp_path / "cache").write_text("a file")
    with open_far(place, cache=tmp_path / "cache") as far:
        pulled = far.pull("summary/1", tmp_path / "mine")
        assert contents(pulled) == expected(place, far.resolve("summary/1"))
        with pytest.raises(StorageError, match="cannot write summary/1 to"):
            far.pull("summary/1")


def test_a_directory_with_something_in_it_is_left_alone(far, tmp_path):
    """It is a conflict, found before anything is fetched."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    for to in (tmp_path / "mine", tmp_path / "mine" / "file"):
        with pytest.raises(ConflictError):
            far.pull("summary/1", to)
    assert read(far) == []
    (tmp_path / "empty").mkdir()
    assert len(contents(far.pull("summary/1", tmp_path / "empty"))) == 2


def test_corrupt_blobs_of_a_far_store_get_nowhere(place, far, tmp_path):
    """Neither into the cache nor into the directory."""
    version = far.resolve("summary/1")
    digest = next(file.digest for file in version.files if file.path == WEIGHTS)
    path = LocalObjectStore(place.objects).path(digest)
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for to in (None, tmp_path / "targets" / "mine"):
        with pytest.raises(DigestMismatch, match=f"{WEIGHTS} of summary/1 is corrupt"):
            far.pull("summary/1", to)
    assert not (tmp_path / "targets").exists()
    for name in ("payloads", "blobs", "tmp"):
        assert [path for path in (place.cache / name).rglob("*") if path.is_file()] == []


def test_killed_at_every_step_a_pull_can_be_done_again(place, summary, children, killing, quick):
    """What a killed pull leaves behind stands in nobody's way, and a directory is whole or not."""
    version = summary.resolve("summary/1")
    summary.close()
    whole = expected(place, version)
    cache, mine = quick / "cache", quick / "mine"

    def prepare():
        for folder in (cache, mine):
            shutil.rmtree(folder, ignore_errors=True)

    def pull(step):
        with open_far(place, cache=cache) as far:
            step.watch_process()
            far.pull("summary/1", mine)

    for _ in killing.kill_at_every_step(children, prepare, pull):
        if mine.exists():
            assert contents(mine) == whole
            shutil.rmtree(mine)
        with open_far(place, cache=cache) as far:
            assert contents(far.pull("summary/1", mine)) == whole
            far.pull("summary/2")
        assert list((cache / "tmp").iterdir()) == []
