"""Blobs in memory, for tests and throw-away registries."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from dovetail.errors import StorageError
from dovetail.registry.digests import digest_bytes, require_digest
from dovetail.registry.objects.protocol import BlobInfo, check_digest, opened


class MemoryObjectStore:
    """An `ObjectStore` that forgets everything when the process ends."""

    url = "memory:"

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[bytes, datetime]] = {}

    def put(self, digest: str, source: Path | bytes) -> bool:
        """See `ObjectStore.put`."""
        check_digest(digest)
        with opened(source) as stream:
            data = stream.read()
        require_digest(digest_bytes(data), expected=digest, what="the source")
        if digest in self._blobs:
            return False
        self._blobs[digest] = (data, datetime.now(UTC))
        return True

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

    def blobs(self) -> Iterator[BlobInfo]:
        """See `ObjectStore.blobs`."""
        for digest, (data, modified_at) in list(self._blobs.items()):
            yield BlobInfo(digest=digest, size=len(data), modified_at=modified_at)
