"""Files and names that are whole: on the disk when it matters, or replaced in one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def make_directory(directory: Path) -> None:
    """Make a directory, its parents too, so that a crash cannot lose it."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync(directory.parent)


def replace_file(target: Path, data: bytes) -> None:
    """Write a file so that readers see the old bytes or the new ones, and no others.

    It need not outlive a loss of power: this is for what can be made again.
    """
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
