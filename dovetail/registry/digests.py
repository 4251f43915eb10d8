"""SHA-256 digests, always written ``sha256:`` and 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from dovetail.errors import DigestMismatch

CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Writable(Protocol):
    """What takes bytes."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""
        ...


def is_digest(value: object) -> bool:
    """Tell whether the value is a digest as Dovetail writes them."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def digest_bytes(data: bytes) -> str:
    """Hash bytes.

    Examples:
        >>> digest_bytes(b"")
        'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    """
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_file(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def digest_stream(stream: BinaryIO) -> str:
    """Hash what is left of a stream."""
    state = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        state.update(chunk)
    return f"sha256:{state.hexdigest()}"


def copy_hashed(
    source: BinaryIO, target: Writable, *, progress: Callable[[int], None] | None = None
) -> str:
    """Copy a stream and hash the bytes as they pass.

    Args:
        source: Read to its end.
        target: Written to.
        progress: Called with the size of each chunk that was copied.
    """
    state = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        state.update(chunk)
        target.write(chunk)
        if progress is not None:
            progress(len(chunk))
    return f"sha256:{state.hexdigest()}"


def require_digest(found: str, *, expected: str, what: str) -> None:
    """Check a digest.

    Raises:
        DigestMismatch: The bytes are not those that were expected.
    """
    if found != expected:
        raise DigestMismatch(
            f"{what} is corrupt: its bytes hash to {found}, recorded is {expected}; "
            "restore it from a copy",
            expected=expected,
            found=found,
        )
