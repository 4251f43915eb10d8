"""Where blobs are kept: immutable bytes under the SHA-256 of their content."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from dovetail.errors import InvalidInput
from dovetail.registry.objects.local import LocalObjectStore
from dovetail.registry.objects.memory import MemoryObjectStore
from dovetail.registry.objects.protocol import BlobInfo, ObjectStore, check_digest

__all__ = [
    "BlobInfo",
    "LocalObjectStore",
    "MemoryObjectStore",
    "ObjectStore",
    "check_digest",
    "open_object_store",
]


def open_object_store(url: str) -> ObjectStore:
    """Open the object store that a URL names.

    Args:
        url: ``file:///directory``.

    Raises:
        InvalidInput: The scheme is unknown, or the URL names another host.
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise InvalidInput(
            f"objects URL {url!r} has the unknown scheme {parts.scheme!r}; write file:///DIRECTORY",
            url=url,
        )
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise InvalidInput(
            f"objects URL {url!r} names a host; write three slashes: file:///DIRECTORY", url=url
        )
    return LocalObjectStore(unquote(parts.path))
