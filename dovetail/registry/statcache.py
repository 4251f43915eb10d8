"""Remember what was computed from files for as long as the files stay as they were."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from dovetail.errors import InvalidInput
from dovetail.registry.digests import digest_bytes
from dovetail.registry.durable import replace_file
from dovetail.registry.jsontext import canonical_json, parse_json

Stamps: TypeAlias = Sequence[Sequence[str | int]]
"""What changes when one of some files does: of each its path, size, times and inode."""

_MAX_BYTES = 512 * 2**20
_FORMAT = 1
# A file written twice within one tick of the kernel's clock keeps its times, so what was computed
# from a file this young is not kept.
_YOUNG_NS = 50_000_000


def stamps(paths: Iterable[Path]) -> Stamps:
    """Return what changes when one of the files does."""
    found: list[list[str | int]] = []
    for path in sorted(paths):
        place = path.resolve()
        stat = place.stat()
        found.append(
            [
                os.fsencode(place).hex(),
                stat.st_size,
                stat.st_mtime_ns,
                stat.st_ctime_ns,
                stat.st_ino,
            ]
        )
    return found


def load(folder: Path, files: Stamps) -> bytes | None:
    """Return what was kept for these files, or None; a damaged entry counts as none."""
    try:
        head, _, value = _place(folder, files).read_bytes().partition(b"\n")
        entry = parse_json(head, what="cache entry", max_bytes=_MAX_BYTES)
        sound = (
            entry["format"] == _FORMAT
            and entry["files"] == files
            and entry["digest"] == digest_bytes(value)
        )
    except (OSError, InvalidInput, KeyError, TypeError):
        return None
    return value if sound else None


def store(folder: Path, files: Stamps, value: bytes, *, settled: bool = False) -> None:
    """Keep a value for these files; a cache that cannot be written is not an error.

    An entry is a line of JSON, which says what the value was made from, and the value as it is, so
    that a large one is not wrapped up and unwrapped.

    Args:
        folder: Where entries are.
        files: The files' `stamps` from before they were read.
        value: What to keep.
        settled: The clock has moved on since the files were written, before anybody else could
            reach them; so they need not be of an age.
    """
    newest = max((int(time_) for entry in files for time_ in entry[2:4]), default=0)
    if not settled and time.time_ns() - newest < _YOUNG_NS:
        return
    head = canonical_json({"format": _FORMAT, "files": files, "digest": digest_bytes(value)})
    target = _place(folder, files)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(target, head + b"\n" + value)


def _place(folder: Path, files: Stamps) -> Path:
    # Named after the paths alone, so that a newer entry replaces the older one.
    key = "\n".join(str(entry[0]) for entry in files)
    return folder / f"{hashlib.sha256(key.encode('ascii')).hexdigest()}.json"
