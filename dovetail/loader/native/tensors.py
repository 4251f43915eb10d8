"""Read a payload's tensors as views of the mapped file, copied only where that is needed."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator

import torch

from dovetail.errors import InvalidPayload
from dovetail.registry.folder import WEIGHTS_FILE
from dovetail.registry.payload import Payload
from dovetail.registry.tensorfile import PREFIX_BYTES, TensorInfo

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def readable(payload: Payload) -> bool:
    """Tell whether all of the payload's tensors are of types that can be computed with."""
    return all(info.dtype in _TYPES for info in payload.tensors.values())


def read_tensors(
    payload: Payload,
    names: Iterable[str] | None = None,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """Read tensors of a payload that was checked before.

    Neighbours of one type are views of one buffer. On the CPU and in the file's own type that is
    the mapped file itself, which stays mapped as long as one of them lives; they are not to be
    written to. Otherwise each buffer is moved and cast in one piece.

    Args:
        payload: The payload; its header is not read again.
        names: Which tensors; all if None.
        device: Where they go; the CPU if None.
        dtype: Type to cast to; the file's own if None.

    Raises:
        InvalidPayload: The file is not the one that was checked.
    """
    mapped, start = _map(payload)
    wanted = list(payload.tensors.values())
    if names is not None:
        chosen = set(names)
        wanted = [info for info in wanted if info.name in chosen]
    found: dict[str, torch.Tensor] = {}
    for run in _runs(wanted):
        flat = _flat(mapped, run, start).to(device=device or "cpu", dtype=dtype)
        parts = flat.split_with_sizes([info.elements for info in run])
        for info, part in zip(run, parts, strict=True):
            found[info.name] = part.view(info.shape)
    return found


def _map(payload: Payload) -> tuple[mmap.mmap, int]:
    """Map the file; return it with the position of the first tensor byte."""
    path = payload.directory / WEIGHTS_FILE
    try:
        with path.open("rb") as file:
            # Private and writable in name only: torch warns of buffers that are read-only.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise InvalidPayload(f"{path.name} cannot be read: {error}", path=str(path)) from error
    start = PREFIX_BYTES + int.from_bytes(mapped[:PREFIX_BYTES], "little")
    end = max((info.stop for info in payload.tensors.values()), default=0)
    if start + end != len(mapped):
        raise InvalidPayload(
            f"{path.name} has changed since it was checked; read the payload again",
            path=str(path),
        )
    return mapped, start


def _runs(infos: list[TensorInfo]) -> Iterator[list[TensorInfo]]:
    """Divide tensors, in the order of their bytes, into neighbours of one type."""
    run: list[TensorInfo] = []
    for info in infos:
        if run and (run[-1].stop != info.start or run[-1].dtype != info.dtype):
            yield run
            run = []
        run.append(info)
    if run:
        yield run


def _flat(mapped: mmap.mmap, run: list[TensorInfo], start: int) -> torch.Tensor:
    dtype = _TYPES[run[0].dtype]
    offset, size = start + run[0].start, run[-1].stop - run[0].start
    if offset % dtype.itemsize == 0:
        return torch.frombuffer(mapped, dtype=dtype, offset=offset, count=size // dtype.itemsize)
    # The format does not promise alignment: a copy has it.
    return (
        torch.frombuffer(mapped, dtype=torch.uint8, offset=offset, count=size).clone().view(dtype)
    )
