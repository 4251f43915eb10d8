"""Write a bundle: whole, or not under its name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from dovetail.errors import ConflictError, StorageError
from dovetail.registry.digests import copy_hashed, digest_file, require_digest
from dovetail.registry.durable import make_directory, sync
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.transport.bundle import BLOBS, MANIFEST, blob_name

ZIP_SUFFIX = ".zip"


class Writer(ABC):
    """Writes one bundle; it has its name when `finish` has returned.

    Args:
        path: The new file or directory.

    Raises:
        ConflictError: There is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def holds(self, digest: str, size: int) -> bool:
        """Tell whether a blob is in the bundle already, whole."""

    @abstractmethod
    def add(self, digest: str, size: int, source: BinaryIO) -> None:
        """Add a blob.

        Raises:
            DigestMismatch: The source has other bytes.
        """

    @abstractmethod
    def finish(self, manifest: bytes) -> None:
        """Add the manifest and give the bundle its name."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is not finished."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DirectoryWriter(Writer):
    """Blobs as an object store keeps them; the manifest comes last, so it says that all is there.

    A directory with blobs and without a manifest is an export that was cut short: it is gone on
    with.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if path.exists() and (not path.is_dir() or {p.name for p in path.iterdir()} - {BLOBS}):
            raise taken(path)
        self._store = LocalObjectStore(path / BLOBS)

    def holds(self, digest: str, size: int) -> bool:
        """See `Writer.holds`."""
        path = self._store.path(digest)
        return self._store.size(digest) == size and digest_file(path) == digest

    def add(self, digest: str, size: int, source: BinaryIO) -> None:  # noqa: ARG002 (a zip needs it)
        """See `Writer.add`."""
        self._store.put(digest, source)

    def finish(self, manifest: bytes) -> None:
        """See `Writer.finish`."""
        shutil.rmtree(self._store.directory / "tmp", ignore_errors=True)
        temporary = self.path / BLOBS / MANIFEST
        with storage_errors(self.path):
            make_directory(self.path / BLOBS)
            _write(temporary, manifest)
            temporary.rename(self.path / MANIFEST)
            sync(self.path)

    def close(self) -> None:
        """See `Writer.close`."""


class ZipWriter(Writer):
    """An uncompressed zip file, written beside its place under a name of its own.

    A lock says that it is being written; what a killed process left is written over.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if path.exists():
            raise taken(path)
        self._partial = path.with_name(f".{path.name}.partial")
        self._written: set[str] = set()
        with storage_errors(path):
            make_directory(path.absolute().parent)
            descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._file = os.fdopen(descriptor, "r+b")
            if not self._alone():
                self._file.close()
                raise ConflictError(
                    f"{str(path)!r} is being written by another process; wait for it, or choose "
                    "another name",
                    path=str(path),
                )
            self._file.truncate(0)
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)

    def _alone(self) -> bool:
        """Lock the file; tell whether that worked, and it is not another's finished file by now."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(self._partial.stat(), os.fstat(self._file.fileno()))
        except (BlockingIOError, FileNotFoundError):
            return False

    def holds(self, digest: str, size: int) -> bool:  # noqa: ARG002 (a directory needs it)
        """See `Writer.holds`."""
        return digest in self._written

    def add(self, digest: str, size: int, source: BinaryIO) -> None:
        """See `Writer.add`."""
        with storage_errors(self.path):
            info = zipfile.ZipInfo(blob_name(digest))  # without a date: the same bytes each time
            info.file_size = size
            with self._zip.open(info, "w") as member:
                found = copy_hashed(source, member)
        require_digest(found, expected=digest, what=f"blob {digest}")
        self._written.add(digest)

    def finish(self, manifest: bytes) -> None:
        """See `Writer.finish`."""
        with storage_errors(self.path):
            self._zip.writestr(zipfile.ZipInfo(MANIFEST), manifest)
            self._zip.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            if self.path.exists():
                raise taken(self.path)
            self._partial.rename(self.path)
            sync(self.path.absolute().parent)

    def close(self) -> None:
        """See `Writer.close`."""
        if not self._file.closed:
            with contextlib.suppress(OSError, ValueError):  # it would be tried again when forgotten
                self._zip.close()
            self._partial.unlink(missing_ok=True)
            self._file.close()


def open_writer(path: str | os.PathLike[str]) -> Writer:
    """Begin a bundle: a zip file if the name says so, else a directory.

    Raises:
        ConflictError: There is something else.
        StorageError: It cannot be written.
    """
    place = Path(path)
    with storage_errors(place):
        if place.suffix.lower() == ZIP_SUFFIX and not place.is_dir():
            return ZipWriter(place)
        return DirectoryWriter(place)


def taken(path: Path) -> ConflictError:
    """Return the error for a place that is taken."""
    return ConflictError(
        f"{str(path)!r} exists already; choose another name, or remove it", path=str(path)
    )


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk into ours."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write the export {str(path)!r}: {error.strerror or error}; check the disk's "
            "free space and the folder's permissions",
            path=str(path),
        ) from error


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
