"""Find a base model's weight files and list the tensors in them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dovetail.errors import BaseModelNotFound, InvalidInput, MissingDependency
from dovetail.registry.hashing import Piece, tensor_piece
from dovetail.registry.jsontext import parse_json
from dovetail.registry.payload import check_file_path
from dovetail.registry.tensorfile import TensorFile, read_header

SAFETENSORS = "model.safetensors"
TORCH = "pytorch_model.bin"
MAX_INDEX_BYTES = 256 * 2**20

# Torch's spelling of a type to that of safetensors, which manifests use.
DTYPES = {
    "torch.bool": "BOOL",
    "torch.uint8": "U8",
    "torch.int8": "I8",
    "torch.uint16": "U16",
    "torch.int16": "I16",
    "torch.uint32": "U32",
    "torch.int32": "I32",
    "torch.uint64": "U64",
    "torch.int64": "I64",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float32": "F32",
    "torch.float64": "F64",
    "torch.complex64": "C64",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
    "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "torch.float8_e8m0fnu": "F8_E8M0",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of a checkpoint and where its bytes are.

    Attributes:
        dtype: Its type as safetensors spells it.
        shape: Its shape.
        piece: Its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    piece: Piece


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weight files of a base model.

    Attributes:
        directory: Where they are.
        shards: The files that hold tensors.
        index: The file that says which shard holds which tensor, if there are shards.
    """

    directory: Path
    shards: tuple[Path, ...]
    index: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides what the tensors are."""
        return self.shards if self.index is None else (self.index, *self.shards)


def find_checkpoint(directory: Path) -> Checkpoint:
    """Find the weights in the order in which transformers does, safetensors first.

    Raises:
        BaseModelNotFound: There are none, or a shard is missing.
        InvalidInput: The index of the shards is malformed.
    """
    for name in (SAFETENSORS, TORCH):
        if (directory / name).is_file():
            return Checkpoint(directory, (directory / name,))
        index = directory / f"{name}.index.json"
        if index.is_file():
            return _sharded(directory, index)
    found = sorted(path.name for path in directory.glob("*")) if directory.is_dir() else []
    listed = f" (it holds {', '.join(found[:5])})" if found else ""
    raise BaseModelNotFound(
        f"no weights in {str(directory)!a}{listed}; a base model has {SAFETENSORS}, {TORCH} or the "
        "index of their shards, as model.save_pretrained(DIR) writes them",
        directory=str(directory),
    )


def _sharded(directory: Path, index: Path) -> Checkpoint:
    table = parse_json(index.read_bytes(), what=index.name, max_bytes=MAX_INDEX_BYTES)
    places = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(places, dict) or not places:
        raise InvalidInput(f"{index.name} has no weight_map", path=str(index))
    if not all(isinstance(shard, str) for shard in places.values()):
        raise InvalidInput(f"{index.name} names a shard by other than text", path=str(index))
    shards = tuple(directory / check_file_path(name) for name in sorted(set(places.values())))
    for shard in shards:
        if not shard.is_file():
            raise BaseModelNotFound(
                f"{index.name} names {shard.name}, which is not there; download the model again",
                path=str(shard),
            )
    return Checkpoint(directory, shards, index)


@contextmanager
def open_sources(checkpoint: Checkpoint) -> Iterator[dict[str, Source]]:
    """Open the shards and give every tensor in them by name.

    Raises:
        InvalidInput: A shard is damaged, or two shards hold one name.
        MissingDependency: The weights are PyTorch files and torch is not installed.
    """
    with ExitStack() as stack:
        found: dict[str, Source] = {}
        holders: dict[str, Path] = {}
        for shard in checkpoint.shards:
            if shard.suffix == ".safetensors":
                sources = _safetensors(stack.enter_context(read_header(shard)))
            else:
                sources = _torch(shard)
            for name, source in sources.items():
                if name in found:
                    raise InvalidInput(
                        f"tensor {name!a} is both in {holders[name].name} and in {shard.name}; "
                        "remove the shards of the older save",
                        tensor=name,
                    )
                found[name], holders[name] = source, shard
        _check_complete(checkpoint, found)
        yield found


def _check_complete(checkpoint: Checkpoint, found: dict[str, Source]) -> None:
    if checkpoint.index is None:
        return
    table = parse_json(
        checkpoint.index.read_bytes(), what=checkpoint.index.name, max_bytes=MAX_INDEX_BYTES
    )
    missing = sorted(set(table["weight_map"]) - found.keys())
    if missing:
        raise InvalidInput(
            f"{checkpoint.index.name} lists {len(missing):,} tensors that no shard holds, such as "
            f"{missing[0]!a}; download the model again",
            missing=tuple(missing),
        )


def _safetensors(file: TensorFile) -> dict[str, Source]:
    return {
        info.name: Source(
            info.dtype,
            info.shape,
            Piece(
                info.stop - info.start,
                partial(file.raw, info.name),
                partial(file.release, info.name),
            ),
        )
        for info in file.tensors.values()
    }


def _torch(path: Path) -> dict[str, Source]:
    try:
        import torch
    except ImportError as error:
        raise MissingDependency(
            f"{path.name} is a PyTorch file, which only torch reads: pip install 'dovetail[loader]'"
        ) from error
    try:
        state = _load_state(torch, path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InvalidInput(
            f"{path.name} holds more than plain tensors, or is damaged; save the model with "
            "safe_serialization=True",
            path=str(path),
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and str(value.dtype) in DTYPES
        for name, value in state.items()
    ):
        raise InvalidInput(f"{path.name} is no table of names to plain tensors", path=str(path))
    return {
        name: Source(DTYPES[str(value.dtype)], tuple(value.shape), tensor_piece(value))
        for name, value in state.items()
    }


def _load_state(torch: Any, path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        # Files from before torch 1.6 are no archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True)
