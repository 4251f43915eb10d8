"""Blobs as objects in an S3 bucket: ``prefix/sha256/ab/cdef…``.

A blob is written under the condition that there is none of its name; its name is its content, so
it does not matter who wrote it. Servers that ignore the condition write the same bytes again. A
large blob goes up in parts (`multipart`) and is completed when its hash is known to be right; a
small one is sent when it was hashed.

What lies under a name already is not read again: its size, and its SHA-256 where the server keeps
it, say whether it is whole. Reading verifies; `dovetail verify` reads everything.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from dovetail.errors import StorageError
from dovetail.registry.digests import CHUNK_BYTES, require_digest
from dovetail.registry.objects.newfile import NewFile
from dovetail.registry.objects.protocol import (
    BlobInfo,
    Leftover,
    Source,
    check_digest,
    described,
    opened,
)
from dovetail.registry.objects.s3client import NOT_FOUND, PART_BYTES, S3Client, status_of
from dovetail.registry.objects.s3reader import S3Reader, read_ahead
from dovetail.registry.objects.s3writer import put, stored
from dovetail.registry.progress import Moved
from dovetail.settings import S3Settings

_FAN_OUT = 2
_KEY = re.compile(r"sha256/([0-9a-f]{2})/([0-9a-f]{62})")
_DELETE_BATCH = 1000  # S3 takes no more in one request


class S3ObjectStore:
    """An `ObjectStore` in a bucket.

    Args:
        bucket: The bucket, which exists.
        prefix: What the keys begin with; a slash follows it.
        settings: How to talk to the server.
    """

    def __init__(self, bucket: str, prefix: str = "", *, settings: S3Settings) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{quote(prefix)}".rstrip("/")
        self._s3 = S3Client(bucket, url=self.url, settings=settings)

    def put(self, digest: str, source: Source, *, progress: Moved | None = None) -> bool:
        """See `ObjectStore.put`."""
        key = self._key(digest)
        with opened(source) as stream, self._s3.errors("write"):
            return put(self._s3, key, digest, stream, what=described(source), progress=progress)

    def fetch(self, digest: str, target: Path, *, progress: Moved | None = None) -> None:
        """See `ObjectStore.fetch`."""
        state = hashlib.sha256()
        with self._reader(digest, stop=PART_BYTES) as reader:
            reader.connect()  # before there is a file: the blob may be missing
            with NewFile(target) as file:
                for data in read_ahead(reader):
                    state.update(data)
                    file.write(data)
                    if progress is not None:
                        progress(len(data))
                found = f"sha256:{state.hexdigest()}"
                require_digest(found, expected=digest, what=f"blob {digest} in {self.url}")

    def open(self, digest: str) -> BinaryIO:
        """See `ObjectStore.open`."""
        reader = self._reader(digest)
        reader.connect()  # says now if the blob is missing
        return cast("BinaryIO", io.BufferedReader(reader, CHUNK_BYTES))

    def size(self, digest: str) -> int | None:
        """See `ObjectStore.size`."""
        with self._s3.errors("read"):
            found = stored(self._s3, self._key(digest))
            if found is None:
                self._s3.require_bucket()
            return None if found is None else found.size

    def delete(self, digest: str) -> None:
        """See `ObjectStore.delete`."""
        with self._s3.errors("delete from"):
            self._s3.call("delete_object", self._key(digest))

    def delete_many(self, digests: Iterable[str]) -> None:
        """See `ObjectStore.delete_many`."""
        keys = (self._key(digest) for digest in digests)
        with self._s3.errors("delete from"):
            while batch := [{"Key": key} for key in islice(keys, _DELETE_BATCH)]:
                answer = self._s3.call("delete_objects", Delete={"Objects": batch, "Quiet": True})
                for error in answer.get("Errors", ()):
                    raise StorageError(
                        f"cannot delete {error.get('Key')} from the object store {self.url}: "
                        f"{error.get('Message') or error.get('Code')}; check the permissions",
                        url=self.url,
                    )

    def blobs(self) -> Iterator[BlobInfo]:
        """See `ObjectStore.blobs`."""
        last = None  # keys come in order; rclone names one twice that was written twice at once
        with self._s3.errors("list"):
            for page in self._s3.pages("list_objects_v2", Prefix=f"{self.prefix}sha256/"):
                for item in page.get("Contents", ()):
                    if (named := self._named(item["Key"])) and named != last:
                        last = named
                        yield BlobInfo(
                            digest=named, size=item["Size"], modified_at=item["LastModified"]
                        )

    def leftovers(self) -> Iterator[Leftover]:
        """See `ObjectStore.leftovers`."""
        with self._s3.errors("list"):
            for page in self._s3.pages("list_multipart_uploads", Prefix=f"{self.prefix}sha256/"):
                for item in page.get("Uploads", ()):
                    if self._named(item["Key"]):
                        yield Leftover(
                            name=f"{item['Key']}?uploadId={item['UploadId']}",
                            size=None,
                            modified_at=item["Initiated"],
                        )

    def discard(self, leftover: Leftover) -> None:
        """See `ObjectStore.discard`."""
        from botocore.exceptions import ClientError

        key, _, upload = leftover.name.partition("?uploadId=")
        with self._s3.errors("delete from"):
            try:
                self._s3.call("abort_multipart_upload", key, UploadId=upload)
            except ClientError as error:
                if status_of(error) != NOT_FOUND:
                    raise

    def _reader(self, digest: str, *, stop: int | None = None) -> S3Reader:
        return S3Reader(self._s3, self._key(digest), digest, stop=stop)

    def _key(self, digest: str) -> str:
        digits = check_digest(digest)
        return f"{self.prefix}sha256/{digits[:_FAN_OUT]}/{digits[_FAN_OUT:]}"

    def _named(self, key: str) -> str | None:
        """Return the digest that a key stands for."""
        found = _KEY.fullmatch(key.removeprefix(self.prefix))
        return f"sha256:{found[1]}{found[2]}" if found else None
