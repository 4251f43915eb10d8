"""Many blobs at once: threads hide how long a store takes to answer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from dovetail.registry.objects.protocol import ObjectStore
from dovetail.registry.progress import Moved, Progress

_THREADS = 8
_SMALL = 1 << 20

_Task: TypeAlias = tuple[int, Callable[[Moved], object]]
"""How many bytes there are to move, and what moves them."""


class Stored(Protocol):
    """Bytes that lie in something else, such as an archive."""

    @property
    def size(self) -> int:
        """How many bytes."""
        ...

    def open(self) -> BinaryIO:
        """Open them for reading, for each reader anew; the caller closes it."""
        ...


BlobSource: TypeAlias = Path | bytes | Stored
"""Where a blob's bytes come from; it can be read several times."""


def put_all(
    objects: ObjectStore, sources: Mapping[str, BlobSource], *, progress: Progress | None = None
) -> None:
    """Write blobs; the first error stops the others and is raised.

    Args:
        objects: Where they go.
        sources: Where each blob's bytes come from, by digest.
        progress: Called with bytes done and bytes in all, never twice at once. Blobs that are
            there already count as done.

    Raises:
        DigestMismatch: A source's bytes have another digest than its name.
        InvalidPayload: A source cannot be opened.
        StorageError: The store cannot be reached or is full.
    """

    def put(digest: str, source: BlobSource, moved: Moved) -> None:
        if isinstance(source, Path | bytes):
            objects.put(digest, source, progress=moved)
        else:
            with contextlib.closing(source.open()) as stream:
                objects.put(digest, stream, progress=moved)

    def task(digest: str, source: BlobSource) -> _Task:
        return _size_of(source), lambda moved: put(digest, source, moved)

    _run(objects, [task(digest, source) for digest, source in sources.items()], progress)


def fetch_all(
    objects: ObjectStore,
    wanted: Sequence[tuple[str, int, Path]],
    *,
    progress: Progress | None = None,
) -> None:
    """Write blobs to new files; the first error stops the others and is raised.

    After an error some of the files may be there, each of them whole.

    Args:
        objects: Where they come from.
        wanted: Digest, size, and the new file, of each.
        progress: Called with bytes done and bytes in all, never twice at once.

    Raises:
        DigestMismatch: The store's bytes are not the blob's.
        StorageError: The store cannot be reached, or a file cannot be written.
    """

    def task(digest: str, size: int, target: Path) -> _Task:
        return size, lambda moved: objects.fetch(digest, target, progress=moved)

    _run(objects, [task(*one) for one in wanted], progress)


class _StoppedError(Exception):
    """Another transfer failed, so this one need not go on."""


class _Tally:
    """Counts bytes over all transfers, and stops them."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total = total
        self.stopped = threading.Event()
        self.failure: BaseException | None = None
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()

    def run(self, task: _Task) -> None:
        """Do one transfer; what it moves twice, or not at all, still counts once."""
        size, move = task
        left = size

        def moved(count: int) -> None:
            nonlocal left
            if self.stopped.is_set():
                raise _StoppedError
            count = min(count, left)
            left -= count
            self._add(count)

        moved(0)
        move(moved)
        moved(left)

    def _add(self, count: int) -> None:
        if self._progress is not None and count:
            with self._lock:
                self._done += count
                try:
                    self._progress(self._done, self.total)
                except BaseException as error:
                    # A store must not take it for an error of its own.
                    self.failure = self.failure or error
                    self.stopped.set()
                    raise _StoppedError from error


def _run(objects: ObjectStore, tasks: Sequence[_Task], progress: Progress | None) -> None:
    tally = _Tally(sum(size for size, _ in tasks), progress)
    # A store on this machine is done with a few small blobs before threads are started.
    quick = tally.total < _SMALL and objects.url.partition(":")[0] in ("file", "memory")
    try:
        if len(tasks) > 1 and not quick:
            _run_in_threads(tasks, tally)
        else:
            for task in tasks:
                tally.run(task)
    except _StoppedError:
        if tally.failure is None:
            raise
        raise tally.failure from None


def _run_in_threads(tasks: Sequence[_Task], tally: _Tally) -> None:
    # The largest first, so that none of them starts when all others are done.
    ordered = sorted(tasks, key=lambda task: -task[0])
    with ThreadPoolExecutor(min(_THREADS, len(tasks)), "dovetail-transfer") as pool:
        futures = [pool.submit(tally.run, task) for task in ordered]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            tally.stopped.set()
            pool.shutdown(cancel_futures=True)
    errors = [error for future in done if (error := future.exception())]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, _StoppedError))


def _size_of(source: BlobSource) -> int:
    if isinstance(source, bytes):
        return len(source)
    if not isinstance(source, Path):
        return source.size
    try:
        return source.stat().st_size
    except OSError:  # opening it says what is wrong
        return 0
