"""Reading from S3: a connection that breaks is taken up again where it broke."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dovetail.errors import StorageError
from dovetail.registry.digests import CHUNK_BYTES
from dovetail.registry.objects.s3client import (
    NOT_SATISFIABLE,
    PART_BYTES,
    S3Client,
    code_of,
    retrying,
    status_of,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Ranges that are under way together end together, and are hashed one after the other: more of them
# leave more to hash when all has arrived.
_RANGES = 4
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class S3Reader(io.RawIOBase):
    """A blob's bytes from one place to another, read in order.

    Args:
        s3: Where from.
        key: The object's key.
        digest: The blob's name.
        start: First byte.
        stop: The byte after the last one; None for all.
    """

    def __init__(
        self, s3: S3Client, key: str, digest: str, *, start: int = 0, stop: int | None = None
    ) -> None:
        self.s3 = s3
        self.key = key
        self.digest = digest
        self._position = start
        self._stop = stop
        self._total: int | None = None
        self._body: Any = None

    def connect(self) -> None:
        """Ask for the bytes, which says whether and how many there are.

        Raises:
            StorageError: The blob is missing, or the server cannot be reached.
        """
        with self.s3.errors("read"):
            if self._body is None:
                self._connect()

    @property
    def total(self) -> int:
        """The size of the whole blob."""
        if self._total is None:
            self.connect()
        return self._total or 0

    @property
    def end(self) -> int:
        """The byte after the last one that this reader will give."""
        return self.total if self._stop is None else min(self._stop, self.total)

    def chunk(self, size: int) -> bytes:
        """Return the next bytes, at most so many; none at the end.

        Raises:
            StorageError: The server could not be reached, also after trying again.
        """
        if self._position >= self.end:
            return b""
        with self.s3.errors("read"):
            try:
                return self._read(size)
            except _InterruptedError:
                return retrying(lambda error: isinstance(error, _InterruptedError))(
                    self._read, size
                )

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into a buffer; return how many bytes."""
        view = memoryview(buffer).cast("B")
        data = self.chunk(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let the connection go."""
        if self._body is not None:
            self._body.close()
            self._body = None
        super().close()

    def _read(self, size: int) -> bytes:
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        if self._body is None:
            self._connect()
        try:
            data: bytes = self._body.read(min(size, self.end - self._position))
        except (HTTPClientError, IncompleteReadError) as error:
            self._drop()
            raise _InterruptedError(str(error)) from error
        if not data:
            self._drop()
            raise _InterruptedError(f"it ended after {self._position:,} of {self.end:,} bytes")
        self._position += len(data)
        return data

    def _drop(self) -> None:
        self._body.close()
        self._body = None

    def _connect(self) -> None:
        """Ask for the rest."""
        from botocore.exceptions import ClientError

        # A range even where it is all: the answer then says how much there is in all.
        last = "" if self._stop is None else self._stop - 1
        wanted = f"bytes={self._position}-{last}"
        try:
            response = self.s3.call("get_object", self.key, Range=wanted)
        except ClientError as error:
            if status_of(error) == NOT_SATISFIABLE and self._position == 0:
                self._total = 0  # an empty blob has no range
                return
            if code_of(error) in ("NoSuchKey", "404"):
                raise missing(self.digest, self.s3.url) from None
            raise
        self._accept(response)

    def _accept(self, response: Any) -> None:
        self._body = response["Body"]
        found = _CONTENT_RANGE.fullmatch(response.get("ContentRange") or "")
        begin, total = (
            (int(found[1]), int(found[3])) if found else (0, int(response["ContentLength"]))
        )
        if begin != self._position or self._total not in (None, total):
            self._drop()
            raise StorageError(
                f"the object store {self.s3.url} sent other bytes of blob {self.digest} than it "
                "was asked for; look into the server, or any proxy before it",
                digest=self.digest,
            )
        self._total = total
        if not found:
            self._stop = None  # the server knows no ranges: this is the whole blob


def read_ahead(first: S3Reader) -> Iterator[bytes]:
    """Yield all of a blob's bytes in order, while the next ranges are on their way.

    Args:
        first: Reads the first range.
    """
    starts = iter(range(first.end, first.total, PART_BYTES))
    slots = first.s3.connection.slots
    waiting: deque[Future[list[bytes]]] = deque()
    pool = ThreadPoolExecutor(_RANGES, "dovetail-range")

    def ask() -> None:
        # A reader that has ranges to take gives up rather than wait: others hold what it waits for.
        while len(waiting) < _RANGES and slots.acquire(blocking=not waiting):
            start = next(starts, None)
            if start is None:
                slots.release()
                return
            waiting.append(pool.submit(_read_range, first, start))

    try:
        if first.end < first.total:
            ask()
        while data := first.chunk(CHUNK_BYTES):
            yield data
        while waiting:
            try:
                yield from waiting[0].result()
            finally:
                waiting.popleft()
                slots.release()
            ask()
    finally:
        pool.shutdown(cancel_futures=True)
        for _ in waiting:
            slots.release()


def _read_range(first: S3Reader, start: int) -> list[bytes]:
    with S3Reader(
        first.s3, first.key, first.digest, start=start, stop=start + PART_BYTES
    ) as reader:
        return list(iter(lambda: reader.chunk(CHUNK_BYTES), b""))


class _InterruptedError(OSError):
    """The server's answer broke off."""


def missing(digest: str, url: str) -> StorageError:
    """Make the error that says that a blob is not there."""
    return StorageError(
        f"blob {digest} is missing from {url}; restore it from a copy", digest=digest
    )
