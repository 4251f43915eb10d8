"""Large blobs go to S3 in parts: several at once, hashed on the way, few in memory."""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO, Self

from dovetail.registry.objects.s3client import CONCURRENCY, PART_BYTES, S3Client
from dovetail.registry.progress import Moved


class MultipartUpload:
    """An upload in parts; it comes to nothing unless it is completed in the ``with`` block.

    Args:
        s3: Where to.
        key: The object's key.
    """

    def __init__(self, s3: S3Client, key: str) -> None:
        self._s3 = s3
        self._key = key
        self._upload_id = ""
        self._parts: list[dict[str, Any]] = []
        self._completed = False
        self.size = 0

    def __enter__(self) -> Self:
        algorithm = {"ChecksumAlgorithm": "CRC32"} if self._s3.checksums else {}
        made = self._s3.call("create_multipart_upload", self._key, **algorithm)
        self._upload_id = made["UploadId"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._completed:
            from botocore.exceptions import BotoCoreError, ClientError

            # What cannot be aborted now is a leftover, which garbage collection finds.
            with contextlib.suppress(BotoCoreError, ClientError):
                self._s3.call("abort_multipart_upload", self._key, UploadId=self._upload_id)

    def send(self, stream: BinaryIO, first: bytes, progress: Moved | None) -> str:
        """Send a stream whose beginning was read already; return the digest of it all."""
        slots = self._s3.connection.slots
        state = hashlib.sha256()
        waiting: deque[Future[dict[str, Any]]] = deque()
        pool = ThreadPoolExecutor(CONCURRENCY, "dovetail-part")
        try:
            data = first
            while data:
                slots.acquire()
                number = len(self._parts) + len(waiting) + 1
                try:
                    sent = pool.submit(self._send_part, number, data)
                except BaseException:
                    slots.release()
                    raise
                sent.add_done_callback(lambda _: slots.release())
                waiting.append(sent)
                # While the part is on its way:
                state.update(data)
                self.size += len(data)
                self._collect(waiting, progress, only_done=True)
                data = read_part(stream)
            self._collect(waiting, progress, only_done=False)
        finally:
            pool.shutdown(cancel_futures=True)
        return f"sha256:{state.hexdigest()}"

    def complete(self, condition: dict[str, str]) -> None:
        """Make one object of the parts, on a condition."""
        self._s3.call(
            "complete_multipart_upload",
            self._key,
            UploadId=self._upload_id,
            MultipartUpload={"Parts": self._parts},
            **condition,
        )
        self._completed = True

    def _collect(
        self,
        waiting: deque[Future[dict[str, Any]]],
        progress: Moved | None,
        *,
        only_done: bool,
    ) -> None:
        while waiting and (waiting[0].done() or not only_done):
            part = waiting.popleft().result()
            moved = part.pop("size")
            self._parts.append(part)
            if progress is not None:
                progress(moved)

    def _send_part(self, number: int, data: bytes) -> dict[str, Any]:
        answer = self._s3.call(
            "upload_part", self._key, UploadId=self._upload_id, PartNumber=number, Body=data
        )
        part = {"PartNumber": number, "ETag": answer["ETag"], "size": len(data)}
        if "ChecksumCRC32" in answer:
            part["ChecksumCRC32"] = answer["ChecksumCRC32"]
        return part


def read_part(stream: BinaryIO) -> bytes:
    """Read one part; less only at the stream's end."""
    data = stream.read(PART_BYTES)
    if len(data) in (0, PART_BYTES):
        return data
    pieces = [data]
    missing = PART_BYTES - len(data)
    while missing and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
