"""The safetensors header reader, fed by hand with sound and hostile files."""

import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.errors import InvalidPayload
from dovetail.registry.tensorfile import DTYPE_BITS, read_header


def pack(header, data=b"", *, length=None):
    """Write a file by hand, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start, stop, dtype="F32", shape=None):
    """Describe a tensor."""
    shape = [(stop - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


SOUND = pack(
    {
        "__metadata__": {"format": "pt"},
        "b": entry(8, 16, shape=[1, 2]),
        "a": entry(0, 8),
        "none": entry(16, 16, shape=[0, 3]),
    },
    np.arange(4, dtype="<f4").tobytes(),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give a directory for the files of this module."""
    return tmp_path_factory.mktemp("tensors")


def read(folder, data):
    """Write bytes to a new file and read its header."""
    path = folder / "adapter_model.safetensors"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return read_header(path)


def test_a_sound_file_is_read(folder):
    """Names, shapes, metadata and values come out as they went in."""
    with read(folder, SOUND) as file:
        assert list(file.tensors) == ["a", "b", "none"]
        assert file.metadata == {"format": "pt"}
        assert file.array("b").tolist() == [[2.0, 3.0]]
        assert file.array("none").shape == (0, 3)
        assert bytes(file.raw("a")) == np.arange(2, dtype="<f4").tobytes()
        assert file.data_offset + 16 == file.size


def test_arrays_cannot_be_written(folder):
    """A view of a tensor is read-only."""
    with read(folder, SOUND) as file, pytest.raises(ValueError, match="read-only"):
        file.array("a")[0] = 1


def test_a_view_outlives_its_file(folder):
    """Closing the file does not pull the memory from under a view."""
    with read(folder, SOUND) as file:
        view = file.array("a")
        file.release("a")
    assert view.tolist() == [0.0, 1.0]


def test_files_of_one_header_do_not_share_what_is_done_to_it(folder):
    """What somebody does to the table of one file is not seen in the next one."""
    with read(folder, SOUND) as file:
        file.tensors.clear()
        file.metadata.clear()
    other = SOUND[:-8] + np.full(2, 7, "<f4").tobytes()
    with read(folder, other) as file:
        assert list(file.tensors) == ["a", "b", "none"]
        assert file.metadata == {"format": "pt"}
        assert file.array("b").tolist() == [[7.0, 7.0]]


@pytest.mark.parametrize("change", [-4, 4], ids=["cut-off", "too-long"])
def test_a_sound_header_over_other_data_is_refused(folder, change):
    """That the same header was right for another file says nothing about this one."""
    with read(folder, SOUND):
        pass
    data = SOUND[:change] if change < 0 else SOUND + bytes(change)
    with pytest.raises(InvalidPayload):
        read(folder, data)
    with pytest.raises(InvalidPayload):
        read(folder, data)


def test_safetensors_own_files_are_read(folder):
    """What the safetensors library writes is read with the same values."""
    from safetensors.numpy import save_file

    values = {"x": np.random.default_rng(0).normal(size=(3, 5)).astype("f4"), "y": np.arange(3)}
    save_file(values, folder / "own.safetensors", metadata={"a": "b"})
    with read_header(folder / "own.safetensors") as file:
        assert all((file.array(name) == value).all() for name, value in values.items())


@pytest.mark.filterwarnings("ignore:.*")
def test_every_torch_type_that_safetensors_writes_is_read(folder):
    """BF16 and F8 come as bit patterns of the tensor's shape."""
    import torch
    from safetensors.torch import save_file

    kinds = [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bool]
    values = {str(kind): torch.ones(2, 3).to(kind) for kind in kinds}
    save_file(values, folder / "torch.safetensors")
    with read_header(folder / "torch.safetensors") as file:
        for name, value in values.items():
            assert file.array(name).shape == (2, 3)
            assert bytes(file.raw(name)) == bytes(value.view(torch.uint8).numpy())


def test_four_bit_tensors_are_read_as_bytes(folder):
    """Types below one byte are sized in bits and come flat."""
    with read(folder, pack({"x": entry(0, 3, "F4", [2, 3])}, b"abc")) as file:
        assert file.array("x").tolist() == list(b"abc")


HOSTILE = {
    "empty file": (b"", "too few"),
    "cut in the length": (b"\x01\x00", "too few"),
    "header beyond the file": (pack({}, length=10_000), "10,000 bytes"),
    "header beyond the limit": (pack({}, length=2**63), "header at most 100,000,000"),
    "header no object": (pack(b'["a"]' + b" " * 8), "no header"),
    "header not JSON": (pack(b'{"a": }'), "not JSON"),
    "header not UTF-8": (pack(b'{"\xff": 1}'), "not UTF-8"),
    "deep header": (pack(b'{"a":' * 10_000), "levels deep"),
    "duplicate tensor": (
        pack(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}'),
        "key 'a' twice",
    ),
    "metadata of numbers": (pack({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata no table": (pack({"__metadata__": []}), "__metadata__"),
    "entry no table": (pack({"a": 1}), "describes tensor 'a'"),
    "entry with more": (pack({"a": entry(0, 4) | {"x": 1}}, b"1234"), "describes tensor 'a'"),
    "unknown type": (pack({"a": entry(0, 4, "F31")}, b"1234"), "dtype 'F31'"),
    "type no text": (pack({"a": entry(0, 4, ["F32"])}, b"1234"), "dtype"),
    "negative size": (pack({"a": entry(0, 4, shape=[-1])}, b"1234"), "shape [-1]"),
    "size true": (pack({"a": entry(0, 4, shape=[True])}, b"1234"), "shape [True]"),
    "size real": (pack({"a": entry(0, 4, shape=[1.0])}, b"1234"), "shape [1.0]"),
    "size huge": (pack({"a": entry(0, 4, shape=[2**63])}, b"1234"), "impossible shape"),
    "sizes that overflow": (pack({"a": entry(0, 4, shape=[2**62] * 3)}, b"1234"), "takes"),
    "too many sizes": (pack({"a": entry(0, 4, shape=[1] * 65)}, b"1234"), "impossible shape"),
    "offsets reversed": (pack({"a": entry(4, 0, shape=[1])}, b"1234"), "offsets [4, 0]"),
    "offsets too many": (
        pack({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, b"1"),
        "offsets",
    ),
    "size and bytes differ": (pack({"a": entry(0, 8, shape=[3])}, b"12345678"), "takes 12"),
    "half a byte": (pack({"a": entry(0, 1, "F4", [1])}, b"1"), "takes 0.5"),
    "beyond the file": (pack({"a": entry(0, 8)}, b"1234"), "is cut off"),
    "overlap": (pack({"a": entry(0, 8), "b": entry(4, 8)}, b"12345678"), "overlaps"),
    "gap": (pack({"a": entry(0, 4), "b": entry(8, 12)}, b"1" * 12), "leaves a gap"),
    "gap at the start": (pack({"a": entry(4, 8)}, b"1" * 8), "leaves a gap"),
    "bytes of nobody": (pack({"a": entry(0, 4)}, b"12345"), "belong to no tensor"),
    "pickle": (pickle.dumps({"a": list(range(99))}), "is a pickle"),
    "old pickle": (pickle.dumps({"a": list(range(99))}, protocol=2), "is a pickle"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(folder, name):
    """Each hostile file is refused with a message that names the fault and the file."""
    data, words = HOSTILE[name]
    with pytest.raises(InvalidPayload) as caught:
        read(folder, data)
    assert words in str(caught.value)
    assert "adapter_model.safetensors" in str(caught.value)


def test_a_torch_archive_under_another_name_is_refused(folder):
    """A PyTorch file renamed to .safetensors is called a pickle."""
    path = folder / "renamed.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(InvalidPayload, match="pickle under another name"):
        read_header(path)


def test_a_header_whose_length_looks_like_a_pickle_is_read(folder):
    """A header of 384 bytes begins with the bytes of a pickle and is still a header."""
    text = json.dumps({"a": entry(0, 4)}).encode().ljust(0x0180)
    with read(folder, pack(text, b"1234")) as file:
        assert file.size == 8 + 0x0180 + 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_any_damage_is_refused_or_leaves_a_sound_file(folder, data):
    """However a sound file is damaged, the answer is InvalidPayload or a file that adds up."""
    damaged = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    if data.draw(st.booleans()):
        del damaged[cut:]
    try:
        file = read(folder, bytes(damaged))
    except InvalidPayload:
        return
    with file:
        covered = sum(info.stop - info.start for info in file.tensors.values())
        assert file.data_offset + covered == file.size == len(damaged)
        for name, info in file.tensors.items():
            assert len(file.raw(name)) * 8 == info.elements * DTYPE_BITS[info.dtype]
            file.array(name)


def test_every_type_of_safetensors_is_known():
    """The table of types has the plain, the eight-bit and the sub-byte types of the format."""
    plain = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"}
    small = {"F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2"}
    assert plain | small | {"BOOL", "C64"} <= DTYPE_BITS.keys()
