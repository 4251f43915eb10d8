"""A file that is there when it is whole, and not before."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from dovetail.errors import StorageError


class NewFile:
    """Write a file that nobody else has; it goes away again if the ``with`` block fails.

    Args:
        path: A file that does not exist, in a folder that does.

    Raises:
        StorageError: The file exists or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise self._failure(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        except OSError as failure:  # a network file system may notice a full disk only now
            self._remove()
            if kind is None:
                raise self._failure(failure) from failure
        if kind is not None:
            self._remove()

    def write(self, data: bytes) -> None:
        """Write all of the bytes.

        Raises:
            StorageError: The disk is full, or the like.
        """
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._failure(error) from error

    def _remove(self) -> None:
        with suppress(OSError):
            self.path.unlink()

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write {str(self.path)!r}: {error.strerror or os.strerror(error.errno or 0)}; "
            "check the disk's free space and the folder's permissions",
            path=str(self.path),
            errno=error.errno,
        )
