"""Who uses what in a folder that processes share, told by locks that end with their process.

However a process comes to its end, the kernel takes its locks away: nothing here waits for a
time-out, and nothing stays taken for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file; wait until nobody holds it, or nobody alone if it is to be shared."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Lease:
    """A locked file with the names of what this process uses; `living` reads it.

    A lease that is not ended ends when nobody refers to it, and with the process. A forked child
    shares it with its parent.

    Args:
        folder: Where the leases are. Make leases, and add to them, under a lock that whoever calls
            `living` holds alone.
    """

    def __init__(self, folder: Path) -> None:
        self.id = uuid.uuid4().hex
        self._path = folder / self.id
        self._owner = os.getpid()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o666)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def add(self, name: str) -> None:
        """Say that this process uses something."""
        os.write(self._descriptor, f"{name}\n".encode())

    @property
    def is_lost(self) -> bool:
        """Whether somebody removed the file, as when a whole cache is deleted."""
        return os.fstat(self._descriptor).st_nlink == 0

    def end(self) -> None:
        """Give everything back."""
        if os.getpid() == self._owner:
            self._path.unlink(missing_ok=True)
        self._close()


def living(folder: Path) -> dict[str, set[str]]:
    """Return what each living lease names, by the lease's id; remove what dead ones left."""
    found = {}
    for path in folder.iterdir():
        # One that ends meanwhile is gone.
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found[path.name] = set(file.read().split())
            else:
                path.unlink(missing_ok=True)
    return found
