"""Blobs in memory, for tests and throw-away registries."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from dovetail.errors import StorageError
from dovetail.registry.digests import copy_hashed, digest_bytes, require_digest
from dovetail.registry.objects.newfile import NewFile
from dovetail.registry.objects.protocol import (
    BlobInfo,
    Leftover,
    Source,
    check_digest,
    described,
    opened,
)
from dovetail.registry.progress import Moved


class MemoryObjectStore:
    """An `ObjectStore` that forgets everything when the process ends."""

    url = "memory:"

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[bytes, datetime]] = {}

    def put(self, digest: str, source: Source, *, progress: Moved | None = None) -> bool:
        """See `ObjectStore.put`."""
        check_digest(digest)
        with opened(source) as stream:
            data = stream.read()
        require_digest(digest_bytes(data), expected=digest, what=described(source))
        if digest in self._blobs:
            return False
        self._blobs[digest] = (data, datetime.now(UTC))
        if progress is not None:
            progress(len(data))
        return True

    def fetch(self, digest: str, target: Path, *, progress: Moved | None = None) -> None:
        """See `ObjectStore.fetch`."""
        with self.open(digest) as stream, NewFile(target) as file:
            found = copy_hashed(stream, file, progress=progress)
            require_digest(found, expected=digest, what=f"blob {digest} in {self.url}")

    def open(self, digest: str) -> BinaryIO:
        """See `ObjectStore.open`."""
        check_digest(digest)
        if digest not in self._blobs:
            raise StorageError(f"blob {digest} is not in {self.url}", digest=digest)
        return io.BytesIO(self._blobs[digest][0])

    def size(self, digest: str) -> int | None:
        """See `ObjectStore.size`."""
        check_digest(digest)
        return len(self._blobs[digest][0]) if digest in self._blobs else None

    def delete(self, digest: str) -> None:
        """See `ObjectStore.delete`."""
        check_digest(digest)
        self._blobs.pop(digest, None)

    def delete_many(self, digests: Iterable[str]) -> None:
        """See `ObjectStore.delete_many`."""
        for digest in digests:
            self.delete(digest)

    def blobs(self) -> Iterator[BlobInfo]:
        """See `ObjectStore.blobs`."""
        for digest, (data, modified_at) in list(self._blobs.items()):
            yield BlobInfo(digest=digest, size=len(data), modified_at=modified_at)

    def leftovers(self) -> Iterator[Leftover]:
        """See `ObjectStore.leftovers`: a blob is put in one step, so there are none."""
        return iter(())

    def discard(self, leftover: Leftover) -> None:
        """See `ObjectStore.discard`."""
