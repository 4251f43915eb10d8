"""Blobs as files in a directory: ``sha256/ab/cdef…``.

A blob is written under ``tmp/``, flushed to the disk, and then linked to its name. The link either
is there or is not, so no reader ever sees half a blob; and it fails if the name exists, so no
writer ever replaces one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from dovetail.errors import StorageError
from dovetail.registry.digests import (
    copy_hashed,
    digest_file,
    digest_stream,
    is_digest,
    require_digest,
)
from dovetail.registry.durable import make_directory, sync
from dovetail.registry.objects.newfile import NewFile
from dovetail.registry.objects.protocol import (
    BlobInfo,
    Leftover,
    Source,
    check_digest,
    described,
    opened,
)
from dovetail.registry.progress import Moved

_FAN_OUT = 2
_REST = 64 - _FAN_OUT
_PREFIX = "put-"


class LocalObjectStore:
    """An `ObjectStore` in a directory, made on first write.

    Args:
        directory: Where the blobs are kept.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()

    @property
    def url(self) -> str:
        """The ``file://`` URL of the directory."""
        return self.directory.as_uri()

    def put(self, digest: str, source: Source, *, progress: Moved | None = None) -> bool:
        """See `ObjectStore.put`."""
        target = self.path(digest)
        with opened(source) as stream, self._storage_errors("write"):
            if self._is_whole(target, digest):
                require_digest(digest_stream(stream), expected=digest, what=described(source))
                return False
            make_directory(target.parent)
            make_directory(self._scratch)
            with tempfile.NamedTemporaryFile(dir=self._scratch, prefix=_PREFIX) as temporary:
                file = cast("BinaryIO", temporary.file)
                found = copy_hashed(stream, file, progress=progress)
                require_digest(found, expected=digest, what=described(source))
                temporary.flush()
                os.fchmod(temporary.fileno(), 0o444)
                os.fsync(temporary.fileno())
                self._name(temporary.name, target, digest)
            sync(target.parent)
        return True

    def fetch(self, digest: str, target: Path, *, progress: Moved | None = None) -> None:
        """See `ObjectStore.fetch`."""
        with self.open(digest) as stream, self._storage_errors("read"), NewFile(target) as file:
            found = copy_hashed(stream, file, progress=progress)
            require_digest(found, expected=digest, what=f"blob {digest} in {self.url}")

    def open(self, digest: str) -> BinaryIO:
        """See `ObjectStore.open`."""
        path = self.path(digest)
        with self._storage_errors("read"):
            try:
                return path.open("rb")
            except FileNotFoundError:
                raise StorageError(
                    f"blob {digest} is missing from {self.url}; restore it from a copy",
                    digest=digest,
                ) from None

    def size(self, digest: str) -> int | None:
        """See `ObjectStore.size`."""
        path = self.path(digest)
        with self._storage_errors("read"):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

    def delete(self, digest: str) -> None:
        """See `ObjectStore.delete`."""
        path = self.path(digest)
        with self._storage_errors("delete from"):
            path.unlink(missing_ok=True)

    def delete_many(self, digests: Iterable[str]) -> None:
        """See `ObjectStore.delete_many`."""
        for digest in digests:
            self.delete(digest)

    def blobs(self) -> Iterator[BlobInfo]:
        """See `ObjectStore.blobs`."""
        with self._storage_errors("list"):
            for path in self.directory.glob(f"sha256/{'?' * _FAN_OUT}/{'?' * _REST}"):
                digest = f"sha256:{path.parent.name}{path.name}"
                try:
                    info = path.stat()
                except FileNotFoundError:  # deleted meanwhile
                    continue
                if is_digest(digest):
                    yield BlobInfo(digest=digest, size=info.st_size, modified_at=_modified_at(info))

    def leftovers(self) -> Iterator[Leftover]:
        """See `ObjectStore.leftovers`."""
        with self._storage_errors("list"):
            for path in self._scratch.glob(f"{_PREFIX}*"):
                try:
                    info = path.stat()
                except FileNotFoundError:  # its writer has finished
                    continue
                yield Leftover(name=path.name, size=info.st_size, modified_at=_modified_at(info))

    def discard(self, leftover: Leftover) -> None:
        """See `ObjectStore.discard`."""
        with self._storage_errors("delete from"):
            (self._scratch / Path(leftover.name).name).unlink(missing_ok=True)

    def path(self, digest: str) -> Path:
        """Return where a blob lies, or would lie."""
        digits = check_digest(digest)
        return self.directory / "sha256" / digits[:_FAN_OUT] / digits[_FAN_OUT:]

    @property
    def _scratch(self) -> Path:
        return self.directory / "tmp"

    def _is_whole(self, target: Path, digest: str) -> bool:
        """Tell whether a good copy is there."""
        return target.exists() and digest_file(target) == digest

    def _name(self, written: str, target: Path, digest: str) -> None:
        """Give a written file its name, unless a good copy has it by now."""
        try:
            os.link(written, target)
        except FileExistsError:
            if self._is_whole(target, digest):
                return
            # A damaged copy: good bytes take its place in one step, whoever else repairs it.
            spare = f"{written}.repair"
            os.link(written, spare)
            os.replace(spare, target)  # noqa: PTH105 (beside os.link, for the same names)

    @contextmanager
    def _storage_errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot {verb} the object store {self.url}: {error.strerror or error}; "
                "check the disk's free space and the folder's permissions",
                url=self.url,
                errno=error.errno,
            ) from error


def _modified_at(info: os.stat_result) -> datetime:
    return datetime.fromtimestamp(info.st_mtime, UTC)
