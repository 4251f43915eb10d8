"""What every object store offers, and nothing more than S3 can give."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from dovetail.errors import InvalidInput, InvalidPayload
from dovetail.registry.digests import is_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """A blob that a store holds: its digest, size in bytes, and when it was written."""

    digest: str
    size: int
    modified_at: datetime


class ObjectStore(Protocol):
    """Immutable blobs, each named by the SHA-256 of its bytes (``sha256:`` + 64 hex digits).

    A blob is written once and whole: a reader sees all of it or nothing, whatever happens to the
    writer. Writing one that exists is no error. Errors of the medium are `StorageError`.
    """

    @property
    def url(self) -> str:
        """The URL that opens this store again."""
        ...

    def put(self, digest: str, source: Path | bytes) -> bool:
        """Write a blob; return True if it was not there before.

        Raises:
            DigestMismatch: The source's bytes have another digest; nothing was written.
            StorageError: The store cannot be reached or is full; nothing was written.
        """
        ...

    def open(self, digest: str) -> BinaryIO:
        """Open a blob for reading; the caller closes it, and verifies what it reads.

        Raises:
            StorageError: The blob is not there, or the store cannot be reached.
        """
        ...

    def size(self, digest: str) -> int | None:
        """Return a blob's size in bytes, or None if it is not there."""
        ...

    def delete(self, digest: str) -> None:
        """Remove a blob; one that is not there is no error."""
        ...

    def blobs(self) -> Iterator[BlobInfo]:
        """Go through all blobs, in no particular order."""
        ...


def check_digest(digest: str) -> str:
    """Return the 64 hexadecimal digits of a digest.

    Raises:
        InvalidInput: The text is no digest.
    """
    if not is_digest(digest):
        raise InvalidInput(
            f"{digest!r} is no digest; a digest is sha256: and 64 of 0-9 a-f", value=digest
        )
    return digest.removeprefix("sha256:")


def opened(source: Path | bytes) -> BinaryIO:
    """Open what `ObjectStore.put` was given.

    Raises:
        InvalidPayload: The file cannot be read.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return source.open("rb")
    except OSError as error:
        raise InvalidPayload(
            f"cannot read {str(source)!r}: {error.strerror}; check that it is still there",
            path=str(source),
        ) from error
