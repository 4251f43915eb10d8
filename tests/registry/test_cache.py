"""The cache of payloads: bounded, shared between processes, and right whatever happens to it."""

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.registry.cache import PayloadCache
from dovetail.registry.digests import digest_bytes, digest_file
from dovetail.registry.payload import PayloadFile, payload_digest
from dovetail.registry.records import StoredFile

LARGE = 16 * 2**20


class Source:
    """Payloads that can be fetched; it keeps count."""

    def __init__(self):
        self.blobs = {}
        self.fetched = []

    def payload(self, **contents):
        """Add a payload of some files; return its digest and files."""
        files = []
        for name, data in contents.items():
            digest = digest_bytes(data)
            self.blobs[digest] = data
            files.append(StoredFile(path=name, size=len(data), digest=digest))
        listed = [PayloadFile(file.path, file.size, file.digest) for file in files]
        return payload_digest(listed), tuple(files)

    def random_payload(self, seed, size=1000):
        """Add a payload of random bytes, with a file that all of them share."""
        return self.payload(config=b"{}", weights=random.Random(seed).randbytes(size))  # noqa: S311 (any bytes will do)

    def fetch(self, wanted):
        """Write the blobs that are wanted."""
        for digest, size, target in wanted:
            data = self.blobs[digest]
            assert len(data) == size
            with target.open("xb") as file:
                file.write(data)
            self.fetched.append(digest)


@pytest.fixture
def source():
    """Where payloads come from."""
    return Source()


@pytest.fixture
def folder(tmp_path):
    """Where the cache is."""
    return tmp_path / "cache"


@pytest.fixture
def cache(folder):
    """An open cache with room for everything."""
    with closing(PayloadCache(folder, limit=10**9)) as opened:
        yield opened


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder for many small caches."""
    return tmp_path_factory.mktemp("caches")


def pull(cache, source, payload):
    """Return a payload's folder, from the cache or filled now; check what is in it."""
    digest, files = payload
    place = cache.find(digest) or cache.fill({digest: files}, source.fetch)[digest]
    assert contents(place) == {file.path: source.blobs[file.digest] for file in files}
    return place


def contents(place):
    """Return the names and bytes of a folder's files."""
    return {path.name: path.read_bytes() for path in place.iterdir()}


def bytes_in(folder):
    """Count the bytes of all payloads and blobs, those of a file with several names once."""
    stats = [p.stat() for part in ("payloads", "blobs") for p in (folder / part).rglob("*")]
    return sum({s.st_ino: s.st_size for s in stats if s.st_nlink and s.st_mode & 0o100000}.values())


def kept(folder):
    """Return the digests of the payloads that are there."""
    return {f"sha256:{path.name}" for path in folder.glob("payloads/*")}


def flip(path):
    """Change a byte of a write-protected file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


# Filling and finding.


def test_a_payload_is_fetched_once(cache, source, folder):
    """The second time it is there, for another process too."""
    payload = source.random_payload(1)
    assert cache.find(payload[0]) is None
    place = pull(cache, source, payload)
    assert place == folder / "payloads" / payload[0].removeprefix("sha256:")
    with closing(PayloadCache(folder, limit=10**9)) as other:
        assert pull(other, source, payload) == place
    assert len(source.fetched) == 2


def test_looking_for_a_payload_makes_nothing(cache, folder):
    """A cache that is only asked leaves no trace."""
    assert cache.find(digest_bytes(b"")) is None
    assert not folder.exists()


def test_only_what_is_lacking_is_fetched(cache, source, folder):
    """A file that another payload has is linked, and takes no room of its own."""
    first, second = (pull(cache, source, source.random_payload(seed)) for seed in (1, 2))
    assert source.fetched.count(digest_bytes(b"{}")) == 1
    assert (first / "config").stat().st_ino == (second / "config").stat().st_ino
    assert bytes_in(folder) == 2002


def test_a_file_twice_in_a_payload_is_fetched_once(cache, source):
    """Under both of its names it is there."""
    pull(cache, source, source.payload(a=b"same", b=b"same", c=b"other"))
    assert len(source.fetched) == 2


def test_several_payloads_are_filled_at_once(cache, source):
    """In one fetch, without what is there already and without doubles."""
    payloads = dict(source.random_payload(seed) for seed in range(100))
    pull(cache, source, next(iter(payloads.items())))
    source.fetched.clear()
    calls = []
    found = cache.fill(payloads, lambda wanted: (calls.append(len(wanted)), source.fetch(wanted)))
    assert calls == [99]
    assert all(contents(found[d])["config"] == b"{}" for d in payloads)


def test_what_is_handed_out_is_read_only(cache, source):
    """Nobody changes what others use by accident."""
    place = pull(cache, source, source.random_payload(1))
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o444}


def test_a_fetch_that_fails_leaves_nothing(cache, source, folder):
    """Neither a payload nor a blob nor a temporary file."""
    digest, files = source.random_payload(1)

    def fail(wanted):
        source.fetch(wanted[:1])
        raise KeyError("the network is down")

    with pytest.raises(KeyError):
        cache.fill({digest: files}, fail)
    for name in ("payloads", "blobs", "tmp"):
        assert list((folder / name).iterdir()) == []


def test_without_hard_links_it_works_as_well(cache, source, folder, monkeypatch):
    """On a file system that has none, payloads share nothing and are right all the same."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for seed in (1, 2):
        pull(cache, source, source.random_payload(seed))
    pull(cache, source, source.payload(a=b"same", b=b"same"))
    assert source.fetched.count(digest_bytes(b"{}")) == 2
    assert bytes_in(folder) == 2012


# Damage.


def _flip_one(place):
    flip(place / "weights")


def _flip_secretly(place):
    before = (place / "weights").stat()
    flip(place / "weights")
    os.utime(place / "weights", ns=(before.st_atime_ns, before.st_mtime_ns))


def _remove_one(place):
    (place / "weights").unlink()


def _slip_in(place):
    (place / "extra").write_bytes(b"")


def _slip_in_a_folder(place):
    (place / "deep").mkdir()
    (place / "deep" / "extra").write_bytes(b"")


def _replace_by_a_link(place):
    moved = (place / "weights").rename(place.parent.parent / "moved")
    flip(moved)
    (place / "weights").symlink_to(moved)


def _move_away(place):
    moved = place.rename(place.parent.parent / "moved")
    place.symlink_to(moved)


def _make_a_file_of_it(place):
    shutil.rmtree(place)
    place.write_bytes(b"a file")


@pytest.mark.parametrize(
    "damage",
    [
        _flip_one,
        _flip_secretly,
        _remove_one,
        _slip_in,
        _slip_in_a_folder,
        _replace_by_a_link,
        _move_away,
        _make_a_file_of_it,
    ],
)
@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_damaged_payload_is_made_again(cache, source, damage, size):
    """Even at once after it was filled and used, and with its times set back."""
    payload = source.random_payload(1, size)
    for _ in range(2):
        place = pull(cache, source, payload)
    damage(place)
    assert cache.find(payload[0]) is None
    assert pull(cache, source, payload) == place
    assert cache.find(payload[0]) == place


def test_a_damaged_blob_is_not_linked_again(cache, source, folder):
    """A payload that shares a file with a damaged one gets good bytes."""
    flip(pull(cache, source, source.random_payload(1)) / "config")
    pull(cache, source, source.random_payload(2))
    assert source.fetched.count(digest_bytes(b"{}")) == 2
    pull(cache, source, source.random_payload(1))
    assert source.fetched.count(digest_bytes(b"{}")) == 2


def opened_while(function):
    """Return the names of the files of payloads that were opened during a call."""
    names = []
    watching = threading.Event()

    def note(name, given):
        if name == "open" and watching.is_set() and "/payloads/" in str(given[0]):
            names.append(Path(given[0]).name)

    sys.addaudithook(note)
    watching.set()
    function()
    watching.clear()
    return names


def test_a_large_payload_is_hashed_once(cache, source, children, folder):
    """Files that are what they were are not read again, not even the first time after a fill."""
    payload = source.random_payload(1, LARGE)
    place = pull(cache, source, payload)

    def find():
        with closing(PayloadCache(folder, limit=10**9)) as other:
            return opened_while(lambda: other.find(payload[0]))

    assert children.run(find).result == []
    os.utime(place / "weights")
    assert sorted(children.run(find).result) == ["config", "weights"]


def test_a_payload_that_is_not_trusted_is_hashed_again(cache, source, children, folder):
    """Whoever finds rotten bytes under unchanged times can say so."""
    payload = source.random_payload(1, LARGE)
    pull(cache, source, payload)
    cache.distrust(payload[0])
    found = children.run(lambda: opened_while(lambda: cache.find(payload[0])))
    assert sorted(found.result) == ["config", "weights"]


@pytest.mark.parametrize("name", ["size", "lock"])
@pytest.mark.parametrize("text", ["", "x", "-5", "٣"])
def test_a_damaged_file_of_its_own_does_no_harm(source, folder, name, text):
    """What is written down about the cache is looked up again when it makes no sense."""
    for seed in range(5):
        with closing(PayloadCache(folder, limit=2500)) as cache:
            pull(cache, source, source.random_payload(seed))
        (folder / name).write_text(text)
    assert bytes_in(folder) <= 2500 + 1002


def test_a_cache_that_was_emptied_starts_again(cache, source, folder):
    """It may be deleted at any time, even while it is open."""
    payload = source.random_payload(1)
    pull(cache, source, payload)
    shutil.rmtree(folder)
    assert cache.find(payload[0]) is None
    pull(cache, source, payload)


# Bounds.


def test_the_least_recently_used_goes_first(source, folder):
    """Using a payload keeps it; blobs that nobody has any more go, too."""
    payloads = [source.random_payload(seed) for seed in range(4)]
    for number in (0, 1, 2, 0, 3):
        with closing(PayloadCache(folder, limit=3500)) as cache:
            pull(cache, source, payloads[number])
    assert kept(folder) == {payloads[number][0] for number in (0, 2, 3)}
    assert bytes_in(folder) == 3002
    assert sum(path.is_file() for path in (folder / "blobs").rglob("*")) == 4
    assert {path.name for path in (folder / "verified").iterdir()} <= {
        digest.removeprefix("sha256:") for digest in kept(folder)
    }


def test_what_is_in_use_stays(source, folder):
    """A payload that was handed out outlives any number of others, until its cache is closed."""
    payloads = [source.random_payload(seed) for seed in range(6)]
    with closing(PayloadCache(folder, limit=2500)) as user:
        place = pull(user, source, payloads[0])
        for payload in payloads[1:5]:
            with closing(PayloadCache(folder, limit=2500)) as other:
                pull(other, source, payload)
        assert contents(place)["weights"] == source.blobs[payloads[0][1][1].digest]
        assert payloads[0][0] in kept(folder)
    with closing(PayloadCache(folder, limit=2500)) as other:
        pull(other, source, payloads[5])
    assert kept(folder) == {payloads[4][0], payloads[5][0]}


def test_more_may_be_in_use_than_there_is_room_for(source, folder):
    """All of it stays as long as it is used, and goes afterwards."""
    with closing(PayloadCache(folder, limit=0)) as cache:
        for seed in range(5):
            pull(cache, source, source.random_payload(seed))
        assert len(kept(folder)) == 5
    with closing(PayloadCache(folder, limit=0)) as cache:
        pull(cache, source, source.random_payload(9))
        assert len(kept(folder)) == 1


def test_a_process_that_is_killed_gives_back_what_it_used(source, folder, children, killing):
    """Its lease ends with it, and is cleaned away by the next fill."""
    payload = source.random_payload(1)

    def use():
        pull(PayloadCache(folder, limit=2500), source, payload)
        os.kill(os.getpid(), signal.SIGKILL)

    assert children.run(use).code == killing.KILLED
    assert len(list((folder / "leases").iterdir())) == 1
    with closing(PayloadCache(folder, limit=1500)) as cache:
        pull(cache, source, source.random_payload(2))
        assert len(list((folder / "leases").iterdir())) == 1
    assert payload[0] not in kept(folder)
    assert list((folder / "leases").iterdir()) == []


def test_a_forked_child_that_ends_does_not_end_its_parents_lease(source, folder, children):
    """The payload stays for the parent."""
    payload = source.random_payload(1)
    with closing(PayloadCache(folder, limit=1500)) as cache:
        pull(cache, source, payload)
        assert children.run(cache.close).code == 0
        with closing(PayloadCache(folder, limit=1500)) as other:
            pull(other, source, source.random_payload(2))
        assert payload[0] in kept(folder)


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["pull", "close", "damage"]), st.integers(0, 7)),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, limit=st.integers(0, 6000))
def test_whatever_is_done_the_bytes_are_right_and_bounded(many, steps, limit):
    """Three users of one cache: what they get is right, and only what they use exceeds bounds."""
    source = Source()
    payloads = [source.random_payload(seed, 100 + 300 * seed) for seed in range(8)]
    with tempfile.TemporaryDirectory(dir=many) as made:
        folder = Path(made)
        caches = [PayloadCache(folder, limit=limit) for _ in range(3)]
        used = [set(), set(), set()]
        for user, action, number in steps:
            digest = payloads[number][0]
            if action == "pull":
                before = len(source.fetched)
                pull(caches[user], source, payloads[number])
                used[user].add(digest)
                held = sum(dict(payloads)[d][1].size for d in set().union(*used)) + 2
                if len(source.fetched) > before:
                    assert bytes_in(folder) <= max(limit, held)
                assert set().union(*used) <= kept(folder)
            elif action == "close":
                caches[user].close()
                used[user].clear()
            elif digest in kept(folder) and not any(digest in names for names in used):
                flip(folder / "payloads" / digest.removeprefix("sha256:") / "weights")
        for opened in caches:
            opened.close()


# Several processes.


def test_of_several_that_lack_the_same_one_fetches(folder, source, children):
    """The others wait for it and use what it fetched."""
    payload = source.random_payload(1, 3_000_000)

    def work():
        with closing(PayloadCache(folder, limit=10**9)) as cache:
            pull(cache, source, payload)
        return len(source.fetched)

    ended = children.run_all([work] * 4)
    assert [child.code for child in ended] == [0] * 4, ended
    assert sorted(child.result for child in ended) == [0, 0, 0, 2]


def test_processes_that_fill_and_evict_at_once_get_the_right_bytes(quick, source, children):
    """Four of them in a cache that holds a third of what they use, damaging it as they go."""
    payloads = [source.random_payload(seed, 20_000) for seed in range(12)]

    def work(seed):
        chance = random.Random(seed)  # noqa: S311 (to be repeated)
        for _ in range(60):
            with closing(PayloadCache(quick / "cache", limit=90_000)) as cache:
                some = chance.sample(payloads, chance.randint(1, 3))
                places = [pull(cache, source, payload) for payload in some]
                for place, (_, files) in zip(places, some, strict=True):
                    for file in files:
                        assert digest_file(place / file.path) == file.digest
        return len(source.fetched)

    ended = children.run_all([lambda seed=seed: work(seed) for seed in range(4)])
    assert [child.code for child in ended] == [0] * 4, ended
    assert sum(child.result for child in ended) > 24, "nothing was ever evicted"
    with closing(PayloadCache(quick / "cache", limit=90_000)) as cache:
        pull(cache, source, source.random_payload(99, 20_000))
        assert bytes_in(quick / "cache") <= 90_000
    assert list((quick / "cache" / "tmp").iterdir()) == []
    assert list((quick / "cache" / "leases").iterdir()) == []


def test_threads_of_one_process_get_the_right_bytes(folder, source):
    """They share one lease, and what one fills the others find."""
    payloads = [source.random_payload(seed) for seed in range(6)]
    failures = []
    with closing(PayloadCache(folder, limit=10**9)) as cache:

        def work():
            try:
                for payload in payloads:
                    pull(cache, source, payload)
            except Exception as error:  # noqa: BLE001 (told to the main thread)
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(source.fetched) == 7


@pytest.mark.parametrize("start", ["new", "full", "damaged"])
def test_killed_at_every_step_the_cache_is_whole(quick, source, children, killing, start):
    """Whatever a killed process leaves is right as far as it is there, and is cleaned away."""
    old, new = [source.random_payload(seed) for seed in range(3)], source.random_payload(9)
    folder = quick / "cache"

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        if start != "new":
            for payload in [*old, *([new] if start == "damaged" else [])]:
                with closing(PayloadCache(folder, limit=10**9)) as cache:
                    place = pull(cache, source, payload)
            if start == "damaged":
                flip(place / "weights")

    def fill(step):
        step.watch_process()
        with closing(PayloadCache(folder, limit=2500)) as cache:
            pull(cache, source, new)

    for number in killing.kill_at_every_step(children, prepare, fill):  # noqa: B007 (the last counts)
        for place in folder.glob("payloads/*"):
            if start != "damaged" or f"sha256:{place.name}" != new[0]:
                assert set(contents(place)) == {"config", "weights"}
        with closing(PayloadCache(folder, limit=2500)) as cache:
            for payload in (new, *old, source.random_payload(7)):
                pull(cache, source, payload)
        with closing(PayloadCache(folder, limit=2500)) as cache:
            pull(cache, source, source.random_payload(8))
        assert bytes_in(folder) <= 2500
        assert int((folder / "size").read_text()) >= bytes_in(folder)
        assert list((folder / "tmp").iterdir()) == []
        assert list((folder / "leases").iterdir()) == []
    assert number > 15


def test_a_cache_that_may_not_be_written_is_read(source, children):
    """As in an image that was built with what it needs."""
    root = Path(tempfile.mkdtemp(prefix="dovetail-image-"))
    folder = root / "cache"
    payload, other = source.random_payload(1), source.random_payload(2)
    with closing(PayloadCache(folder, limit=10**9)) as cache:
        pull(cache, source, payload)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def use():
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        with closing(PayloadCache(folder, limit=10**9)) as cache:
            pull(cache, source, payload)
            with pytest.raises(PermissionError):
                pull(cache, source, other)
        return len(source.fetched)

    child = children.run(use)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(root)
    assert child.code == 0, child
    assert child.result == 2


def test_hashes_are_sha256(source):
    """The tests' own digests are the standard's."""
    digest, files = source.payload(a=b"x")
    assert files[0].digest == f"sha256:{hashlib.sha256(b'x').hexdigest()}"
    assert digest.startswith("sha256:")
