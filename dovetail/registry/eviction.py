"""Keeping a cache of payloads within its bounds: the least recently used go first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

# Making room for a little more than is needed spares the next fill from looking again.
_ROOM = 0.9


def make_room(
    payloads: Path,
    blobs: Path,
    *,
    limit: int,
    keep: Collection[str],
    discard: Callable[[Path], None],
) -> int:
    """Remove the payloads used longest ago until the rest fits; return how many bytes are left.

    A file with several names counts once. Names of blobs that no payload has are removed, too.

    Args:
        payloads: Folder with a folder for each payload; its time says when it was used last.
        blobs: Folder with further names of the same files: ``ab/cdef…``.
        limit: Bytes that may be there.
        keep: Names of payloads that are in use.
        discard: Removes one payload.
    """
    held = {folder: _inodes(folder) for folder in payloads.iterdir()}
    uses = Counter(inode for inodes in held.values() for inode in inodes)
    sizes = {inode: size for inodes in held.values() for inode, size in inodes.items()}
    total = sum(sizes.values())
    goal = total if total <= limit else int(limit * _ROOM)
    for folder in sorted(held, key=lambda folder: folder.lstat().st_mtime_ns):
        if total <= goal:
            break
        if folder.name in keep:
            continue
        discard(folder)
        uses.subtract(held[folder].keys())
        total -= sum(sizes.pop(inode) for inode in held[folder] if not uses[inode])
    for blob in blobs.glob("??/*"):
        if blob.lstat().st_ino not in sizes:
            blob.unlink()
    return total


def _inodes(folder: Path) -> dict[int, int]:
    """Return the sizes of the files in a folder, by inode."""
    stats = [path.lstat() for path in folder.rglob("*") if not path.is_dir()]
    return {stat.st_ino: stat.st_size for stat in stats}
