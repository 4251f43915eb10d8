"""What every object store must do: one suite that each of them runs."""

import hashlib
import threading
from datetime import UTC, datetime, timedelta

import pytest

from dovetail.errors import DigestMismatch, InvalidInput, InvalidPayload, StorageError
from dovetail.registry.objects import LocalObjectStore, MemoryObjectStore, open_object_store

DATA = b"the weights"
NO_DIGESTS = ["", "abc", "sha256:", "sha256:" + "0" * 63, "sha256:" + "A" * 64, "../../etc/passwd",
              "sha256:" + "0" * 64 + "\n", "sha256:../../../../etc/" + "0" * 49]  # fmt: skip


def digest_of(data):
    """Name a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read(store, digest):
    """Read a blob whole."""
    with store.open(digest) as stream:
        return stream.read()


class ObjectStoreConformance:
    """The behaviour that `dovetail.registry.objects.ObjectStore` promises."""

    @pytest.fixture
    def store(self):
        """An empty store."""
        raise NotImplementedError

    def test_bytes_come_back_as_they_went_in(self, store):
        """A blob written from bytes is read, sized and listed."""
        before = datetime.now(UTC) - timedelta(seconds=5)
        assert store.put(digest_of(DATA), DATA) is True
        assert read(store, digest_of(DATA)) == DATA
        assert store.size(digest_of(DATA)) == len(DATA)
        (info,) = store.blobs()
        assert (info.digest, info.size) == (digest_of(DATA), len(DATA))
        assert before <= info.modified_at <= datetime.now(UTC) + timedelta(seconds=5)

    def test_a_file_comes_back_as_it_went_in(self, store, tmp_path):
        """A blob written from a file is its copy: the file may change or go afterwards."""
        source = tmp_path / "source"
        source.write_bytes(DATA * 300_000)  # several chunks
        assert store.put(digest_of(DATA * 300_000), source) is True
        source.unlink()
        assert read(store, digest_of(DATA * 300_000)) == DATA * 300_000

    def test_an_empty_blob_is_a_blob(self, store):
        """No bytes are bytes too."""
        assert store.put(digest_of(b""), b"") is True
        assert read(store, digest_of(b"")) == b""
        assert store.size(digest_of(b"")) == 0

    def test_writing_what_is_there_says_so(self, store):
        """The second time gives False and changes nothing."""
        assert store.put(digest_of(DATA), DATA) is True
        assert store.put(digest_of(DATA), DATA) is False
        assert read(store, digest_of(DATA)) == DATA
        assert len(list(store.blobs())) == 1

    @pytest.mark.parametrize("form", ["bytes", "file"])
    def test_bytes_of_another_digest_are_refused(self, store, tmp_path, form):
        """A blob's name is the hash of its bytes, or nothing is written."""
        source = tmp_path / "source"
        source.write_bytes(DATA)
        with pytest.raises(DigestMismatch) as caught:
            store.put(digest_of(b"other"), DATA if form == "bytes" else source)
        assert caught.value.found == digest_of(DATA)
        assert caught.value.expected == digest_of(b"other")
        assert list(store.blobs()) == []
        assert store.size(digest_of(b"other")) is None

    def test_bytes_of_another_digest_are_refused_though_the_blob_is_there(self, store):
        """Whether a blob is there already does not change what may be written as it."""
        store.put(digest_of(DATA), DATA)
        with pytest.raises(DigestMismatch):
            store.put(digest_of(DATA), b"other")
        assert read(store, digest_of(DATA)) == DATA

    def test_a_source_that_is_gone_is_an_invalid_payload(self, store, tmp_path):
        """A file that vanished after it was checked is named."""
        with pytest.raises(InvalidPayload, match="vanished"):
            store.put(digest_of(DATA), tmp_path / "vanished")
        assert list(store.blobs()) == []

    def test_a_missing_blob_is_a_storage_error(self, store):
        """Opening what is not there names the digest; its size is None."""
        with pytest.raises(StorageError, match=digest_of(DATA)) as caught:
            store.open(digest_of(DATA))
        assert caught.value.digest == digest_of(DATA)
        assert store.size(digest_of(DATA)) is None

    def test_a_deleted_blob_is_gone_and_may_come_back(self, store):
        """Deleting twice is no error, and the same bytes may be written again."""
        store.put(digest_of(DATA), DATA)
        store.delete(digest_of(DATA))
        store.delete(digest_of(DATA))
        assert store.size(digest_of(DATA)) is None
        assert list(store.blobs()) == []
        assert store.put(digest_of(DATA), DATA) is True

    def test_every_blob_is_listed_once(self, store):
        """The listing has each blob, whatever its first digits."""
        blobs = {digest_of(bytes([code])) for code in range(200)}
        for code in range(200):
            store.put(digest_of(bytes([code])), bytes([code]))
        listed = [info.digest for info in store.blobs()]
        assert sorted(listed) == sorted(blobs)

    def test_an_empty_store_lists_nothing(self, store):
        """A store that was never written to is empty, not broken."""
        assert list(store.blobs()) == []

    @pytest.mark.parametrize("digest", NO_DIGESTS)
    @pytest.mark.parametrize("call", ["put", "open", "size", "delete"])
    def test_what_is_no_digest_is_refused(self, store, call, digest):
        """No other text reaches the medium, least of all one that climbs out of a folder."""
        with pytest.raises(InvalidInput, match="is no digest"):
            getattr(store, call)(digest, *([DATA] if call == "put" else []))

    def test_a_reader_keeps_what_it_opened(self, store):
        """A blob that is deleted while it is read is read to its end."""
        store.put(digest_of(DATA), DATA)
        with store.open(digest_of(DATA)) as stream:
            store.delete(digest_of(DATA))
            assert stream.read() == DATA

    def test_many_writers_of_one_blob_agree(self, store):
        """Threads that write the same bytes at once all succeed, and one blob is there."""
        data = DATA * 10_000
        barrier = threading.Barrier(8)
        failures = []

        def write():
            barrier.wait()
            try:
                store.put(digest_of(data), data)
            except Exception as error:  # noqa: BLE001 (whatever it is, it failed)
                failures.append(error)

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert read(store, digest_of(data)) == data
        assert len(list(store.blobs())) == 1


class TestMemoryObjectStore(ObjectStoreConformance):
    """Blobs in memory."""

    @pytest.fixture
    def store(self):
        """An empty store."""
        return MemoryObjectStore()


class TestLocalObjectStore(ObjectStoreConformance):
    """Blobs in a directory."""

    @pytest.fixture
    def store(self, tmp_path):
        """An empty store, whose folder is not there yet."""
        return LocalObjectStore(tmp_path / "a folder" / "objects")

    def test_its_url_opens_it_again(self, store):
        """The URL leads to the same blobs, spaces and all."""
        store.put(digest_of(DATA), DATA)
        assert read(open_object_store(store.url), digest_of(DATA)) == DATA

    def test_a_blob_cannot_be_written_to(self, store):
        """A blob's file has no write permission for anybody."""
        store.put(digest_of(DATA), DATA)
        assert store.path(digest_of(DATA)).stat().st_mode & 0o222 == 0

    def test_nothing_is_left_of_a_refused_blob(self, store):
        """What was half written is gone when the digest is wrong."""
        with pytest.raises(DigestMismatch):
            store.put(digest_of(b"other"), DATA)
        assert [path for path in store.directory.rglob("*") if path.is_file()] == []

    def test_other_files_are_no_blobs(self, store):
        """Leftovers of killed writers, and what people put there, are not listed."""
        store.put(digest_of(DATA), DATA)
        (store.directory / "tmp" / "put-left").write_bytes(b"half")
        path = store.path(digest_of(DATA))
        path.with_name(f"{path.name}.bak").write_bytes(b"bad")
        assert [info.digest for info in store.blobs()] == [digest_of(DATA)]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3x://bucket", "unknown scheme 's3x'"),
        ("objects", "unknown scheme ''"),
        ("file://host/folder", "names a host"),
        ("file:folder", "three slashes"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(url, words):
    """The message says what is wrong with the URL and how to write one."""
    with pytest.raises(InvalidInput, match=words):
        open_object_store(url)
