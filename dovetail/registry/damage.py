"""One blob: is it in the store as it was written, and can it be put right?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from dovetail.errors import DigestMismatch, StorageError
from dovetail.registry.digests import copy_hashed
from dovetail.registry.objects import ObjectStore

Problem: TypeAlias = Literal["missing", "corrupt"]
Blob: TypeAlias = tuple[str, int]
"""A blob's digest and recorded size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadBlob:
    """A blob that is not in the object store as it was written.

    Attributes:
        digest: Its digest.
        size: Its recorded size in bytes.
        problem: ``missing`` or ``corrupt``.
        detail: What was found, in words.
        named_by: What cannot be used without it: files of versions, base models, evaluations.
    """

    digest: str
    size: int
    problem: Problem
    detail: str
    named_by: tuple[str, ...] = ()


def check_blob(objects: ObjectStore, blob: Blob) -> BadBlob | None:
    """Read a blob to its end; return what is wrong with it, or None."""
    digest, size = blob
    count = _Count()
    try:
        with contextlib.closing(objects.open(digest)) as stream:
            found = copy_hashed(stream, count)
    except StorageError:
        if objects.size(digest) is not None:
            raise  # it is there, and cannot be reached
        problem: Problem = "missing"
        detail = "it is not in the object store"
    except OSError as error:
        problem, detail = "corrupt", f"it cannot be read: {error.strerror or error}"
    else:
        # Equal bytes are of equal length, unless the record is wrong.
        if found == digest and count.size == size:
            return None
        problem, detail = "corrupt", f"its bytes hash to {found}"
        if found == digest:
            detail = f"{size:,} bytes are recorded, it has {count.size:,}"
    return BadBlob(digest=digest, size=size, problem=problem, detail=detail)


def replace_blob(
    objects: ObjectStore, bad: BadBlob, other: ObjectStore, copy: Path
) -> BadBlob | None:
    """Replace a bad blob by a copy from another store; return what is still wrong, or None."""
    if other.size(bad.digest) is None:
        return replace(bad, detail=f"{bad.detail}, nor in {other.url}")
    try:
        other.fetch(bad.digest, copy)
    except DigestMismatch:
        return replace(bad, detail=f"{bad.detail}; its copy in {other.url} is corrupt, too")
    try:
        # A store need not look at the bytes that it has under a name, so the bad ones go first.
        # Whoever is killed in between leaves a missing blob, which can be repaired as well.
        if bad.problem == "corrupt":
            objects.delete(bad.digest)
        objects.put(bad.digest, copy)
    finally:
        copy.unlink()
    return check_blob(objects, (bad.digest, bad.size))


class _Count:
    """Takes bytes and counts them."""

    size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
