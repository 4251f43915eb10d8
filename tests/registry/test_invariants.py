"""The seven invariants of the design, each with the tests that hold it to its word."""

import hashlib
import json
import os
import shutil
import sys

import pytest
from safetensors.numpy import load_file
from sqlalchemy import event

from dovetail.errors import (
    ConflictError,
    DigestMismatch,
    IncompatibleBaseModel,
    InvalidPayload,
    StorageError,
)
from dovetail.registry.database import Database
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.store import Registry
from dovetail.settings import Settings

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")

WEIGHTS = "adapter_model.safetensors"


def blob_path(place, digest):
    """Return the file of a blob."""
    return LocalObjectStore(place.objects).path(digest)


def flip(path, position=-1):
    """Change one byte of a file, write-protected or not."""
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(mode)


def contents(folder):
    """Return the names and bytes of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def adapter(make, tmp_path):
    """A LoRA that fits the shared base."""
    return make.lora(tmp_path / "adapter", seed=1)


@pytest.fixture
def version(store, adapter, tiny_base):
    """The first version of an adapter in an open registry."""
    return store.register("summary", adapter, base=tiny_base).version


# 1. A blob's name is the SHA-256 of its bytes; it is written once and never changed.


def test_invariant_1_every_blob_is_named_by_its_bytes(place, version):
    """After registering, each file below the blobs' folder hashes to its own name."""
    paths = [path for path in place.objects.rglob("*") if path.is_file()]
    assert {file.digest for file in version.files} <= {
        f"sha256:{path.parent.name}{path.name}" for path in paths
    }
    for path in paths:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name + path.name


def test_invariant_1_writing_a_blob_again_never_touches_its_file(
    place, store, version, adapter, make, tiny_base
):
    """Registering what shares a file with another version leaves inode, times and mode alone."""

    def stamps():
        stats = {path: path.stat() for path in place.objects.rglob("*") if path.is_file()}
        return {p: (s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_mode) for p, s in stats.items()}

    before = stamps()
    (adapter / "README.md").write_text("now with a text")
    assert store.register("summary", adapter, base=tiny_base).created
    assert store.register("another", adapter, base=tiny_base).created
    after = stamps()
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1


def test_invariant_1_registering_repairs_a_corrupt_blob(place, store, version, adapter, tiny_base):
    """A blob whose bytes rotted is put right by whoever brings the right bytes."""
    digest = next(file.digest for file in version.files if file.path == WEIGHTS)
    path = blob_path(place, digest)
    flip(path, 100)
    with pytest.raises(DigestMismatch):
        store.pull(version.reference)
    store.register("another", adapter, base=tiny_base)
    assert path.read_bytes() == (adapter / WEIGHTS).read_bytes()
    assert [left.name for left in path.parent.iterdir()] == [path.name]
    assert contents(store.pull(version.reference)) == contents(adapter)


# 2. A process killed anywhere leaves either a whole version or none: see test_killed.py, too.


def test_invariant_2_blobs_are_in_place_before_they_are_named(place, make, adapter, tiny_base):
    """When the transaction that names them commits, all blobs can be read already."""
    database = Database(place.urls[0])
    database.prepare()
    settings = Settings(
        database_url=place.urls[0], objects_url=place.urls[1], cache_dir=place.cache, actor="ann"
    )
    objects = LocalObjectStore(place.objects)
    seen = []

    def commits(connection):
        named = connection.exec_driver_sql("SELECT digest, size FROM blobs").all()
        assert all(objects.size(digest) == size for digest, size in named)
        seen.append(len(named))

    with Registry(database, objects, settings) as registry:
        event.listen(database.engine, "commit", commits)
        registry.register("summary", adapter, base=tiny_base)
    assert max(seen) == 3


# 3. Version numbers are 1..N whatever the concurrency: see test_concurrency.py.


def test_invariant_3_numbers_stay_dense_and_taken(store, make, tmp_path, tiny_base):
    """Refused, repeated and deleted registrations leave no gap and free no number."""
    folders = [make.prompt(tmp_path / f"prompt-{seed}", seed=seed) for seed in range(4)]
    for number, folder in enumerate(folders[:3], start=1):
        assert store.register("summary", folder, base=tiny_base).version.number == number
        assert store.register("summary", folder, base=tiny_base).version.number == number
        with pytest.raises(InvalidPayload):
            store.register("summary", tmp_path, base=tiny_base)
    store.delete("summary/3")
    assert store.register("summary", folders[3], base=tiny_base).version.number == 4
    assert store.register("another", folders[3], base=tiny_base).version.number == 1
    numbers = [version.number for version in store.versions("summary", deleted=True)]
    assert numbers == [4, 3, 2, 1]


def test_invariant_3_the_database_itself_forbids_what_must_not_be(place, store, version):
    """A number twice, an alias of another adapter's version and a blob in use are constraints."""
    store.register("another", place.root.parent / "adapter", base=version.base_model)
    for statement in (
        "UPDATE versions SET number = 0",
        "UPDATE versions SET adapter_id = 1",
        "INSERT INTO aliases VALUES (2, 'x', 1, '2026-01-01 00:00:00.000000', 'ann')",
        "DELETE FROM blobs",
        "DELETE FROM versions",
    ):
        database = Database(place.urls[0])
        try:
            with pytest.raises(
                StorageError, match=r"constraint failed|violates \w+( \w+)? constraint"
            ):
                _execute(database, statement)
        finally:
            database.close()


def _execute(database, statement):
    with database.writing() as connection:
        connection.exec_driver_sql(statement)


# 4. What is read back is verified.


@pytest.mark.parametrize("position", [0, 8, 200, -1])
@pytest.mark.parametrize("name", ["adapter_config.json", WEIGHTS])
def test_invariant_4_one_changed_byte_stops_a_pull(
    place, store, version, tmp_path, command, name, position
):
    """A blob with one bit wrong is found, the target folder is not made, and nothing is left."""
    digest = next(file.digest for file in version.files if file.path == name)
    flip(blob_path(place, digest), position)
    target = tmp_path / "targets" / "pulled"
    for to in (target, None):
        with pytest.raises(DigestMismatch, match=f"{name} of summary/1 is corrupt") as caught:
            store.pull("summary/1", to)
        assert caught.value.expected == digest
    assert list(target.parent.iterdir()) == []
    assert list((place.cache / "payloads").iterdir()) == []
    code, said = command("pull", "summary/1", target)
    assert (code, "is corrupt" in said) == (8, True)


@pytest.mark.parametrize("change", ["cut", "longer"])
def test_invariant_4_a_blob_of_another_length_stops_a_pull(place, store, version, tmp_path, change):
    """A blob that was cut off, or has bytes added, is found."""
    digest = next(file.digest for file in version.files if file.path == WEIGHTS)
    path = blob_path(place, digest)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] if change == "cut" else data + b"\0")
    with pytest.raises(DigestMismatch):
        store.pull("summary/1", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_invariant_4_a_corrupt_manifest_is_not_used(place, store, version, make, tmp_path):
    """A base model is not taken from a manifest whose bytes changed."""
    model = store.base_model(version.base_model)
    flip(blob_path(place, model.manifest_digest), 40)
    with pytest.raises(DigestMismatch, match="the manifest of base model 'tiny'"):
        store.base_manifest("tiny")
    with pytest.raises(DigestMismatch):
        store.register("new", make.prompt(tmp_path / "prompt"), base="tiny")


def _flip_one(folder):
    flip(folder / WEIGHTS, 99)


def _remove_one(folder):
    (folder / WEIGHTS).unlink()


def _empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def _slip_in(folder):
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")


@pytest.mark.parametrize("damage", [_flip_one, _remove_one, _empty, _slip_in])
def test_invariant_4_a_damaged_copy_in_the_cache_is_made_again(store, version, adapter, damage):
    """A cached copy is hashed on every use; one that is wrong, or holds more, is replaced."""
    cached = store.pull("summary/1")
    assert store.pull("summary/1") == cached
    damage(cached)
    assert store.pull("summary/1") == cached
    assert contents(cached) == contents(adapter)


# 5. Nothing from a payload is ever executed, imported or unpickled.


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A module that anybody may import, and the file that it makes when somebody does."""
    folder = tmp_path / "modules"
    folder.mkdir()
    mark = tmp_path / "the canary sang"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    (folder / "canary_module.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    yield code
    assert not mark.exists()
    assert "canary_module" not in sys.modules


NAMED = [
    {"auto_mapping": {"base_model_class": "X", "parent_library": "canary_module"}},
    {"megatron_core": "canary_module", "megatron_config": {"a": 1}},
    {"megatron_core": "canary_module"},
]


@pytest.mark.parametrize("change", NAMED)
def test_invariant_5_a_module_that_a_configuration_names_is_not_imported(
    store, adapter, make, tiny_base, canary, change
):
    """Configurations that make PEFT import a module are refused, and nothing is imported."""
    make.change_config(adapter, **change)
    with pytest.raises(InvalidPayload, match=r"import|canary_module"):
        store.register("summary", adapter, base=tiny_base)
    assert store.adapters() == []


def test_invariant_5_code_that_comes_along_is_bytes_and_nothing_else(
    place, store, adapter, make, tiny_base, canary, tmp_path
):
    """Code in a README, a template, a tokenizer and beside them stays what it is: text, or out."""
    make.change_config(adapter, a_key_of_tomorrow="canary_module", custom="!!python/name:canary")
    (adapter / "README.md").write_text(f"```python\n{canary}```\n<script>import</script>")
    (adapter / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    tokenizer = {"auto_map": {"AutoTokenizer": ["canary_module.X", None]}, "trust_remote_code": 1}
    (adapter / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for name in ("canary_module.py", "__init__.py", "setup.py", "sitecustomize.py", "x.pth.txt"):
        (adapter / name).write_text(canary)
    registration = store.register("summary", adapter, base=tiny_base)
    assert set(registration.left_out) == {
        "canary_module.py", "__init__.py", "setup.py", "sitecustomize.py", "x.pth.txt"
    }  # fmt: skip
    pulled = contents(store.pull("summary/1", tmp_path / "pulled"))
    assert {name: (adapter / name).read_bytes() for name in pulled} == pulled
    assert not any(name.endswith(".py") for name in pulled)
    assert all(path.stat().st_mode & 0o111 == 0 for path in (tmp_path / "pulled").iterdir())


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", WEIGHTS, "adapter_config.json", "tokenizer.model", "x.pkl"]
)
def test_invariant_5_a_pickle_is_never_opened(store, adapter, tiny_base, tmp_path, name):
    """A pickle that would make a folder makes none, under whatever name it lies there."""
    import pickle

    mark = tmp_path / "exploded"
    (adapter / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(InvalidPayload):
        store.register("summary", adapter, base=tiny_base)
    assert not mark.exists()


# 6. Registering identical content under the same name and base returns the version that exists.


def test_invariant_6_identical_content_is_the_version_that_exists(
    place, store, version, make, tmp_path, tiny_base
):
    """The same files from elsewhere, with other remarks, add no version, event or blob."""
    before = place.state()
    again = make.lora(tmp_path / "elsewhere", seed=1)
    for options in ({}, {"source_run": "another"}, {"scores": {"rougeL": 0.9}}):
        registration = store.register("summary", again, base=tiny_base, **options)
        assert not registration.created
        assert registration.version == version
    assert store.register("summary", again, base=version.base_model).version == version
    assert place.state() == before


def test_invariant_6_what_is_used_otherwise_is_another_version(
    store, version, adapter, make, tmp_path, tiny_base
):
    """Another template, generation default, file, name or base makes another version."""
    other_base = make.base(tmp_path / "other base", seed=7)
    changes = [
        {"input_template": "Summarise: {text}"},
        {"input_template": "Summarise:  {text}"},
        {"generation_config": {"max_new_tokens": 32}},
        {"base": other_base},
    ]
    for number, change in enumerate(changes, start=2):
        made = store.register("summary", adapter, **({"base": tiny_base} | change))
        assert (made.created, made.version.number) == (True, number)
        assert made.version.payload_digest == version.payload_digest
    (adapter / "README.md").write_text("a text")
    assert store.register("summary", adapter, base=tiny_base).version.number == len(changes) + 2
    assert store.register("another", adapter, base=tiny_base).version.number == 1


def test_invariant_6_deleted_content_is_brought_back_by_its_number(
    place, store, version, adapter, tiny_base
):
    """What was deleted is not registered anew; the message says how to bring it back."""
    store.delete("summary/1")
    before = place.state()
    with pytest.raises(ConflictError, match="dovetail restore summary/1") as caught:
        store.register("summary", adapter, base=tiny_base)
    assert (caught.value.name, caught.value.number) == ("summary", 1)
    assert place.state() == before
    store.restore("summary/1")
    assert store.register("summary", adapter, base=tiny_base).version.number == 1


# 7. No adapter is attached to weights other than those it was trained on: tests/loader has the
# attaching (test_registry.py); here is what the registry itself knows of it.


def test_invariant_7_shapes_that_do_not_fit_the_base_are_refused(
    place, store, make, tmp_path, tiny_base
):
    """An adapter that cannot have been trained on a base is not registered with it."""
    for folder in (
        make.lora(tmp_path / "wide", width=12),
        make.lora(tmp_path / "llama", kind="llama"),
        make.prompt(tmp_path / "prompt", width=12),
    ):
        with pytest.raises(IncompatibleBaseModel) as caught:
            store.register("summary", folder, base=tiny_base)
        assert caught.value.problems
    assert store.adapters() == []


def test_invariant_7_a_version_belongs_to_the_weights_and_not_to_their_name(
    store, version, adapter, make, tmp_path, tiny_base, command
):
    """Bases of one name and shape with one weight apart are two; the check names the difference."""
    directory = make.base(tmp_path / "changed" / "tiny")
    assert store.register("summary", adapter, base=directory).version.number == 1
    tensors = {
        name: array.copy() for name, array in load_file(directory / "model.safetensors").items()
    }
    tensors["transformer.h.1.attn.c_proj.weight"][3, 3] += 1e-6
    from safetensors.numpy import save_file

    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    changed = store.register("summary", adapter, base=directory).version
    assert changed.number == 2
    assert changed.base_model != version.base_model
    assert changed.base_model_name == version.base_model_name == "tiny"
    assert command("base", "check", tiny_base, version.base_model)[0] == 0
    code, said = command("base", "check", directory, version.base_model)
    assert code == 6
    assert "transformer.h.1.attn.c_proj.weight" in said
