"""The manifest of a base model: each tensor's name, type, shape and hash.

Its fingerprint identifies the weights. It depends on every weight and every name, and on nothing
else: not on sharding, file names or metadata.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dovetail.errors import InvalidInput
from dovetail.registry.digests import digest_bytes, is_digest
from dovetail.registry.jsontext import canonical_json, parse_json
from dovetail.registry.layout import NameIndex
from dovetail.registry.tensorfile import DTYPE_BITS, MAX_DIMENSIONS

MAX_MANIFEST_BYTES = 256 * 2**20
_FIELDS = {"name", "dtype", "shape", "sha256"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a base model.

    Attributes:
        name: Its name in the checkpoint.
        dtype: Its type as safetensors spells it, such as ``F32``.
        shape: Its shape.
        sha256: Digest of its bytes, little-endian and in row order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """Every tensor of a base model, sorted by name.

    Attributes:
        tensors: The entries; sorted when the manifest is made.
    """

    tensors: tuple[TensorEntry, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.tensors, key=lambda entry: entry.name))
        if len({entry.name for entry in ordered}) != len(ordered):
            raise InvalidInput("a manifest cannot list one tensor name twice")
        object.__setattr__(self, "tensors", ordered)

    @cached_property
    def fingerprint(self) -> str:
        """``sha256:`` and the hash of the manifest's canonical JSON."""
        return digest_bytes(self.to_json())

    @cached_property
    def parameter_count(self) -> int:
        """Number of values in all tensors."""
        return sum(entry.elements for entry in self.tensors)

    @cached_property
    def dtype(self) -> str:
        """The type that most of the values have."""
        counts: Counter[str] = Counter()
        for entry in self.tensors:
            counts[entry.dtype] += entry.elements
        return counts.most_common(1)[0][0] if counts else "F32"

    @cached_property
    def by_name(self) -> dict[str, TensorEntry]:
        """Name to entry."""
        return {entry.name: entry for entry in self.tensors}

    @cached_property
    def spellings(self) -> NameIndex:
        """Finds a name under the spelling that an adapter uses for it."""
        return NameIndex(self.by_name)

    def get(self, name: str) -> TensorEntry | None:
        """Return the entry of this name, or None."""
        return self.by_name.get(name)

    def to_json(self) -> bytes:
        """Write the manifest as canonical JSON."""
        return canonical_json(
            {
                "tensors": [
                    {
                        "name": entry.name,
                        "dtype": entry.dtype,
                        "shape": list(entry.shape),
                        "sha256": entry.sha256,
                    }
                    for entry in self.tensors
                ]
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: It is no manifest.
        """
        value = parse_json(data, what="the manifest", max_bytes=MAX_MANIFEST_BYTES, max_depth=4)
        if not isinstance(value, dict) or set(value) != {"tensors"}:
            raise InvalidInput("the manifest is no table with the one key 'tensors'")
        if not isinstance(value["tensors"], list):
            raise InvalidInput("the manifest's 'tensors' is no list")
        return cls(tuple(_entry(item) for item in value["tensors"]))


def _entry(item: Any) -> TensorEntry:
    if not isinstance(item, dict) or set(item) != _FIELDS:
        raise InvalidInput(f"a manifest entry has not the keys {', '.join(sorted(_FIELDS))}")
    name, dtype, shape = item["name"], item["dtype"], item["shape"]
    sound = (
        isinstance(name, str)
        and isinstance(dtype, str)
        and dtype in DTYPE_BITS
        and isinstance(shape, list)
        and len(shape) <= MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size < 2**63 for size in shape)
        and is_digest(item["sha256"])
    )
    if not sound:
        raise InvalidInput(f"the manifest entry {ascii(name)[:80]} is malformed")
    return TensorEntry(name, dtype, tuple(shape), item["sha256"])
