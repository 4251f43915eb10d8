"""Servers and networks that fail or lie: nothing wrong is accepted, and nothing half remains."""

import contextlib
import hashlib
import os

import pytest

from dovetail.errors import DigestMismatch, StorageError
from dovetail.registry.objects import open_object_store
from dovetail.registry.objects.s3client import PART_BYTES

ALWAYS = 1 << 30
SMALL = b"the weights" * 1000
LARGE = os.urandom(PART_BYTES) + b"an odd end"
OTHER = b"another blob"

# Each with the methods of the requests that can suffer it.
PASSING = {
    "delay": "GET HEAD PUT POST DELETE",
    "internal error": "GET HEAD PUT POST DELETE",
    "slow down": "GET HEAD PUT POST DELETE",
    "reset": "GET HEAD PUT POST DELETE",
    "answer lost": "GET HEAD PUT POST DELETE",
    "truncated": "GET",
    "shorter": "GET",
    "nothing": "GET",
    "conflict": "PUT POST",
    "already there": "PUT POST",
}
LYING = {
    "wrong byte": "GET",
    "wrong range": "GET",
    "wrong size": "HEAD",
    "not there": "GET HEAD",
    "denied": "GET HEAD PUT POST DELETE",
    "upload spoiled": "PUT",
}


def digest_of(data):
    """Name a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def fetch(store, data, target):
    """Fetch a blob; what was fetched must be right, and if nothing was, no file is there."""
    try:
        store.fetch(digest_of(data), target)
    except (StorageError, DigestMismatch):
        assert not target.exists()
        raise
    assert target.read_bytes() == data
    target.unlink()


def read(store, data):
    """Read a blob as all readers do: what has the wrong hash is not used."""
    with store.open(digest_of(data)) as stream:
        if digest_of(stream.read()) != digest_of(data):
            raise DigestMismatch("wrong")


def listed(store):
    """List the blobs: with all names right."""
    assert [info.digest for info in store.blobs()] == [digest_of(SMALL)]


# Each with the methods of its requests.
OPERATIONS = {
    "put small": ("HEAD PUT", lambda store, _: store.put(digest_of(OTHER), OTHER)),
    "put large": ("HEAD PUT POST", lambda store, _: store.put(digest_of(LARGE), LARGE)),
    "fetch small": ("GET", lambda store, folder: fetch(store, SMALL, folder / "fetched")),
    "fetch large": ("GET", lambda store, folder: fetch(store, LARGE, folder / "fetched")),
    "read": ("GET", lambda store, _: read(store, LARGE)),
    "size": ("HEAD", lambda store, _: store.size(digest_of(SMALL))),
    "list": ("GET", lambda store, _: listed(store)),
    "delete": ("DELETE", lambda store, _: store.delete(digest_of(SMALL))),
    "delete many": ("POST", lambda store, _: store.delete_many([digest_of(SMALL)])),
    "leftovers": ("GET", lambda store, _: list(store.leftovers())),
}


def cases(faults):
    """Pair each fault with the operations that can suffer it."""
    conditional = ("conflict", "already there")
    return [
        pytest.param(fault, operation, call, id=f"{operation}, {fault}")
        for fault, suffering in faults.items()
        for operation, (methods, call) in OPERATIONS.items()
        if set(suffering.split()) & set(methods.split())
        and (fault not in conditional or operation.startswith("put"))
    ]


@pytest.fixture
def bucket(moto_server, monkeypatch):
    """An empty bucket, on a server that checks nothing of what it is sent."""
    made = moto_server.bucket()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def direct(bucket):
    """The store without the proxy."""
    return open_object_store(f"{bucket.url}/models")


@pytest.fixture
def proxy(direct, bucket, fault_proxy, monkeypatch):
    """The proxy before the server."""
    made = fault_proxy(bucket.endpoint)
    monkeypatch.setenv("DOVETAIL_S3_ENDPOINT_URL", made.url)
    return made


@pytest.fixture
def store(proxy, direct):
    """The store through the proxy."""
    return open_object_store(direct.url)


def check_nothing_half_remains(direct, folder, *, spoiled=False):
    """Check that whatever has a name is whole, or is recognised as wrong when it is read."""
    for info in direct.blobs():
        try:
            direct.fetch(info.digest, folder / "checked")
        except DigestMismatch:
            assert spoiled, info
        else:
            (folder / "checked").unlink()
    assert list(folder.iterdir()) == []


def fill(direct, operation):
    """Write what an operation is about."""
    if not operation.startswith("put"):
        data = LARGE if operation in ("fetch large", "read") else SMALL
        direct.put(digest_of(data), data)


@pytest.mark.parametrize(("fault", "operation", "call"), cases(PASSING))
def test_what_fails_once_is_tried_again(store, direct, proxy, tmp_path, fault, operation, call):
    """A fault that passes is not even noticed."""
    fill(direct, operation)
    proxy.inject(fault)
    call(store, tmp_path)
    check_nothing_half_remains(direct, tmp_path)


@pytest.mark.parametrize(("fault", "operation", "call"), cases(PASSING | LYING))
def test_what_always_fails_is_told_and_leaves_nothing_half(
    direct, proxy, tmp_path, monkeypatch, fault, operation, call
):
    """The call succeeds in truth, or it says why not; and it works when the fault is gone."""
    fill(direct, operation)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_object_store(direct.url)
    proxy.inject(fault, times=ALWAYS)
    with contextlib.ExitStack() as allowed:
        if fault == "wrong byte":
            allowed.enter_context(contextlib.suppress(DigestMismatch))
        allowed.enter_context(contextlib.suppress(StorageError))
        call(store, tmp_path)
    proxy.heal()
    check_nothing_half_remains(direct, tmp_path, spoiled=fault == "upload spoiled")
    call(store, tmp_path)


@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
@pytest.mark.parametrize("data", [SMALL + b"!", LARGE + b"!"], ids=["small", "large"])
def test_a_server_that_checks_refuses_spoiled_uploads(
    rados_gateway, fault_proxy, tmp_path, monkeypatch, data, checksums
):
    """Where signatures cover the bytes, what was changed on the way does not get a name."""
    bucket = rados_gateway.bucket()
    proxy = fault_proxy(bucket.endpoint)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DOVETAIL_S3_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("DOVETAIL_S3_CHECKSUMS", checksums)
    store = open_object_store(bucket.url)
    proxy.inject("upload spoiled", times=ALWAYS)
    with pytest.raises(StorageError):
        store.put(digest_of(data), data)
    assert list(store.blobs()) == []
    assert list(store.leftovers()) == []
    proxy.heal()
    assert store.put(digest_of(data), data) is True
    fetch(store, data, tmp_path / "fetched")


@pytest.mark.parametrize("reads", [1, 7])
def test_a_download_goes_on_where_it_broke_off(store, direct, proxy, tmp_path, reads):
    """What has arrived is not asked for again."""
    fill(direct, "fetch large")
    proxy.inject("truncated", times=reads, only="GET")
    fetch(store, LARGE, tmp_path / "fetched")
    ranges = -(-len(LARGE) // PART_BYTES)
    assert proxy.requests.count("GET") == ranges + reads


def test_an_upload_that_cannot_go_on_is_aborted(direct, proxy, monkeypatch):
    """The parts that were sent do not stay where nobody sees and somebody pays for them."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_object_store(direct.url)
    proxy.inject("internal error", only="PUT")
    with pytest.raises(StorageError, match="injected"):
        store.put(digest_of(LARGE + b"!"), LARGE + b"!")
    assert list(direct.leftovers()) == []
    assert direct.size(digest_of(LARGE + b"!")) is None


def test_a_blob_that_is_listed_twice_is_one_blob(store, direct, proxy):
    """As rclone lists an object that was written by several clients at once."""
    fill(direct, "fetch large")
    direct.put(digest_of(SMALL + b"!"), SMALL + b"!")
    there = list(direct.blobs())
    proxy.inject("listed twice", only="GET")
    assert list(store.blobs()) == there
    assert len(there) == 2
