"""Reading payloads back: every byte is hashed before anyone uses it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dovetail.errors import ConflictError, DigestMismatch, StorageError
from dovetail.registry.digests import copy_hashed, digest_file, require_digest
from dovetail.registry.objects import ObjectStore, check_digest
from dovetail.registry.payload import check_file_path
from dovetail.registry.records import AdapterVersion


def pull_to(objects: ObjectStore, version: AdapterVersion, directory: Path) -> Path:
    """Write a version's files to a directory that does not exist yet, or is empty.

    Raises:
        ConflictError: The directory has something in it.
        DigestMismatch: A blob is corrupt; the directory is as it was.
        StorageError: The directory or a blob cannot be reached.
    """
    target = directory.absolute()
    with _storage_errors(version, target):
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if taken:
        raise ConflictError(
            f"{str(directory)!r} exists and is not empty; pull to another place or remove it",
            path=str(directory),
        )
    _fill(objects, version, target)
    return target


def pull_to_cache(objects: ObjectStore, version: AdapterVersion, cache_dir: Path) -> Path:
    """Return a verified, read-only copy in the cache; processes share it.

    A damaged copy is thrown away and made again.
    """
    target = cache_dir / "payloads" / check_digest(version.payload_digest)
    with _storage_errors(version, target):
        if target.is_dir():
            with contextlib.suppress(DigestMismatch, OSError):
                _verify(version, target)
                return target
            shutil.rmtree(target, ignore_errors=True)
    try:
        _fill(objects, version, target, mode=0o444)
    except StorageError:
        # Another process may have been quicker: its copy serves if it is good.
        if not os.path.isdir(target):  # noqa: PTH112 (never raises)
            raise
        with _storage_errors(version, target):
            _verify(version, target)
    return target


def _fill(
    objects: ObjectStore, version: AdapterVersion, target: Path, *, mode: int | None = None
) -> None:
    with _storage_errors(version, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pull-") as scratch:
            whole = Path(scratch) / "payload"
            whole.mkdir()
            for file in version.files:
                _fetch(objects, version, file.path, file.digest, whole)
                if mode is not None:
                    (whole / file.path).chmod(mode)
            whole.rename(target)


@contextlib.contextmanager
def _storage_errors(version: AdapterVersion, target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {version.reference} to {str(target)!r}: {error.strerror}; check the "
            "disk's free space and the folder's permissions",
            path=str(target),
        ) from error


def _fetch(
    objects: ObjectStore, version: AdapterVersion, path: str, digest: str, directory: Path
) -> None:
    place = directory / check_file_path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(objects.open(digest)) as source, place.open("xb") as copy:
        found = copy_hashed(source, copy)
    require_digest(found, expected=digest, what=f"{path} of {version.reference}")


def _verify(version: AdapterVersion, directory: Path) -> None:
    extra = {path.name for path in directory.iterdir()} - {
        file.path.partition("/")[0] for file in version.files
    }
    if extra:
        raise DigestMismatch(
            f"the cached copy of {version.reference} in {str(directory)!r} holds "
            f"{min(extra)!a}, which is none of its files; remove that folder",
            path=str(directory),
        )
    for file in version.files:
        found = digest_file(directory / check_file_path(file.path))
        require_digest(found, expected=file.digest, what=f"cached {file.path}")
