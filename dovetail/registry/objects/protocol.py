"""What every object store offers, and nothing more than S3 can give."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from dovetail.errors import InvalidInput, InvalidPayload
from dovetail.registry.digests import is_digest
from dovetail.registry.progress import Moved

Source: TypeAlias = Path | bytes | BinaryIO
"""Where a blob's bytes come from. A stream is read from where it stands, and not closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """A blob that a store holds: its digest, size in bytes, and when it was written."""

    digest: str
    size: int
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something half-written that a killed process left: its name, size if known, and its age."""

    name: str
    size: int | None
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

    def put(self, digest: str, source: Source, *, progress: Moved | None = None) -> bool:
        """Write a blob, hashing the bytes as they pass; return True if it was not there before.

        Args:
            digest: The blob's name.
            source: Its bytes.
            progress: Called as bytes are written.

        Raises:
            DigestMismatch: The source's bytes have another digest; nothing was written.
            InvalidPayload: The source is a file that cannot be opened.
            StorageError: The store cannot be reached or is full; nothing was written.
        """
        ...

    def fetch(self, digest: str, target: Path, *, progress: Moved | None = None) -> None:
        """Write a blob to a new file; if it is not whole and verified, the file is not there.

        Args:
            digest: The blob's name.
            target: A file that does not exist, in a folder that does.
            progress: Called as bytes are written.

        Raises:
            DigestMismatch: The store's bytes are not the blob's.
            StorageError: The blob is not there, the store cannot be reached, or the file exists or
                cannot be written.
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

    def delete_many(self, digests: Iterable[str]) -> None:
        """Remove blobs in as few requests as the store allows."""
        ...

    def blobs(self) -> Iterator[BlobInfo]:
        """Go through all blobs, in no particular order."""
        ...

    def leftovers(self) -> Iterator[Leftover]:
        """Go through unfinished writes: those of killed processes, and those under way."""
        ...

    def discard(self, leftover: Leftover) -> None:
        """Remove an unfinished write; one that is finished or gone is no error."""
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


def opened(source: Source) -> AbstractContextManager[BinaryIO]:
    """Open what `ObjectStore.put` was given.

    Raises:
        InvalidPayload: The file cannot be read.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, Path):
        return nullcontext(source)
    try:
        return source.open("rb")
    except OSError as error:
        raise InvalidPayload(
            f"cannot read {str(source)!r}: {error.strerror}; check that it is still there",
            path=str(source),
        ) from error


def described(source: Source) -> str:
    """Say what `ObjectStore.put` was given, for a message."""
    return f"file {str(source)!r}" if isinstance(source, Path) else "the blob"
