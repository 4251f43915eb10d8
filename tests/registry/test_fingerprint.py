"""Base models: their manifest, their fingerprint, its cache."""

import hashlib
import json
import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dovetail.errors import BaseModelNotFound, InvalidInput
from dovetail.registry.fingerprint import Manifest, TensorEntry, read_base, read_manifest
from dovetail.registry.hashing import Piece, equal_pieces, hash_pieces

pytest.importorskip("torch")

DIGEST = "sha256:" + "0" * 64
CONFIG = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 4, "vocab_size": 6}


def tensors(seed=0):
    """Return a few tensors of several types."""
    random = np.random.default_rng(seed)
    return {
        "wte.weight": random.normal(size=(6, 4)).astype("f4"),
        "h.0.weight": random.normal(size=(4, 4)).astype("f4"),
        "step": np.array(3),
        "none": np.zeros((0, 2), "f4"),
    }


def age(directory):
    """Make files old enough for the cache to trust their times, as real checkpoints are."""
    time.sleep(0.06)
    return directory


@pytest.fixture
def base(tmp_path):
    """Write a base model of one shard."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    save_file(tensors(), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


def shard(directory, parts, *, weight_map=None):
    """Write a base model of several shards."""
    directory.mkdir(exist_ok=True)
    places = {}
    for number, part in enumerate(parts):
        name = f"model-{number}.safetensors"
        save_file(part, directory / name, metadata={"number": str(number)})
        places |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": places if weight_map is None else weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


@pytest.fixture(scope="module")
def model():
    """Make a tiny GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=32)
    )


def test_a_manifest_lists_every_tensor(base):
    """Each tensor is listed with its type, shape and the hash of its bytes, sorted by name."""
    manifest = read_manifest(base)
    assert [entry.name for entry in manifest.tensors] == sorted(tensors())
    for name, value in tensors().items():
        entry = manifest.get(name)
        assert entry.shape == value.shape
        assert entry.sha256 == f"sha256:{hashlib.sha256(value.tobytes()).hexdigest()}"
    assert manifest.get("step").dtype == "I64"
    assert manifest.get("nothing") is None
    assert manifest.parameter_count == 41
    assert manifest.dtype == "F32"


def test_the_fingerprint_is_the_hash_of_the_canonical_manifest(base):
    """Anybody can compute the fingerprint from the manifest's bytes."""
    manifest = read_manifest(base)
    assert manifest.fingerprint == f"sha256:{hashlib.sha256(manifest.to_json()).hexdigest()}"


def test_sharding_and_metadata_do_not_change_the_fingerprint(base, tmp_path):
    """Shards, their names and their metadata are no part of a model."""
    items = list(tensors().items())
    parts = [dict(items[:1]), dict(items[1:])]
    split = shard(tmp_path / "split", parts)
    assert read_manifest(split).fingerprint == read_manifest(base).fingerprint


def test_what_save_pretrained_shards_has_one_fingerprint(model, tmp_path):
    """A model saved by transformers whole, and in shards, is one model."""
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole = read_manifest(tmp_path / "whole")
    assert whole.fingerprint == read_manifest(tmp_path / "shards").fingerprint


def test_every_weight_and_name_changes_the_fingerprint(base, tmp_path):
    """One changed bit, or one changed name, is another model."""
    seen = {read_manifest(base).fingerprint}
    for name in ("wte.weight", "h.0.weight"):
        changed = tensors()
        changed[name].view("u4")[0, 0] ^= 1
        save_file(changed, base / "model.safetensors")
        seen.add(read_manifest(base).fingerprint)
    renamed = tensors()
    renamed["h.1.weight"] = renamed.pop("h.0.weight")
    save_file(renamed, base / "model.safetensors")
    seen.add(read_manifest(base).fingerprint)
    reshaped = tensors()
    reshaped["h.0.weight"] = reshaped["h.0.weight"].reshape(2, 8)
    save_file(reshaped, base / "model.safetensors")
    seen.add(read_manifest(base).fingerprint)
    assert len(seen) == 5


def test_pytorch_checkpoints_have_the_same_fingerprint(base, tmp_path):
    """The same tensors in a .bin file, whole or in shards, are the same model."""
    import torch

    state = {name: torch.from_numpy(value) for name, value in tensors().items()}
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    whole.mkdir()
    shards.mkdir()
    torch.save(state, whole / "pytorch_model.bin")
    names = list(state)
    for number, part in enumerate((names[:2], names[2:])):
        torch.save({name: state[name] for name in part}, shards / f"{number}.bin")
    places = {name: f"{names.index(name) // 2}.bin" for name in names}
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    expected = read_manifest(base).fingerprint
    assert read_manifest(whole).fingerprint == expected
    assert read_manifest(shards).fingerprint == expected


def test_safetensors_are_preferred(base):
    """A .bin beside the safetensors is not opened."""
    (base / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert read_manifest(base).tensors


def test_a_pickle_with_code_is_not_executed(tmp_path):
    """A .bin that would run something is refused and runs nothing."""
    import torch

    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return mark.touch, ()

    torch.save({"a": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match="more than plain tensors"):
        read_manifest(tmp_path)
    assert not mark.exists()


def test_one_tensor_in_two_shards_is_refused(tmp_path):
    """A name that two shards hold has no single content."""
    extra = {"extra": np.zeros(1, "f4")}
    directory = shard(tmp_path, [tensors() | extra, tensors(1)])
    with pytest.raises(InvalidInput, match=r"is both in model-0\.safetensors and in model-1"):
        read_manifest(directory)


@pytest.mark.parametrize(
    ("weight_map", "error", "words"),
    [
        ({"x": "model-0.safetensors"}, InvalidInput, "no shard holds, such as 'x'"),
        ({"x": "model-7.safetensors"}, BaseModelNotFound, "model-7.safetensors"),
        ({"x": "../model-0.safetensors"}, InvalidInput, "'..' in it"),
        ({"x": 1}, InvalidInput, "other than text"),
        ({}, InvalidInput, "no weight_map"),
        ([], InvalidInput, "no weight_map"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, weight_map, error, words):
    """An index that names what is not there, or leads elsewhere, is refused."""
    with pytest.raises(error) as caught:
        read_manifest(shard(tmp_path, [tensors()], weight_map=weight_map))
    assert words in str(caught.value)


def test_missing_weights_are_named(tmp_path):
    """A directory without weights says what it holds instead."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BaseModelNotFound, match=r"it holds notes\.txt"):
        read_manifest(tmp_path)
    with pytest.raises(BaseModelNotFound, match="there is no directory"):
        read_manifest(tmp_path / "nowhere")


def test_a_manifest_reads_back(base):
    """What to_json wrote, from_json reads."""
    manifest = read_manifest(base)
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.fingerprint == manifest.fingerprint


@given(
    st.lists(
        st.builds(
            TensorEntry,
            name=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            dtype=st.sampled_from(["F32", "BF16", "I64"]),
            shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
            sha256=st.just(DIGEST),
        ),
        unique_by=lambda entry: entry.name,
    )
)
def test_the_order_of_entries_does_not_matter(entries):
    """A manifest of the same entries in any order is the same manifest, also after reading."""
    manifest = Manifest(tuple(entries))
    assert manifest.fingerprint == Manifest(tuple(reversed(entries))).fingerprint
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b'{"tensors": {}}',
        b'{"tensors": [1]}',
        b'{"tensors": [], "more": 1}',
        b'{"tensors":[{"name":"a","dtype":"F31","shape":[],"sha256":"%s"}]}' % DIGEST.encode(),
        b'{"tensors":[{"name":"a","dtype":"F32","shape":[-1],"sha256":"%s"}]}' % DIGEST.encode(),
        b'{"tensors":[{"name":"a","dtype":"F32","shape":[],"sha256":"x"}]}',
    ],
)
def test_a_malformed_manifest_is_refused(data):
    """Nothing but a manifest reads as one."""
    with pytest.raises(InvalidInput):
        Manifest.from_json(data)


def test_one_name_twice_is_refused():
    """A manifest cannot list a name twice."""
    entry = TensorEntry("a", "F32", (), DIGEST)
    with pytest.raises(InvalidInput, match="twice"):
        Manifest((entry, entry))


def test_a_second_look_reads_no_weights(base, tmp_path):
    """While nothing changes, the manifest comes from the cache and nothing is hashed."""
    first = read_manifest(age(base), cache_dir=tmp_path / "cache")
    calls = []
    second = read_manifest(
        base, cache_dir=tmp_path / "cache", progress=lambda *done: calls.append(done)
    )
    assert second == first
    assert calls == []


def test_a_changed_file_is_hashed_again(base, tmp_path):
    """New content of the same size is noticed, with the old modification time as well."""
    cache = tmp_path / "cache"
    first = read_manifest(age(base), cache_dir=cache)
    before = (base / "model.safetensors").stat()
    save_file(tensors(1), base / "model.safetensors")
    os.utime(base / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_manifest(base, cache_dir=cache).fingerprint != first.fingerprint


def test_a_file_written_a_moment_ago_is_not_kept(base, tmp_path):
    """Times too young to show a second change are not trusted."""
    (base / "model.safetensors").touch()
    read_manifest(base, cache_dir=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/manifests/*.json"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[: len(data) // 2],
        lambda data: data[:0] + b"[]",
        lambda data: data.replace(b"wte.weight", b"wte.weighs"),
        lambda data: data.replace(b'"format":1', b'"format":2'),
        lambda data: b"\xff" + data,
    ],
)
def test_a_damaged_cache_entry_is_rewritten(base, tmp_path, damage):
    """A cache entry that does not add up is ignored and replaced."""
    cache = tmp_path / "cache"
    first = read_manifest(age(base), cache_dir=cache)
    (entry,) = (cache / "manifests").glob("*.json")
    sound = entry.read_bytes()
    entry.write_bytes(damage(sound))
    assert read_manifest(base, cache_dir=cache) == first
    assert entry.read_bytes() == sound
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def test_a_cache_that_cannot_be_written_is_no_error(base, tmp_path):
    """Without a place for the cache, the manifest is still read."""
    (tmp_path / "cache").write_text("a file")
    assert read_manifest(age(base), cache_dir=tmp_path / "cache").tensors


def test_progress_counts_every_byte(base):
    """Progress ends at the total, which is the size of the tensors."""
    calls = []
    read_manifest(base, progress=lambda done, total: calls.append((done, total)))
    size = sum(value.nbytes for value in tensors().values())
    assert calls[-1] == (size, size)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_file_that_changes_while_it_is_hashed_is_refused(base):
    """A checkpoint that is still being written gives no fingerprint."""
    touched = []

    def touch(done, total):
        touched.append(done)
        os.utime(base / "model.safetensors", ns=(1, len(touched)))

    with pytest.raises(InvalidInput, match="changed while it was hashed"):
        read_manifest(base, progress=touch)


def test_an_error_in_progress_reaches_the_caller(base):
    """A progress function that raises stops the hashing."""

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_manifest(base, progress=stop)


@given(st.lists(st.binary(max_size=50), max_size=12))
def test_many_threads_hash_as_one(parts):
    """Hashing in parallel gives each piece the hash it has alone."""
    pieces = {
        str(number): Piece(len(part), lambda part=part: memoryview(part))
        for number, part in enumerate(parts)
    }
    expected = {
        str(number): f"sha256:{hashlib.sha256(part).hexdigest()}"
        for number, part in enumerate(parts)
    }
    assert hash_pieces(pieces) == expected


def piece(data):
    """Give bytes to be hashed or compared."""
    return Piece(len(data), lambda: memoryview(data))


@given(st.binary(max_size=50), st.integers(0, 3), st.data())
def test_pieces_are_equal_where_no_byte_differs(part, chunks, data):
    """Wherever the one byte stands, within what is compared at once or behind it."""
    whole = bytes(chunks * 2**19) + part
    pairs = {"same": (piece(whole), piece(bytes(bytearray(whole))))}
    if whole:
        other = bytearray(whole)
        other[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        pairs["other"] = piece(whole), piece(bytes(other))
    assert equal_pieces(pairs) == {"same"}


def test_a_base_is_described_by_its_configuration(base):
    """Name, family, width and size come from the directory, config.json and the tensors."""
    found = read_base(base)
    assert (found.name, found.revision) == ("tiny", None)
    assert (found.architecture, found.model_type) == ("GPT2LMHeadModel", "gpt2")
    assert (found.hidden_size, found.vocab_size) == (4, 6)
    assert (found.parameter_count, found.dtype) == (41, "F32")
    assert found.tokenizer_digest is None
    assert found.manifest == read_manifest(base)


def test_a_hub_snapshot_has_its_hub_name(base, tmp_path):
    """A snapshot of the hub's cache, links to blobs included, gives name and revision."""
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "0123abc"
    blobs = tmp_path / "hub" / "models--org--tiny" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(base.iterdir()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    found = read_base(snapshot)
    assert (found.name, found.revision) == ("org/tiny", "0123abc")
    given_ = read_base(snapshot, name="mine", revision="v1")
    assert (given_.name, given_.revision) == ("mine", "v1")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"hidden_size": 8, "vocab_size": 9}, (8, 9)),
        ({"d_model": 8}, (8, None)),
        ({"text_config": {"hidden_size": 8, "vocab_size": 9}}, (8, 9)),
        ({"architectures": [], "model_type": 3, "hidden_size": "8"}, (None, None)),
    ],
)
def test_sizes_are_found_where_families_keep_them(base, config, expected):
    """Width and vocabulary are found under each family's key, nested ones too."""
    (base / "config.json").write_text(json.dumps(config))
    found = read_base(base)
    assert (found.hidden_size, found.vocab_size) == expected
    assert found.architecture is None


def test_a_configuration_with_infinity_is_read(base):
    """State-space models publish configurations that hold Infinity."""
    (base / "config.json").write_text('{"time_step_limit": [0.0, Infinity], "hidden_size": 8}')
    assert read_base(base).hidden_size == 8


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}'])
def test_a_malformed_configuration_is_refused(base, text):
    """A config.json that is no table, or is ambiguous, is refused."""
    (base / "config.json").write_text(text)
    with pytest.raises(InvalidInput):
        read_base(base)


def test_a_base_without_configuration_is_refused(base):
    """Weights alone are no base model."""
    (base / "config.json").unlink()
    with pytest.raises(BaseModelNotFound, match=r"no config\.json"):
        read_base(base)


def test_the_tokenizer_digest_is_kept_with_the_manifest(base, tmp_path):
    """A base's tokenizer digest comes from the cache until its file changes."""
    vocab = {"model": {"type": "WordLevel", "vocab": {"a": 0}}}
    (base / "tokenizer.json").write_text(json.dumps(vocab))
    first = read_base(age(base), cache_dir=tmp_path / "cache").tokenizer_digest
    assert read_base(base, cache_dir=tmp_path / "cache").tokenizer_digest == first
    assert list(tmp_path.glob("cache/tokenizers/*.json"))
    vocab["model"]["vocab"]["b"] = 1
    (base / "tokenizer.json").write_text(json.dumps(vocab))
    assert read_base(base, cache_dir=tmp_path / "cache").tokenizer_digest != first
