"""Where blobs are kept: immutable bytes under the SHA-256 of their content."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

from dovetail.errors import InvalidInput
from dovetail.registry.objects.local import LocalObjectStore
from dovetail.registry.objects.memory import MemoryObjectStore
from dovetail.registry.objects.protocol import BlobInfo, Leftover, ObjectStore, check_digest
from dovetail.settings import S3Settings

__all__ = [
    "BlobInfo",
    "Leftover",
    "LocalObjectStore",
    "MemoryObjectStore",
    "ObjectStore",
    "check_digest",
    "open_object_store",
]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


def open_object_store(url: str) -> ObjectStore:
    """Open the object store that a URL names; nothing is read or made yet.

    Args:
        url: ``file:///directory`` or ``s3://bucket/prefix``.

    Raises:
        InvalidInput: The URL cannot be used.
        MissingDependency: It takes a library that is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return _open_s3(url, parts)
    if parts.scheme != "file":
        raise InvalidInput(
            f"objects URL {url!r} has the unknown scheme {parts.scheme!r}; write file:///DIRECTORY "
            "or s3://BUCKET/PREFIX",
            url=url,
        )
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise InvalidInput(
            f"objects URL {url!r} names a host; write three slashes: file:///DIRECTORY", url=url
        )
    return LocalObjectStore(unquote(parts.path))


def _open_s3(url: str, parts: SplitResult) -> ObjectStore:
    from dovetail.registry.objects.s3 import S3ObjectStore

    bucket, prefix = parts.netloc, unquote(parts.path).strip("/")
    if not _BUCKET.fullmatch(bucket) or parts.query or parts.fragment:
        raise InvalidInput(
            f"objects URL {url!r} names no bucket; write s3://BUCKET/PREFIX, and the server into "
            "DOVETAIL_S3_ENDPOINT_URL",
            url=url,
        )
    return S3ObjectStore(bucket, prefix, settings=S3Settings.from_env())
