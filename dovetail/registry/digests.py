"""Digests of files and streams, and what happens when one is not as recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from dovetail.errors import DigestMismatch

CHUNK_BYTES = 1 << 20


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


def copy_hashed(source: BinaryIO, target: BinaryIO) -> str:
    """Copy a stream and hash the bytes as they pass."""
    state = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        state.update(chunk)
        target.write(chunk)
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
