"""Writing to S3: on the condition that nothing is there, and whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from dovetail.errors import StorageError
from dovetail.registry.digests import CHUNK_BYTES, digest_bytes, require_digest
from dovetail.registry.objects.multipart import MultipartUpload, read_part
from dovetail.registry.objects.s3client import (
    CONFLICT,
    NOT_FOUND,
    PART_BYTES,
    PRECONDITION_FAILED,
    S3Client,
    retrying,
    status_of,
)
from dovetail.registry.progress import Moved

if TYPE_CHECKING:
    from tenacity import Retrying


@dataclass(frozen=True, slots=True)
class Stored:
    """What the server says of an object: its size, and its SHA-256 where it keeps that."""

    size: int
    digest: str | None

    def is_blob(self, digest: str, size: int) -> bool:
        """Tell whether this may be the blob."""
        return self.size == size and self.digest in (None, digest)


def stored(s3: S3Client, key: str) -> Stored | None:
    """Ask what lies under a key; None if nothing does."""
    from botocore.exceptions import ClientError

    mode = {"ChecksumMode": "ENABLED"} if s3.checksums else {}
    try:
        answer = s3.call("head_object", key, **mode)
    except ClientError as error:
        if status_of(error) == NOT_FOUND:
            return None
        raise
    return Stored(answer["ContentLength"], _digest_of(answer.get("ChecksumSHA256")))


def put(
    s3: S3Client,
    key: str,
    digest: str,
    stream: BinaryIO,
    *,
    what: str,
    progress: Moved | None,
) -> bool:
    """Write a blob; see `ObjectStore.put`."""
    first = read_part(stream)
    if len(first) < PART_BYTES:
        require_digest(digest_bytes(first), expected=digest, what=what)
        created = _put_small(s3, key, digest, first)
        if progress is not None and created:
            progress(len(first))
        return created
    start = stream.tell() - len(first) if stream.seekable() else None
    there = stored(s3, key)
    if there is not None:
        found, size = _digest_and_size(first, stream)
        require_digest(found, expected=digest, what=what)
        if there.is_blob(digest, size):
            return False
        first = _again(stream, start, key)
    for attempt in _until_no_conflict():
        with attempt:
            if attempt.retry_state.attempt_number > 1:
                first = _again(stream, start, key)
            with MultipartUpload(s3, key) as upload:
                found = upload.send(stream, first, progress)
                require_digest(found, expected=digest, what=what)
                created = _create(
                    s3, key, digest, upload.size, upload.complete, conditional=there is None
                )
            _require_whole(s3, key, digest, upload.size)
    return created


def _put_small(s3: S3Client, key: str, digest: str, data: bytes) -> bool:
    there = stored(s3, key)
    if there is not None and there.is_blob(digest, len(data)):
        return False
    checksum = {"ChecksumSHA256": _base64(digest)} if s3.checksums else {}

    def write(condition: dict[str, str]) -> None:
        s3.call("put_object", key, Body=data, **checksum, **condition)

    return _until_no_conflict()(
        _create, s3, key, digest, len(data), write, conditional=there is None
    )


def _create(
    s3: S3Client,
    key: str,
    digest: str,
    size: int,
    write: Callable[[dict[str, str]], None],
    *,
    conditional: bool,
) -> bool:
    """Let `write` make the object where there is none; return False if another did."""
    from botocore.exceptions import ClientError

    try:
        write({"IfNoneMatch": "*"} if conditional else {})
    except ClientError as error:
        # 404 means that there is no such upload: an answer was lost, and the request sent again.
        if status_of(error) not in (PRECONDITION_FAILED, NOT_FOUND):
            raise
        there = stored(s3, key)
        if there is not None and there.is_blob(digest, size):
            return False
        if status_of(error) == NOT_FOUND:
            raise
        write({})  # what is there is damaged
    return True


def _require_whole(s3: S3Client, key: str, digest: str, size: int) -> None:
    there = stored(s3, key)
    if there is None or not there.is_blob(digest, size):
        found = "nothing" if there is None else f"{there.size:,} bytes"
        raise StorageError(
            f"the object store {s3.url} took the {size:,} bytes of blob {digest} and has {found}; "
            "look into the server, or any proxy before it",
            digest=digest,
        )


def _again(stream: BinaryIO, start: int | None, key: str) -> bytes:
    """Read the first part of a stream again."""
    if start is None:
        raise StorageError(
            f"{key} has to be written again, and its source can be read only once; try again"
        )
    stream.seek(start, io.SEEK_SET)
    return read_part(stream)


def _until_no_conflict() -> Retrying:
    """Try again while others write the same blob."""
    return retrying(lambda error: status_of(error) == CONFLICT)


def _digest_and_size(first: bytes, stream: BinaryIO) -> tuple[str, int]:
    state, size = hashlib.sha256(first), len(first)
    while chunk := stream.read(CHUNK_BYTES):
        state.update(chunk)
        size += len(chunk)
    return f"sha256:{state.hexdigest()}", size


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest.removeprefix("sha256:"))).decode("ascii")


def _digest_of(checksum: str | None) -> str | None:
    """Read a checksum of the server's; one of parts' checksums has a number behind it."""
    if checksum is None or "-" in checksum:
        return None
    return f"sha256:{base64.b64decode(checksum).hex()}"
