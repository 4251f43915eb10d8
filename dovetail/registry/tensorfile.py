"""Read the header of a safetensors file and look at its tensors, trusting nothing in it.

The format: eight bytes with the length of a JSON header, the header, then the tensors' bytes. The
tensors must cover everything after the header exactly once. The specification is
https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from dovetail.errors import InvalidPayload
from dovetail.registry.jsontext import parse_json

if TYPE_CHECKING:
    import numpy as np

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64
PREFIX_BYTES = 8

DTYPE_BITS: Mapping[str, int] = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

_NUMPY = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4",
    "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8",
    "BF16": "<u2",
}  # fmt: skip
_FIELDS = {"dtype", "shape", "data_offsets"}
_KEPT_HEADERS = 32
_KEPT_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header describes it.

    Attributes:
        name: Its name.
        dtype: Its type as safetensors spells it, such as ``BF16``.
        shape: Its shape.
        start: First byte, counted from the end of the header.
        stop: One past its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


class TensorFile:
    """An open safetensors file whose header was found sound; close it after use.

    Attributes:
        path: Where it is.
        tensors: Name to tensor, in the order of their bytes.
        metadata: The free text pairs of the header.
        data_offset: Position of the first tensor byte in the file.
        size: Size of the file in bytes.
    """

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path = path
        self.size = len(mapped)
        self._map = mapped
        self.data_offset, self.tensors, self.metadata = _parse(mapped, path)

    def raw(self, name: str) -> memoryview:
        """Return the bytes of a tensor, read-only and not copied."""
        info = self.tensors[name]
        view = memoryview(self._map)
        return view[self.data_offset + info.start : self.data_offset + info.stop]

    def whole(self) -> memoryview:
        """Return the bytes of the file, read-only and not copied."""
        return memoryview(self._map)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Return a read-only view of a tensor.

        NumPy has no BF16 and no F8: the former comes as ``uint16`` and the latter as ``uint8`` bit
        patterns in the tensor's shape; F4 and F6 come as flat bytes.
        """
        import numpy as np

        info = self.tensors[name]
        flat = np.frombuffer(self.raw(name), dtype=_NUMPY.get(info.dtype, "u1"))
        return flat if DTYPE_BITS[info.dtype] < 8 else flat.reshape(info.shape)  # noqa: PLR2004 (a byte)

    def joined(self) -> tuple[str, np.ndarray[Any, Any]] | None:
        """Return the type and all values in one flat view, or None if there are several types.

        Looking at all values at once costs less than tensor by tensor.
        """
        import numpy as np

        dtypes = {info.dtype for info in self.tensors.values()}
        if len(dtypes) != 1:
            return None
        (dtype,) = dtypes
        view = memoryview(self._map)[self.data_offset :]
        return dtype, np.frombuffer(view, dtype=_NUMPY.get(dtype, "u1"))

    def release(self, name: str) -> None:
        """Tell the kernel that the pages of this tensor are not needed in memory any more."""
        info = self.tensors[name]
        first = -(-(self.data_offset + info.start) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (self.data_offset + info.stop) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Give the mapping back, unless a view of it is still alive."""
        # A mapping that is still looked at is freed with the last view of it.
        with contextlib.suppress(BufferError):
            self._map.close()

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_header(path: str | os.PathLike[str]) -> TensorFile:
    """Open a safetensors file and check its header.

    Raises:
        InvalidPayload: The file is not safetensors, or its header contradicts itself or the file.
    """
    place = Path(path)
    descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | os.O_NONBLOCK)
    try:
        return open_tensors(descriptor, place)
    finally:
        os.close(descriptor)


def open_tensors(descriptor: int, path: Path) -> TensorFile:
    """Check the header of an open file; the descriptor may be closed afterwards.

    Raises:
        InvalidPayload: As `read_header`.
    """
    size = os.fstat(descriptor).st_size
    if size < PREFIX_BYTES + 2:
        _refuse(path, f"has {size} bytes, too few for a header; was it cut off? Save it again")
    return TensorFile(path, mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def pickle_problem(head: bytes) -> str | None:
    """Return what to say of a file that begins like a pickle or a PyTorch archive, else None."""
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        return (
            "is a pickle under another name, which is never opened; save the weights with "
            "safe_serialization=True"
        )
    return None


def _parse(mapped: mmap.mmap, path: Path) -> tuple[int, dict[str, TensorInfo], dict[str, str]]:
    length = int.from_bytes(mapped[:PREFIX_BYTES], "little")
    if mapped[PREFIX_BYTES : PREFIX_BYTES + 1] != b"{":
        _refuse(path, pickle_problem(mapped[:2]) or "is damaged or not safetensors: no header")
    if length > MAX_HEADER_BYTES or PREFIX_BYTES + length > len(mapped):
        _refuse(
            path,
            f"says that its header has {length:,} bytes, but the file has {len(mapped):,} and a "
            f"header at most {MAX_HEADER_BYTES:,}; it is damaged or not safetensors",
        )
    text = mapped[PREFIX_BYTES : PREFIX_BYTES + length]
    size = len(mapped) - PREFIX_BYTES - length
    found = _HEADERS.get(text, size)
    if found is None:
        found = _understand(text, size, path)
        _HEADERS.keep(text, size, found)
    infos, metadata = found
    return PREFIX_BYTES + length, {info.name: info for info in infos}, dict(metadata)


_Header: TypeAlias = tuple[tuple[TensorInfo, ...], Mapping[str, str]]


class _Headers:
    """Headers that were found sound a moment ago: adapters of one training recipe share theirs.

    What is found in a header depends on its bytes and on how many bytes follow it, and on nothing
    else, so the same bytes are not read again.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[bytes, int], _Header] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: bytes, size: int) -> _Header | None:
        with self._lock:
            found = self._found.get((text, size))
            if found is not None:
                self._found.move_to_end((text, size))
            return found

    def keep(self, text: bytes, size: int, found: _Header) -> None:
        if len(text) <= _KEPT_BYTES:
            with self._lock:
                self._found[text, size] = found
                if len(self._found) > _KEPT_HEADERS:
                    self._found.popitem(last=False)


_HEADERS = _Headers()


def _understand(text: bytes, size: int, path: Path) -> _Header:
    """Check a header against itself and the size of what follows it."""
    header = parse_json(
        text, what=f"the header of {path.name}", max_bytes=MAX_HEADER_BYTES, max_depth=4
    )
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        _refuse(path, "has __metadata__ that is not a table of text to text")
    found = sorted(
        (_tensor(path, name, entry) for name, entry in header.items()),
        key=lambda info: (info.start, info.stop),
    )
    _check_cover(path, found, size)
    return tuple(found), metadata


def _tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        _refuse(path, f"describes tensor {name!a} by other than {', '.join(sorted(_FIELDS))}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _refuse(path, f"gives tensor {name!a} the unknown dtype {dtype!a}")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        _refuse(path, f"gives tensor {name!a} the impossible shape {_short(shape)}")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 (a pair)
        _refuse(path, f"gives tensor {name!a} the impossible offsets {_short(offsets)}")
    start, stop = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or bits // 8 != stop - start:
        _refuse(
            path,
            f"gives tensor {name!a} {stop - start:,} bytes, but {dtype} of shape "
            f"{tuple(shape)} takes {bits / 8 if bits % 8 else bits // 8:,}",
        )
    return TensorInfo(name, dtype, tuple(shape), start, stop)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 2**63 for item in value
    )


def _check_cover(path: Path, found: list[TensorInfo], length: int) -> None:
    end = 0
    for info in found:
        if info.start != end:
            fault = "overlaps the tensor before it" if info.start < end else "leaves a gap"
            _refuse(path, f"is damaged: tensor {info.name!a} starts at {info.start:,} and {fault}")
        end = info.stop
    if end != length:
        fault = "is cut off" if end > length else "has bytes that belong to no tensor"
        _refuse(path, f"{fault}: its tensors end at {end:,} and its data at {length:,}")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 (a line)


def _refuse(path: Path, problem: str) -> NoReturn:
    raise InvalidPayload(f"{path.name} {problem}", path=str(path)) from None
