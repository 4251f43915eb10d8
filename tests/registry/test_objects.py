"""What every object store must do: one suite that each of them runs."""

import hashlib
import io
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from dovetail.errors import (
    DigestMismatch,
    InvalidInput,
    InvalidPayload,
    MissingDependency,
    StorageError,
)
from dovetail.registry.objects import LocalObjectStore, MemoryObjectStore, open_object_store
from dovetail.registry.objects.s3client import PART_BYTES
from dovetail.registry.objects.transfer import fetch_all, put_all

DATA = b"the weights"
LARGE = os.urandom(2 * PART_BYTES) + b"an odd end"
NO_DIGESTS = ["", "abc", "sha256:", "sha256:" + "0" * 63, "sha256:" + "A" * 64, "../../etc/passwd",
              "sha256:" + "0" * 64 + "\n", "sha256:../../../../etc/" + "0" * 49]  # fmt: skip


def digest_of(data):
    """Name a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read(store, digest):
    """Read a blob whole."""
    with store.open(digest) as stream:
        return stream.read()


class OneWay(io.RawIOBase):
    """A stream that can be read once and gives what it likes, as a network does."""

    def __init__(self, data):
        self._rest = io.BytesIO(data)

    def readable(self):
        """Yes."""
        return True

    def readinto(self, buffer):
        """Give less than was asked for."""
        return self._rest.readinto(memoryview(buffer)[:70_001])


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

    @pytest.mark.parametrize("form", ["bytes", "file", "stream", "one way"])
    def test_a_large_blob_comes_back_as_it_went_in(self, store, tmp_path, form):
        """What is too large for one request is one blob all the same, in whatever form it comes."""
        (tmp_path / "source").write_bytes(LARGE)
        sources = {
            "bytes": LARGE,
            "file": tmp_path / "source",
            "stream": io.BytesIO(LARGE),
            "one way": OneWay(LARGE),
        }
        assert store.put(digest_of(LARGE), sources[form]) is True
        assert store.put(digest_of(LARGE), LARGE) is False
        assert store.size(digest_of(LARGE)) == len(LARGE)
        assert read(store, digest_of(LARGE)) == LARGE
        store.fetch(digest_of(LARGE), tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == LARGE
        assert list(store.leftovers()) == []

    @pytest.mark.parametrize("size", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1])
    def test_sizes_about_that_of_a_part_are_no_different(self, store, tmp_path, size):
        """A blob of just one part, or of one and a byte, comes back as it went in."""
        data = LARGE[:size]
        assert store.put(digest_of(data), data) is True
        store.fetch(digest_of(data), tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == data

    def test_a_stream_is_read_from_where_it_stands(self, store):
        """And it stays open, for it belongs to somebody else."""
        stream = io.BytesIO(b"before" + DATA)
        stream.seek(len(b"before"))
        assert store.put(digest_of(DATA), stream) is True
        assert not stream.closed
        assert read(store, digest_of(DATA)) == DATA

    @pytest.mark.parametrize("data", [b"", DATA, LARGE], ids=["empty", "small", "large"])
    def test_progress_adds_up_to_the_size(self, store, tmp_path, data):
        """Each byte that moves is counted once, on the way in and on the way out."""
        moved = []
        store.put(digest_of(data), data, progress=moved.append)
        assert sum(moved) == len(data)
        moved.clear()
        store.fetch(digest_of(data), tmp_path / "target", progress=moved.append)
        assert sum(moved) == len(data)

    def test_a_file_that_exists_is_not_fetched_over(self, store, tmp_path):
        """Fetching makes a new file or none."""
        store.put(digest_of(DATA), DATA)
        (tmp_path / "target").write_bytes(b"mine")
        with pytest.raises(StorageError, match="target"):
            store.fetch(digest_of(DATA), tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == b"mine"

    def test_fetching_what_is_missing_leaves_no_file(self, store, tmp_path):
        """The error names the digest."""
        with pytest.raises(StorageError, match=digest_of(DATA)):
            store.fetch(digest_of(DATA), tmp_path / "target")
        assert list(tmp_path.iterdir()) == []

    def test_a_large_blob_of_another_digest_leaves_nothing(self, store):
        """Not even parts of it."""
        with pytest.raises(DigestMismatch):
            store.put(digest_of(b"other"), LARGE)
        assert list(store.blobs()) == []
        assert list(store.leftovers()) == []

    def test_a_large_blob_of_another_digest_is_refused_though_the_blob_is_there(self, store):
        """Whether a blob is there already does not change what may be written as it."""
        store.put(digest_of(LARGE), LARGE)
        with pytest.raises(DigestMismatch):
            store.put(digest_of(LARGE), LARGE[:-1] + b"!")
        assert read(store, digest_of(LARGE)) == LARGE

    def test_many_are_deleted_at_once(self, store):
        """Those that are not there are no error; those not named stay."""
        for code in range(5):
            store.put(digest_of(bytes([code])), bytes([code]))
        store.delete_many(digest_of(bytes([code])) for code in range(1, 9))
        assert [info.digest for info in store.blobs()] == [digest_of(b"\0")]
        store.delete_many([])

    def test_many_are_written_and_fetched_at_once(self, store, tmp_path):
        """All of them, with progress that only grows, up to the sum of all sizes."""
        blobs = {digest_of(data): data for data in [bytes([code]) * 1000 for code in range(30)]}
        blobs[digest_of(LARGE)] = LARGE
        (tmp_path / "source").write_bytes(LARGE)
        total = sum(map(len, blobs.values()))
        for run in range(2):  # the second time all is there
            calls = []
            put_all(
                store,
                blobs | {digest_of(LARGE): tmp_path / "source"},
                progress=lambda *call, calls=calls: calls.append(call),
            )
            assert calls == sorted(set(calls)), run
            assert calls[-1] == (total, total)
        calls = []
        wanted = [(digest, len(blobs[digest]), tmp_path / digest) for digest in blobs]
        fetch_all(store, wanted, progress=lambda *call: calls.append(call))
        assert calls == sorted(set(calls))
        assert calls[-1] == (total, total)
        for digest, data in blobs.items():
            assert (tmp_path / digest).read_bytes() == data

    def test_one_that_fails_fails_them_all(self, store, tmp_path):
        """What is wrong with one of many is raised; what was written is whole."""
        blobs = {digest_of(bytes([code])): bytes([code]) for code in range(30)}
        with pytest.raises(DigestMismatch):
            put_all(store, blobs | {digest_of(b"other"): DATA})
        put_all(store, blobs)
        folder = tmp_path / "fetched"
        folder.mkdir()
        wanted = [(digest, 1, folder / digest) for digest in blobs]
        with pytest.raises(StorageError, match=digest_of(b"other")):
            fetch_all(store, [*wanted, (digest_of(b"other"), 5, folder / "other")])
        for path in folder.iterdir():
            assert path.read_bytes() == blobs[path.name]

    def test_what_watches_may_stop_it(self, store):
        """An error of the progress callback is raised, and no transfer goes on."""
        blobs = {digest_of(bytes([code])): bytes([code]) for code in range(30)}

        def watch(done, total):
            raise InterruptedError

        for some in (blobs, {digest_of(DATA): DATA}):
            with pytest.raises(InterruptedError):
                put_all(store, some, progress=watch)

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
    @pytest.mark.parametrize("call", ["put", "open", "size", "delete", "fetch"])
    def test_what_is_no_digest_is_refused(self, store, tmp_path, call, digest):
        """No other text reaches the medium, least of all one that climbs out of a folder."""
        more = {"put": [DATA], "fetch": [tmp_path / "target"]}
        with pytest.raises(InvalidInput, match="is no digest"):
            getattr(store, call)(digest, *more.get(call, []))

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

    def test_a_damaged_blob_is_not_fetched(self, store, tmp_path):
        """The file is not there, and the error says which blob."""
        store.put(digest_of(DATA), DATA)
        store.path(digest_of(DATA)).chmod(0o644)
        store.path(digest_of(DATA)).write_bytes(b"bad weights")
        with pytest.raises(DigestMismatch, match=digest_of(DATA)):
            store.fetch(digest_of(DATA), tmp_path / "target")
        assert not (tmp_path / "target").exists()
        assert store.put(digest_of(DATA), DATA) is True
        assert read(store, digest_of(DATA)) == DATA

    def test_a_killed_writer_leaves_something_that_can_be_discarded(self, store):
        """It is listed with its size, and gone when it was discarded."""
        store.put(digest_of(DATA), DATA)
        (store.directory / "tmp" / "put-left").write_bytes(b"half")
        (left,) = store.leftovers()
        assert left.size == len(b"half")
        assert datetime.now(UTC) - left.modified_at < timedelta(minutes=1)
        for _ in range(2):
            store.discard(left)
        assert list(store.leftovers()) == []
        assert len(list(store.blobs())) == 1

    def test_other_files_are_no_blobs(self, store):
        """Leftovers of killed writers, and what people put there, are not listed."""
        store.put(digest_of(DATA), DATA)
        (store.directory / "tmp" / "put-left").write_bytes(b"half")
        path = store.path(digest_of(DATA))
        path.with_name(f"{path.name}.bak").write_bytes(b"bad")
        assert [info.digest for info in store.blobs()] == [digest_of(DATA)]


class S3Conformance(ObjectStoreConformance):
    """Blobs in a bucket."""

    @pytest.fixture
    def server(self):
        """A server that speaks S3."""
        raise NotImplementedError

    @pytest.fixture
    def bucket(self, server, monkeypatch):
        """An empty bucket that the environment leads to."""
        made = server.bucket()
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        return made

    @pytest.fixture
    def store(self, bucket):
        """An empty store, under a prefix."""
        return open_object_store(f"{bucket.url}/a%20team/models")

    def key(self, data):
        """Where a blob lies."""
        digits = digest_of(data).removeprefix("sha256:")
        return f"a team/models/sha256/{digits[:2]}/{digits[2:]}"

    def test_its_url_opens_it_again(self, store, bucket):
        """The URL leads to the same blobs, spaces and all; another prefix to none of them."""
        store.put(digest_of(DATA), DATA)
        assert store.url == f"{bucket.url}/a%20team/models"
        assert read(open_object_store(store.url), digest_of(DATA)) == DATA
        assert list(open_object_store(bucket.url).blobs()) == []
        assert list(open_object_store(f"{bucket.url}/a%20team/mod").blobs()) == []

    def test_a_blob_lies_under_its_digest(self, store, bucket):
        """As it does in a directory."""
        store.put(digest_of(DATA), DATA)
        body = bucket.client().get_object(Bucket=bucket.name, Key=self.key(DATA))["Body"]
        assert body.read() == DATA

    def test_other_objects_are_no_blobs(self, store, bucket):
        """What people put beside the blobs is not listed."""
        store.put(digest_of(DATA), DATA)
        for key in (f"{self.key(DATA)}.bak", "a team/models/sha256/note", "a team/models/x"):
            bucket.client().put_object(Bucket=bucket.name, Key=key, Body=b"x")
        assert [info.digest for info in store.blobs()] == [digest_of(DATA)]

    @pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "large"])
    def test_a_blob_of_the_wrong_size_is_replaced(self, store, bucket, data):
        """It is no blob, whoever put it there."""
        bucket.client().put_object(Bucket=bucket.name, Key=self.key(data), Body=b"half")
        assert store.put(digest_of(data), data) is True
        assert read(store, digest_of(data)) == data

    @pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "large"])
    def test_a_damaged_blob_is_not_fetched(self, store, bucket, tmp_path, data):
        """The file is not there, and the error says which blob; deleted, it can be written anew."""
        damaged = data[:-1] + b"!"
        bucket.client().put_object(Bucket=bucket.name, Key=self.key(data), Body=damaged)
        with pytest.raises(DigestMismatch, match=digest_of(data)):
            store.fetch(digest_of(data), tmp_path / "target")
        assert not (tmp_path / "target").exists()
        store.delete(digest_of(data))
        assert store.put(digest_of(data), data) is True
        store.fetch(digest_of(data), tmp_path / "target")

    def test_a_killed_writer_leaves_something_that_can_be_discarded(self, store, bucket):
        """Parts without an end are listed, and gone when they were discarded; others' are not."""
        client = bucket.client()
        for key in (self.key(DATA), "elsewhere"):
            made = client.create_multipart_upload(Bucket=bucket.name, Key=key)
            client.upload_part(
                Bucket=bucket.name, Key=key, UploadId=made["UploadId"], PartNumber=1, Body=b"half"
            )
        (left,) = store.leftovers()
        assert left.modified_at <= datetime.now(UTC) + timedelta(minutes=1)  # moto: always 2010
        for _ in range(2):
            store.discard(left)
        assert list(store.leftovers()) == []
        assert store.put(digest_of(DATA), DATA) is True

    def test_servers_that_refuse_checksums_are_sent_none(self, bucket, monkeypatch, tmp_path):
        """Then signatures cover the bytes."""
        monkeypatch.setenv("DOVETAIL_S3_CHECKSUMS", "when_required")
        store = open_object_store(bucket.url)
        for data in (DATA, LARGE):
            assert store.put(digest_of(data), data) is True
            assert store.put(digest_of(data), data) is False
            store.fetch(digest_of(data), tmp_path / digest_of(data))
        store.delete_many([digest_of(DATA), digest_of(LARGE)])

    @pytest.mark.usefixtures("bucket")
    def test_a_bucket_that_is_not_there_is_named(self, tmp_path):
        """By whatever is called, with what to do."""
        store = open_object_store("s3://no-such-bucket-here/models")
        calls = [
            lambda: store.put(digest_of(DATA), DATA),
            lambda: store.put(digest_of(LARGE), LARGE),
            lambda: store.fetch(digest_of(DATA), tmp_path / "target"),
            lambda: store.open(digest_of(DATA)),
            lambda: store.size(digest_of(DATA)),
            lambda: list(store.blobs()),
        ]
        for call in calls:
            with pytest.raises(StorageError, match=r"no-such-bucket-here.*create the bucket"):
                call()

    def test_a_forked_process_has_a_connection_of_its_own(self, store, children):
        """Nothing is mixed up when both go on."""
        store.put(digest_of(DATA), DATA)

        def child():
            assert read(store, digest_of(DATA)) == DATA
            store.put(digest_of(b"child"), b"child")

        assert children.run(child).code == 0
        store.put(digest_of(b"parent"), b"parent")
        assert {info.size for info in store.blobs()} == {len(DATA), len(b"child"), len(b"parent")}


class TestS3OnMoto(S3Conformance):
    """On moto, which honours conditions."""

    @pytest.fixture
    def server(self, moto_server):
        """The server."""
        return moto_server

    def test_long_listings_come_in_pages(self, store, bucket):
        """A thousand and one blobs are listed, and deleted, though one request takes a thousand."""
        client = bucket.client()
        digests = [digest_of(str(number).encode()) for number in range(1001)]
        for number in range(1001):
            key = self.key(str(number).encode())
            client.put_object(Bucket=bucket.name, Key=key, Body=str(number).encode())
        assert sorted(info.digest for info in store.blobs()) == sorted(digests)
        store.delete_many(digests)
        assert list(store.blobs()) == []

    def test_a_server_that_keeps_hashes_shows_what_is_damaged(self, store, bucket):
        """A blob whose hash the server says is wrong is replaced, though its size is right."""
        bucket.client().put_object(
            Bucket=bucket.name, Key=self.key(DATA), Body=b"bad weights", ChecksumAlgorithm="SHA256"
        )
        assert store.put(digest_of(DATA), DATA) is True
        assert read(store, digest_of(DATA)) == DATA


class TestS3OnRclone(S3Conformance):
    """On rclone, which ignores conditions."""

    @pytest.fixture
    def server(self, rclone_server):
        """The server."""
        return rclone_server


class TestS3OnRados(S3Conformance):
    """On Ceph, which ignores conditions where parts are completed."""

    @pytest.fixture
    def server(self, rados_gateway):
        """The server."""
        return rados_gateway


@pytest.fixture
def rados_bucket(rados_gateway, monkeypatch):
    """A bucket on Ceph that the environment leads to."""
    made = rados_gateway.bucket()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "check AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "nobody", "check AWS_ACCESS_KEY_ID"),
        ("DOVETAIL_S3_ENDPOINT_URL", "http://127.0.0.1:9", "server runs"),
        ("AWS_PROFILE", "no-such-profile", "AWS_PROFILE"),
    ],
)
def test_what_is_set_up_wrongly_is_told(rados_bucket, monkeypatch, variable, value, words):
    """The error names the store and the setting, and keeps secrets to itself."""
    if variable == "AWS_PROFILE":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_object_store(rados_bucket.url)
    with pytest.raises(StorageError, match=words) as caught:
        list(store.blobs())
    assert rados_bucket.url in str(caught.value)
    assert "testsecret" not in str(caught.value)


def test_without_credentials_it_says_where_to_put_them(rados_bucket, monkeypatch):
    """No key, no profile, no machine role."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        list(open_object_store(rados_bucket.url).blobs())


def test_s3_without_boto3_says_what_to_install(monkeypatch):
    """When the store is opened, not when it is used."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingDependency, match=r"pip install 'dovetail\[s3\]'"):
        open_object_store("s3://bucket")


def test_opening_s3_imports_nothing_heavy():
    """Commands that do not touch a blob do not wait for boto3."""
    code = (
        "import sys; from dovetail.registry.objects import open_object_store; "
        "open_object_store('s3://bucket/prefix'); print('boto3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3x://bucket", "unknown scheme 's3x'"),
        ("objects", "unknown scheme ''"),
        ("file://host/folder", "names a host"),
        ("file:folder", "three slashes"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://key:secret@bucket", "names no bucket"),
        ("s3://host:9000/bucket", "names no bucket"),
        ("s3://bucket/prefix?endpoint=x", "names no bucket"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(url, words):
    """The message says what is wrong with the URL and how to write one."""
    with pytest.raises(InvalidInput, match=words):
        open_object_store(url)
