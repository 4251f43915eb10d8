"""Full disks, missing rights, damaged files: told as such, with nothing changed."""

import ctypes
import errno
import os
import resource
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from dovetail.errors import StorageError
from dovetail.registry.database import Database
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.schema import SCHEMA_REVISION
from dovetail.registry.store import Registry

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
WEIGHTS = "adapter_model.safetensors"

on_both = pytest.mark.backends("sqlite+local", "postgresql+local")


@pytest.fixture
def used(place, make, tiny_base, tmp_path):
    """A registry of two versions, one of them in production; nothing has it open."""
    with place.open() as registry:
        for seed in range(2):
            made = make.lora(tmp_path / f"lora-{seed}", seed=seed)
            registry.register("summary", made, base=tiny_base)
        registry.promote("summary/1", "production")
    return place


def refused(call):
    """Return what is said when something fails for the storage's sake, or None if it succeeds."""
    try:
        call()
    except StorageError as error:
        return str(error)
    return None


def check_only_whole_blobs_were_added(place, before):
    """Check that no file is gone or changed, and that what was added is named by its bytes."""
    after = place.files()
    assert set(before) <= set(after)
    for path, _, digest in set(after) - set(before):
        assert digest == "folder" or path == f"sha256/{digest[:2]}/{digest[2:]}", path


# A full disk: the system refuses to let any file grow beyond a limit, which is as portable.


def published(rows):
    """Leave out intents: a full disk may keep one from being removed; its lease ends it."""
    return {table: lines for table, lines in rows.items() if not table.startswith("intent")}


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_disk_that_fills_up_stops_a_registration_with_nothing_changed(
    used, children, make, tiny_base, tmp_path, size
):
    """Whatever file cannot grow, of blobs or database, the registry stays and is usable after."""
    # Small blobs fit where the database's log does not; large ones are themselves refused.
    adapter = make.lora(tmp_path / "new", seed=9, rank=2 if size == "small" else 4000)
    before = used.state()

    def register(limit):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with used.open() as registry:
                return refused(lambda: registry.register("summary", adapter, base=tiny_base))
        except StorageError as error:
            return str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    said = []
    for limit in (0, 100, 1000, 5000, 33_000, 40_000, 50_000, 60_000, 150_000, 10**8):
        child = children.run(lambda limit=limit: register(limit))
        assert child.code == 0, (limit, child)
        said.append(child.result)
        if child.result is None:
            break
        assert published(used.rows()) == published(before[0])
        check_only_whole_blobs_were_added(used, before[1])
    assert said[-1] is None, "with room enough it succeeds"
    wanted = "write the registry at" if size == "small" else "write the object store"
    assert any(wanted in message for message in said[:-1]), said
    assert all("space" in message or "disk" in message for message in said[:-1]), said
    with used.open() as registry:
        assert [version.number for version in registry.versions("summary")] == [3, 2, 1]
        assert registry.pull("summary/3").is_dir()
        assert registry.broken_history() is None


def test_a_disk_that_fills_up_stops_a_pull_and_leaves_nothing(used, children, tmp_path):
    """A pull that does not fit makes no folder, neither where it was told nor in the cache."""
    target = tmp_path / "targets" / "pulled"

    def pull(to):
        with used.open() as registry:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
            try:
                return refused(lambda: registry.pull("summary/1", to))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    for to in (target, None):
        child = children.run(lambda to=to: pull(to))
        assert child.code == 0, child
        assert "cannot write summary/1 to" in child.result
        assert "free space" in child.result
    assert list(target.parent.iterdir()) == []
    assert list((used.cache / "payloads").iterdir()) == []


def test_a_disk_that_fills_up_stops_the_making_of_a_registry(place, children):
    """A registry that cannot be made says so, and is made when there is room."""

    def make_one(limit):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            return refused(lambda: place.open().close())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    for limit in (0, 2000, 10_000, 35_000, 50_000, 100_000):
        child = children.run(lambda limit=limit: make_one(limit))
        assert child.code == 0, (limit, child)
        assert "the registry at" in child.result
    with place.open() as registry:
        assert registry.adapters() == []


def mount_memory(folder, size):
    """Mount a small file system in memory that only this process sees; tell if one may."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    namespaces = CLONE_NEWNS | (CLONE_NEWUSER if user else 0)
    if libc.unshare(namespaces):
        return os.strerror(ctypes.get_errno())
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    private = libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    if private or libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=%d" % size):
        return os.strerror(ctypes.get_errno())
    return None


def test_a_full_file_system_changes_nothing(place, children, make, tiny_base, tmp_path):
    """On a real file system that is full, writing fails, reading goes on, and room helps."""
    place.root.mkdir()
    old, new = (make.lora(tmp_path / f"lora-{seed}", seed=seed) for seed in (1, 2))

    def work():
        refusal = mount_memory(place.root, 1_000_000)
        if refusal:
            return [refusal]
        filler = place.root / "filler"
        said = []
        with place.open() as registry:
            registry.register("summary", old, base=tiny_base)
            before = place.state()
            for room in (0, 4096, 8192, 20_000, 60_000, 400_000):
                _fill_up(filler, room)
                failure = refused(lambda: registry.register("summary", new, base=tiny_base))
                assert registry.resolve("summary@latest").number == (1 if failure else 2)
                filler.unlink()
                said.append(failure)
                if failure is None:
                    break
                assert published(place.rows()) == published(before[0])
                check_only_whole_blobs_were_added(place, before[1])
            assert said[-1] is None
            assert registry.resolve("summary/2").files
            registry.pull("summary/2")
            assert registry.broken_history() is None
        return said[:-1]

    child = children.run(work)
    assert child.code == 0, child
    if child.result == [os.strerror(errno.EPERM)]:
        pytest.skip("this system lets nobody mount; the tests above fill the disk otherwise")
    assert len(child.result) >= 2
    assert all("free space" in said or "disk is not full" in said for said in child.result)


def _fill_up(filler, room):
    """Write a file that leaves about so many bytes free."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 (another error is a failure)
        os.ftruncate(file.fileno(), max(0, file.tell() - room))


# A registry that one may read and not write.


@pytest.fixture
def public(place_at, make):
    """A registry below a folder that every user may enter; all of it is read-only in the end."""
    root = Path(tempfile.mkdtemp(prefix="dovetail-public-"))
    place = place_at(root / "place")
    base = make.base(root / "base")
    for seed in range(2):
        make.lora(root / f"lora-{seed}", seed=seed)
    with place.open() as registry:
        registry.register("summary", root / "lora-0", base=base, scores={"rougeL": 0.5})
        registry.promote("summary/1", "production")
    (root / "free").mkdir()
    yield place
    unlock(place)
    shutil.rmtree(root)


def lock(place):
    """Take all rights to write away; children shall run as a user whom that concerns."""
    for path in [place.root.parent, *place.root.parent.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (place.root.parent / "free").chmod(0o777)  # anybody may pull to here


def unlock(place):
    """Give the rights back."""
    for path in [place.root.parent, *place.root.parent.rglob("*")]:
        path.chmod(0o755)


def writes(registry, root):
    """Return everything that changes a registry."""
    return [
        lambda: registry.register("summary", root / "lora-1", base=root / "base"),
        lambda: registry.register_base(root / "base", name="other"),
        lambda: registry.promote("summary/1", "staging"),
        lambda: registry.rollback("summary", "production"),
        lambda: registry.require("summary", "production", ["rougeL >= 0.4"]),
        lambda: registry.delete("summary/1"),
        lambda: registry.restore("summary/1"),
    ]


def test_a_read_only_registry_is_read_and_never_written(public, children, command, monkeypatch):
    """Looking and pulling work without rights to write; every change is a storage error."""
    from dovetail.cli.exits import run

    root, free = public.root.parent, public.root.parent / "free"
    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(free / "cache"))
    options = public.options
    commands = [
        ["list"],
        ["show", "summary/1"],
        ["search", "metrics.rougeL > 0.4"],
        ["history", "--verify"],
        ["register", "summary", str(root / "lora-1"), "--base", str(root / "base")],
        ["promote", "summary/1", "staging"],
    ]
    for arguments in commands[:4]:
        assert run([*options, *arguments]) == 0  # imports what nobody may read later
    before = public.state()
    lock(public)

    def use():
        children.become_nobody()
        with public.open() as registry:
            assert [adapter.name for adapter in registry.adapters()] == ["summary"]
            assert registry.resolve("summary@production").number == 1
            assert len(registry.search("metrics.rougeL > 0.4").versions) == 1
            assert registry.evaluations("summary/1")
            assert registry.base_manifest("base").tensors
            assert registry.broken_history() is None
            pulled = registry.pull("summary/1", free / "pulled")
            assert (pulled / WEIGHTS).read_bytes() == (root / "lora-0" / WEIGHTS).read_bytes()
            cannot_cache = refused(lambda: registry.pull("summary/1"))
            said = [refused(call) for call in writes(registry, root)]
        return [cannot_cache, said, [run([*options, *arguments]) for arguments in commands]]

    child = children.run(use)
    assert child.code == 0, child
    cannot_cache, said, codes = child.result
    assert "cannot write summary/1 to" in cannot_cache
    assert all(text and ("read-only" in text or "cannot write" in text) for text in said), said
    assert codes == [0, 0, 0, 0, 9, 9]
    unlock(public)
    assert public.state() == before


def test_a_read_only_registry_of_a_killed_writer_is_read(public, children):
    """The log that a killed writer left beside the database is read, and so is what is in it."""
    root, free = public.root.parent, public.root.parent / "free"

    def leave_a_log():
        registry = public.open()
        registry.register("summary", root / "lora-1", base=root / "base")
        os._exit(0)  # without closing, which would have merged the log

    children.run(leave_a_log)
    assert public.database.with_name("registry.db-wal").stat().st_size > 0
    lock(public)

    def use():
        children.become_nobody()
        with public.open() as registry:
            registry.pull("summary/2", free / "pulled")
            said = [refused(call) for call in writes(registry, root)]
            return [[version.number for version in registry.versions("summary")], said]

    child = children.run(use)
    assert child.code == 0, child
    numbers, said = child.result
    assert numbers == [2, 1]
    assert said[0] is None, "what is registered already needs no writing"
    assert all(said[1:]), said


def test_a_read_only_database_with_free_objects_and_the_reverse(public, children):
    """Rights to write only one of the two halves change nothing that anybody sees."""
    root = public.root.parent
    before = public.rows()
    lock(public)
    public.root.chmod(0o777)  # the database may be written, the blobs may not
    public.database.chmod(0o666)

    def use():
        children.become_nobody()
        with public.open() as registry:
            return refused(writes(registry, root)[0])

    child = children.run(use)
    assert child.code == 0, child
    assert "cannot write the object store" in child.result
    public.database.chmod(0o644)
    assert public.rows() == before


def test_a_registry_that_cannot_be_made_says_where_to(public, place_at, children):
    """A folder that may not be written to is named, with the variable that chooses another."""
    lock(public)
    place = place_at(public.root / "deeper" / "place")

    def use():
        children.become_nobody()
        return refused(place.open)

    child = children.run(use)
    assert child.code == 0, child
    assert "cannot make the folder" in child.result
    assert "DOVETAIL_DATABASE_URL" in child.result


def test_a_folder_that_may_not_be_entered_is_a_storage_error(public, children):
    """Pulling to a place, or caching in one, that may not even be looked at is no crash."""
    lock(public)
    closed = public.root.parent / "free" / "closed"
    closed.mkdir(mode=0o000)

    def use():
        children.become_nobody()
        with public.open() as registry:
            first = refused(lambda: registry.pull("summary/1", closed / "a" / "b"))
        with Registry.open(*public.urls, cache_dir=closed, actor="nobody") as registry:
            return [first, refused(lambda: registry.pull("summary/1"))]

    child = children.run(use)
    assert child.code == 0, child
    assert all("cannot write summary/1 to" in said for said in child.result)


# What is damaged, of another version, or not there.


def test_a_database_of_garbage_is_a_storage_error(used, command):
    """A file that is no database is told, and left as it is."""
    garbage = b"PK\x03\x04" + os.urandom(9000)
    used.database.write_bytes(garbage)
    with pytest.raises(StorageError, match="file is not a database"):
        used.open()
    code, said = command("list")
    assert (code, "file is not a database" in said) == (9, True)
    assert used.database.read_bytes() == garbage


@pytest.mark.parametrize("keep", [100, 5000, 0.5, 0.9])
def test_a_database_that_was_cut_off_is_a_storage_error(used, command, keep):
    """However much of it is left, no command ends in anything but exit code 9."""
    data = used.database.read_bytes()
    used.database.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(StorageError, match=r"malformed|not a database|disk I/O"):
        _use_all(used)
    assert command("history")[0] in (0, 9)


def _use_all(place):
    with place.open() as registry:
        registry.history()
        registry.search("metrics.rougeL > 0.4")
        registry.evaluations()
        for adapter in registry.adapters():
            registry.versions(adapter.name)
        registry.rollback("summary", "production")


@on_both
def test_an_event_that_was_overwritten_stops_no_other_command(used, command):
    """An event whose details were overwritten breaks the chain and nothing else."""
    used.execute("UPDATE events SET details = '[]' WHERE position = 2")
    assert command("history", "--verify")[0] == 8
    assert command("list")[0] == 0


@on_both
@pytest.mark.parametrize("revision", ["0000", "9999", "", "'; DROP TABLE events; --"])
def test_another_schema_is_told_with_the_command_that_helps(used, command, revision):
    """A registry of an older or newer version is neither read nor changed."""
    used.execute("UPDATE alembic_version SET version_num = ?", revision)
    before = used.state()
    with pytest.raises(StorageError, match="dovetail db upgrade") as caught:
        used.open()
    assert (caught.value.found, caught.value.expected) == (revision, SCHEMA_REVISION)
    code, said = command("list")
    assert (code, "dovetail db upgrade" in said) == (9, True)
    assert used.state() == before


@on_both
def test_upgrading_from_an_unknown_schema_is_a_storage_error(used, command):
    """A registry that a newer Dovetail made is told apart, instead of a traceback."""
    used.execute("UPDATE alembic_version SET version_num = '9999'")
    before = used.state()
    database = Database(used.urls[0])
    try:
        with pytest.raises(StorageError, match="9999"):
            database.upgrade()
    finally:
        database.close()
    code, said = command("db", "upgrade")
    assert (code, "9999" in said) == (9, True)
    assert used.state() == before


@on_both
def test_a_folder_of_blobs_that_is_a_file_is_a_storage_error(used, make, tiny_base, tmp_path):
    """Reading and writing blobs fail with the place's name, and the database is not changed."""
    shutil.rmtree(used.objects)
    used.objects.write_text("a file")
    before = used.rows()
    store = LocalObjectStore(used.objects)
    digest = "sha256:" + "0" * 64
    for call in (store.open, store.size, store.delete):
        assert str(used.objects) in refused(lambda call=call: call(digest))
    with used.open() as registry:
        assert "cannot read the object store" in refused(lambda: registry.pull("summary/1"))
        made = make.prompt(tmp_path / "prompt")
        said = refused(lambda: registry.register("summary", made, base=tiny_base))
        assert str(used.objects) in said
        assert [version.number for version in registry.versions("summary")] == [2, 1]
    assert used.rows() == before


@on_both
def test_a_missing_blob_is_named(used, command, tmp_path):
    """A version whose file is gone says which blob is missing and where; the others are well."""
    with used.open() as registry:
        digest = next(f.digest for f in registry.resolve("summary/1").files if f.path == WEIGHTS)
        LocalObjectStore(used.objects).path(digest).unlink()
        for to in (tmp_path / "pulled", None):
            with pytest.raises(StorageError, match=f"blob {digest} is missing") as caught:
                registry.pull("summary/1", to)
            assert caught.value.digest == digest
        assert registry.pull("summary/2").is_dir()
    assert not (tmp_path / "pulled").exists()
    code, said = command("pull", "summary/1")
    assert (code, digest in said) == (9, True)


@on_both
def test_a_lost_folder_of_blobs_comes_back_with_the_payload(used, make, tiny_base, tmp_path):
    """Registering the same files under another name brings a lost blob back for all."""
    shutil.rmtree(used.objects)
    with used.open() as registry:
        with pytest.raises(StorageError, match="is missing"):
            registry.pull("summary/1")
        registry.register("another", tmp_path / "lora-0", base=tiny_base)
        assert registry.pull("summary/1").is_dir()


@on_both
def test_a_cache_that_is_a_file_stops_only_the_cache(used, make, tiny_base, tmp_path):
    """Without a cache everything works but pulling into it."""
    shutil.rmtree(used.cache, ignore_errors=True)
    used.cache.write_text("a file")
    with used.open() as registry:
        made = make.prompt(tmp_path / "prompt")
        assert registry.register("summary", made, base=tiny_base).version.number == 3
        assert "cannot write summary/3 to" in refused(lambda: registry.pull("summary/3"))
        assert registry.pull("summary/3", tmp_path / "pulled").is_dir()


def test_a_cached_copy_that_cannot_be_replaced_is_not_used(public, children):
    """A damaged copy that this user may not remove is refused instead of handed out."""
    with public.open() as registry:
        cached = registry.pull("summary/1")
    (cached / WEIGHTS).chmod(0o644)
    (cached / WEIGHTS).write_bytes(b"damaged")
    lock(public)

    def use():
        children.become_nobody()
        with public.open() as registry:
            return refused(lambda: registry.pull("summary/1"))

    assert "cannot write summary/1 to" in children.run(use).result


def test_a_database_that_is_locked_for_too_long_is_a_storage_error(used):
    """Who cannot get the write lock in time is told that the database is locked."""
    other = sqlite3.connect(used.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    database = Database(used.urls[0])
    try:
        with database.engine.connect() as connection:
            connection.connection.driver_connection.execute("PRAGMA busy_timeout = 10")
        with pytest.raises(StorageError, match="database is locked"), database.writing():
            raise AssertionError("nobody gets here")
        with database.reading() as connection:  # readers are not kept waiting
            assert connection.exec_driver_sql("SELECT count(*) FROM versions").scalar() == 2
    finally:
        database.close()
        other.close()


def test_a_folder_in_place_of_the_database_is_a_storage_error(place, command):
    """A directory under the database's name cannot be opened."""
    place.database.mkdir(parents=True)
    with pytest.raises(StorageError, match="unable to open"):
        place.open()
    assert command("list")[0] == 9
