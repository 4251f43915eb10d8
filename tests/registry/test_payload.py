"""Reading adapter directories: what is kept, what is refused, and what each refusal says."""

import hashlib
import json
import os
import pickle
import socket
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import DigestMismatch, InvalidPayload
from dovetail.registry.payload import (
    Limits,
    PayloadFile,
    check_file_path,
    payload_digest,
    read_payload,
    read_registered,
)

LORA = {"peft_type": "LORA", "r": 2, "bias": "none", "task_type": "CAUSAL_LM"}
MODULE = "base_model.model.h.0.attn"
PAIR = {
    f"{MODULE}.lora_A.weight": np.ones((2, 4), "f4"),
    f"{MODULE}.lora_B.weight": np.ones((6, 2), "f4"),
}
PROMPT = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "token_dim": 4}
TYPES = {"f4": "F32", "f2": "F16", "f8": "F64", "u2": "BF16", "i8": "I64", "c8": "C64"}


def weights(tensors, *, types=None):
    """Write a safetensors file without the library."""
    header, data = {}, b""
    for name, array in tensors.items():
        kind = (types or {}).get(name) or TYPES[array.dtype.str[1:]]
        stop = len(data) + array.nbytes
        shape = list(array.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), stop]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def adapter(tmp_path):
    """Give a function that writes an adapter directory."""

    def write(config=LORA, tensors=PAIR, *, types=None, **files):
        config = config if isinstance(config, bytes) else json.dumps(config).encode()
        (tmp_path / "adapter_config.json").write_bytes(config)
        (tmp_path / "adapter_model.safetensors").write_bytes(weights(tensors, types=types))
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        return tmp_path

    return write


def refusal(directory, **options):
    """Return what is said when a directory is refused."""
    with pytest.raises(InvalidPayload) as caught:
        read_payload(directory, **options)
    return str(caught.value)


def test_a_sound_directory_is_read(adapter):
    """Files, digests, tensors and configuration are those on disk."""
    directory = adapter(LORA | {"a_key_of_tomorrow": [1]}, **{"README.md": b"hello"})
    payload = read_payload(directory)
    paths = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert [file.path for file in payload.files] == paths
    for file in payload.files:
        data = (directory / file.path).read_bytes()
        assert file.size == len(data)
        assert file.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert payload.config["a_key_of_tomorrow"] == [1]
    assert payload.peft_type == "LORA"
    assert payload.parameter_count == 20
    assert payload.digest == payload_digest(payload.files)
    assert (payload.left_out, payload.findings) == ((), ())


def test_the_digest_does_not_depend_on_the_order_of_files():
    """Shuffled files have one digest, and any other file another one."""
    files = [PayloadFile("a", 1, "sha256:x"), PayloadFile("b", 2, "sha256:y")]
    assert payload_digest(files) == payload_digest(files[::-1]) != payload_digest(files[:1])


def test_tokenizer_files_are_kept_and_other_files_listed(adapter):
    """A tokenizer belongs to the payload; notes and folders do not."""
    directory = adapter(**{"tokenizer.json": b"{}", "tokenizer.model": b"\n\x0e", "notes.txt": b""})
    (directory / "checkpoint-10").mkdir()
    payload = read_payload(directory)
    assert {"tokenizer.json", "tokenizer.model"} <= {file.path for file in payload.files}
    assert payload.left_out == ("checkpoint-10/", "notes.txt")


@pytest.mark.parametrize("exclude", ["*.bin", ("training_args.bin", "o*")])
def test_what_is_excluded_is_left_out(adapter, exclude):
    """What the caller excludes is listed and not looked at, be it a pickle or a link."""
    directory = adapter(**{"training_args.bin": b"\x80\x02."})
    (directory / "optimizer.bin").symlink_to("/etc/passwd")
    payload = read_payload(directory, exclude=exclude)
    assert payload.left_out == ("optimizer.bin", "training_args.bin")


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", "a.PTH", "x.ckpt", "x.pkl", "x.pickle"]
)
def test_pickles_are_refused_with_the_way_out(adapter, name):
    """A pickle beside the adapter is refused, with both remedies."""
    said = refusal(adapter(**{name: b""}))
    assert name in said
    assert "model.save_pretrained(DIR)" in said
    assert f'exclude="{name}"' in said


def test_nothing_in_a_pickle_is_executed(adapter, tmp_path):
    """A pickle that would write a file, under any accepted name, writes none."""
    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return mark.touch, ()

    bomb = pickle.dumps(Bomb())
    for name in ("adapter_model.safetensors", "tokenizer.model", "training_args.bin"):
        directory = adapter(**{name: bomb})
        assert "pickle" in refusal(directory) or "can run code" in refusal(directory)
        (directory / name).unlink()
    assert not mark.exists()


def test_a_missing_directory_is_named(tmp_path):
    """The message names the directory that is not there."""
    assert "there is no directory" in refusal(tmp_path / "nowhere")


def test_a_file_instead_of_a_directory_is_named(adapter):
    """Giving a file asks for its directory."""
    assert "give the directory" in refusal(adapter() / "adapter_config.json")


def test_an_empty_directory_is_refused(tmp_path):
    """An empty directory holds neither file."""
    assert "neither" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_an_adapter_is_refused(adapter, name):
    """Configuration without weights, or weights without configuration, is refused."""
    directory = adapter()
    (directory / name).unlink()
    assert f"no {name}" in refusal(directory)


def test_links_are_refused(adapter, tmp_path):
    """A link is refused wherever it points."""
    directory = adapter()
    (directory / "README.md").symlink_to(directory / "adapter_config.json")
    said = refusal(directory)
    assert "'README.md' is a link" in said
    assert "cp -rL" in said


def test_a_pipe_in_place_of_the_configuration_does_not_block(adapter):
    """A named pipe is refused at once instead of being read."""
    directory = adapter()
    (directory / "adapter_config.json").unlink()
    os.mkfifo(directory / "adapter_config.json")
    assert "no plain file" in refusal(directory)


def test_a_socket_is_refused(adapter, monkeypatch):
    """A socket is a special file, whatever its name."""
    directory = adapter()
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("merges.txt")
        assert "no plain file" in refusal(directory)


REFUSED_CONFIGS = {
    "no type": ({"peft_type": None}, "no peft_type"),
    "unknown type": ({"peft_type": "MAGIC"}, "'MAGIC', which is unknown"),
    "type no text": ({"peft_type": ["LORA"]}, "unknown"),
    "bias all": ({"bias": "all"}, "bias='all'"),
    "bias lora_only": ({"bias": "lora_only"}, "overwrites the base model's biases"),
    "auto_mapping": ({"auto_mapping": {"parent_library": "os"}}, "names a Python module"),
    "auto_mapping empty": ({"auto_mapping": {}}, "auto_mapping"),
    "megatron_config": ({"megatron_config": {"a": 1}}, "megatron_core"),
    "megatron_core": ({"megatron_core": "evil"}, "megatron_core='evil'"),
    "prompt path": ({"prompt_tuning_init_state_dict_path": "/x"}, "opens another file"),
    "encoder path": ({"prompt_encoder_init_state_dict_path": ""}, "opens another file"),
    "source task": ({"prompt_tuning_init": "EXACT_SOURCE_TASK"}, "opens another file"),
    "shadow model": ({"shadow_model": "evil/model"}, "fetch and load"),
    "xlora adapters": ({"adapters": {"0": "evil/adapter"}}, "fetch and load"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "rewrites the base model's weights"),
    "olora": ({"init_lora_weights": "OLoRA"}, "path_initial_model_for_weight_conversion"),
    "loftq": ({"init_lora_weights": "loftq"}, "rewrites"),
    "kasa": ({"kasa_config": {"beta": 1}}, "truncates"),
    "layer replication": ({"layer_replication": [[0, 2]]}, "rebuilds"),
    "nul": ({"revision": "a\0b"}, "has a NUL character"),
    "rank text": ({"r": "8"}, "r='8'"),
    "rank true": ({"r": True}, "r=True"),
    "rank zero": ({"r": 0}, "r=0"),
    "rank other": ({"r": 3}, "has rank 2, but adapter_config.json says 3"),
    "rank pattern": ({"rank_pattern": {"attn": 4}}, "says 4"),
    "rank pattern text": ({"rank_pattern": {"attn": "4"}}, "rank_pattern"),
    "dora": ({"use_dora": True}, "no lora_magnitude_vector"),
}


@pytest.mark.parametrize("name", REFUSED_CONFIGS)
def test_dangerous_or_wrong_configurations_are_refused(adapter, name):
    """Each key that would import, open, fetch or overwrite is refused with its reason."""
    change, words = REFUSED_CONFIGS[name]
    assert words in refusal(adapter(LORA | change))


@pytest.mark.parametrize(
    "change",
    [
        {"megatron_core": "megatron.core", "megatron_config": None, "auto_mapping": None},
        {"runtime_config": {"ephemeral_gpu_offload": False}, "loftq_config": {}},
        {"init_lora_weights": "gaussian", "corda_config": None, "trainable_token_indices": None},
        {"prompt_tuning_init_state_dict_path": None, "tokenizer_name_or_path": "gpt2"},
        {"r": 64, "rank_pattern": {"h.0.attn": 2}},
        {"r": 64, "rank_pattern": {r"(a+)+$|.*attn": 2}},
    ],
)
def test_harmless_configurations_are_kept(adapter, change):
    """What PEFT writes by default, and what it does not act upon, is accepted unchanged."""
    assert read_payload(adapter(LORA | change)).config == LORA | change


def test_repeated_keys_are_refused(adapter):
    """A configuration with one key twice is ambiguous."""
    said = refusal(adapter(b'{"peft_type": "LORA", "r": 2, "r": 4}'))
    assert "adapter_config.json has the key 'r' twice" in said


def test_a_configuration_that_is_no_table_is_refused(adapter):
    """A list is no configuration."""
    assert "no JSON object" in refusal(adapter(b"[]"))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(config_bytes=10), "adapter_config.json has"),
        (Limits(weights_bytes=10), "adapter_model.safetensors has"),
        (Limits(other_bytes=3), "README.md has 5 bytes; at most 3"),
        (Limits(entries=2), "over 2 entries"),
    ],
)
def test_sizes_over_a_limit_are_refused(adapter, limits, words):
    """Each limit is enforced and named."""
    assert words in refusal(adapter(**{"README.md": b"hello"}), limits=limits)


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("F32", np.array([[1, np.nan], [np.inf, 1]], "<f4")),
        ("F16", np.array([[1, np.nan], [-np.inf, 1]], "<f2")),
        ("F64", np.array([[1, np.nan], [np.inf, 1]], "<f8")),
        ("BF16", np.array([[0x3F80, 0x7FC0], [0xFF80, 0x7F7F]], "<u2")),
        ("C64", np.array([[1, np.nan], [1j * np.inf, 1]], "<c8")),
        ("F8_E4M3", np.array([[0x7F, 0xFF], [0x7E, 0x00]], "u1")),
        ("F8_E5M2", np.array([[0x7C, 0xFF], [0x7B, 0x00]], "u1")),
        ("F8_E4M3FNUZ", np.array([[0x80, 0x80], [0x7F, 0x00]], "u1")),
        ("F8_E5M2FNUZ", np.array([[0x80, 0x80], [0x7F, 0xFF]], "u1")),
    ],
)
def test_values_that_are_not_finite_are_counted_and_named(adapter, kind, array):
    """NaN and infinities are found in every floating type."""
    directory = adapter(PROMPT, {"prompt_embeddings": array}, types={"prompt_embeddings": kind})
    assert "'prompt_embeddings' holds 2 of 4 values" in refusal(directory)


def test_weights_without_tensors_are_refused(adapter):
    """A file of no tensors is no adapter."""
    assert "holds no tensors" in refusal(adapter(LORA, {}))


def test_empty_tensors_are_refused(adapter):
    """An empty tensor, as ZeRO-3 leaves it, is refused with the cause."""
    tensors = PAIR | {f"{MODULE}.lora_B.weight": np.ones((0, 2), "f4")}
    assert "ZeRO-3" in refusal(adapter(LORA, tensors))


def test_an_adapter_that_does_nothing_is_reported(adapter):
    """All-zero lora_B, the sign of zero aside, is a finding and no error."""
    zero = np.full((6, 2), -0.0, "f4")
    payload = read_payload(adapter(LORA, PAIR | {f"{MODULE}.lora_B.weight": zero}))
    assert len(payload.findings) == 1
    assert "does nothing" in payload.findings[0]


def test_an_adapter_that_does_nothing_is_reported_in_bfloat16(adapter):
    """Bit patterns of minus zero count as zero."""
    zero = {f"{MODULE}.lora_B.weight": np.full((6, 2), 0x8000, "<u2")}
    assert read_payload(adapter(LORA, PAIR | zero)).findings


@pytest.mark.parametrize("part", ["A", "B"])
def test_half_a_lora_pair_is_refused(adapter, part):
    """A lora_A without its lora_B, or the reverse, names the module."""
    name = f"{MODULE}.lora_{part}.weight"
    said = refusal(adapter(LORA, {name: PAIR[name]}))
    assert "h.0.attn has no lora_" in said


def test_a_lora_pair_of_two_ranks_is_refused(adapter):
    """The rank of lora_A must be that of lora_B."""
    said = refusal(adapter(LORA, PAIR | {f"{MODULE}.lora_B.weight": np.ones((6, 3), "f4")}))
    assert "lora_A of shape (2, 4) and lora_B of shape (6, 3)" in said


def test_lora_without_any_pair_is_refused(adapter):
    """A LoRA must hold lora_A and lora_B."""
    assert "no lora_A and lora_B" in refusal(adapter(LORA, {"x": np.ones(2, "f4")}))


SOFT = {
    "wrong rows": (PROMPT, {"prompt_embeddings": (4, 4)}, "make (3, 4)"),
    "wrong width": (PROMPT, {"prompt_embeddings": (3, 5)}, "make (3, 4)"),
    "one dimension": (PROMPT, {"prompt_embeddings": (12,)}, "make (3, 4)"),
    "nothing": (PROMPT, {"other": (3, 4)}, "no prompt_embeddings"),
    "no tokens": ({"peft_type": "P_TUNING"}, {"prompt_embeddings": (3, 4)}, "num_virtual_tokens"),
    "two submodules": (
        PROMPT | {"task_type": "SEQ_2_SEQ_LM"},
        {"prompt_embeddings": (3, 4)},
        "make (6, 4)",
    ),
    "prefix width": (
        PROMPT | {"peft_type": "PREFIX_TUNING", "num_layers": 2},
        {"prompt_embeddings": (3, 4)},
        "make (3, 16)",
    ),
    "no columns": (
        PROMPT | {"peft_type": "MULTITASK_PROMPT_TUNING", "num_tasks": 2, "num_ranks": 1},
        {"prompt_embeddings": (3, 4)},
        "no prefix_task_cols",
    ),
    "ia3 matrix": ({"peft_type": "IA3"}, {f"{MODULE}.ia3_l": (2, 2)}, "no vector"),
    "ia3 nothing": ({"peft_type": "IA3"}, {"x": (2, 2)}, "no ia3_l"),
}


@pytest.mark.parametrize("name", SOFT)
def test_shapes_that_contradict_the_configuration_are_refused(adapter, name):
    """Each kind's tensors must have the shapes that its configuration makes."""
    config, shapes, words = SOFT[name]
    tensors = {key: np.ones(shape, "f4") for key, shape in shapes.items()}
    assert words in refusal(adapter(config, tensors))


def test_a_soft_prompt_is_read(adapter):
    """A prompt of the configured shape is sound."""
    payload = read_payload(adapter(PROMPT, {"prompt_embeddings": np.ones((3, 4), "f4")}))
    assert payload.parameter_count == 12


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../x", "a//b", "./a", "a/", "a\\b", "C:x", "a\nb", "a\x00",
     "\u202f\u2028", "x" * 256, "\ud800"],
)  # fmt: skip
def test_paths_that_leave_the_payload_are_refused(path):
    """No path may be absolute, climb out, or hide characters."""
    with pytest.raises(InvalidPayload, match="no path inside a payload"):
        check_file_path(path)


@given(st.text(max_size=40))
def test_an_accepted_path_stays_inside(path):
    """Whatever path is accepted resolves to a place below the root."""
    try:
        check_file_path(path)
    except InvalidPayload:
        return
    assert os.path.normpath(os.path.join("/root/x", path)).startswith("/root/x/")  # noqa: PTH118


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8) | st.none()))
def test_any_configuration_gives_a_payload_or_invalid_payload(tmp_path_factory, extra):
    """No configuration makes reading fail in another way than InvalidPayload."""
    directory = tmp_path_factory.mktemp("any")
    (directory / "adapter_config.json").write_text(json.dumps(extra | {"peft_type": "LORA"}))
    (directory / "adapter_model.safetensors").write_bytes(weights(PAIR))
    with suppress(InvalidPayload):
        read_payload(directory)


def test_a_registered_payload_is_read_as_it_was_when_it_was_registered(adapter):
    """Only findings, which the registry has kept, are not found again."""
    place = adapter(README=b"kept out", **{"README.md": b"# kept"})
    payload = read_payload(place)
    assert read_registered(place, digest=payload.digest, what="summary/1") == payload


def damage_weights(place):
    """Flip a bit of the last value."""
    file = place / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def damage_header(place):
    """Make the header one that cannot be parsed."""
    file = place / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[8] = 0
    file.write_bytes(data)


DAMAGES = {
    "another-value": damage_weights,
    "no-header": damage_header,
    "cut-off": lambda place: os.truncate(place / "adapter_model.safetensors", 5),
    "another-configuration": lambda place: (place / "adapter_config.json").write_bytes(b"{}"),
    "another-readme": lambda place: (place / "README.md").write_bytes(b"# other"),
    "a-file-less": lambda place: (place / "README.md").unlink(),
    "a-file-more": lambda place: (place / "vocab.txt").write_bytes(b"a"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_the_registered_payload_is_a_mismatch(adapter, damage):
    """Whatever was damaged, the version is named, and nothing of the files was parsed."""
    place = adapter(**{"README.md": b"# kept"})
    digest = read_payload(place).digest
    DAMAGES[damage](place)
    with pytest.raises(
        DigestMismatch, match=r"files of summary/1 at .* not what the digest says"
    ) as caught:
        read_registered(place, digest=digest, what="summary/1")
    assert caught.value.expected == digest
    assert caught.value.found != digest


def test_registered_weights_larger_than_one_read_are_hashed_whole(adapter):
    """A change after the first block is noticed."""
    place = adapter(tensors={**PAIR, f"{MODULE}.more": np.ones(300_000, "f4")})
    payload = read_payload(place)
    assert read_registered(place, digest=payload.digest, what="summary/1") == payload
    damage_weights(place)
    with pytest.raises(DigestMismatch):
        read_registered(place, digest=payload.digest, what="summary/1")


def test_empty_registered_weights_are_refused(adapter):
    """The message says what to do."""
    place = adapter()
    os.truncate(place / "adapter_model.safetensors", 0)
    with pytest.raises(InvalidPayload, match="is empty; remove its directory"):
        read_registered(place, digest=f"sha256:{'0' * 64}", what="summary/1")
