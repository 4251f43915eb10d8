"""Folders of payloads that were hashed, and are what they were as long as they look the same."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from dovetail.registry import statcache
from dovetail.registry.digests import digest_file
from dovetail.registry.payload import PayloadFile, payload_digest

_MAX_WAIT_MS = 50


class Verified:
    """Tells whether folders hold the payloads that they should.

    Args:
        memory: Where to keep what files looked like when they were hashed.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory

    def check(self, place: Path, digest: str) -> bool:
        """Tell whether a folder holds a payload and nothing else.

        Files are read only if one of them has another inode, size or time than when they were
        hashed.
        """
        try:
            if place.is_symlink():
                return False
            paths = files_in(place)
            stamps = statcache.stamps(paths)
            if statcache.load(self._entry(place), stamps) == digest.encode():
                return True
            found = payload_digest(
                PayloadFile(
                    path.relative_to(place).as_posix(), path.lstat().st_size, digest_file(path)
                )
                for path in paths
            )
        except OSError:
            return False
        if found == digest:
            statcache.store(self._entry(place), stamps, digest.encode())
        return found == digest

    def add(self, place: Path, digest: str) -> None:
        """Note a folder whose files were hashed and then left to `settle`."""
        stamps = statcache.stamps(files_in(place))
        statcache.store(self._entry(place), stamps, digest.encode(), settled=True)

    def forget(self, place: Path) -> None:
        """Hash a folder when it is checked next."""
        shutil.rmtree(self._entry(place), ignore_errors=True)

    def _entry(self, place: Path) -> Path:
        return self._memory / place.name


def files_in(folder: Path) -> list[Path]:
    """Return all in a folder, and in those below it, that is no folder."""
    return [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


def settle(folder: Path) -> bool:
    """Wait until the file system's clock has moved on; tell whether it did soon.

    A later change of the folder's files then has a later time. So what was hashed as it was
    written, while it was out of everybody's reach, can be told by its times from then on.
    """
    newest = max(path.lstat().st_ctime_ns for path in files_in(folder))
    probe = folder / "clock"
    probe.touch()
    for _ in range(_MAX_WAIT_MS):
        if probe.stat().st_mtime_ns > newest:
            return True
        time.sleep(0.001)
        os.utime(probe)
    return False
