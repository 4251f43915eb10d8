"""Hash many pieces of memory at once, or compare them, on every core.

A SHA-256 is sequential, so one piece is one thread's work; the largest pieces go first, so that no
thread is left alone with a big one at the end. hashlib and NumPy let other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

from dovetail.registry.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

CHUNK_BYTES = 16 * 2**20
_COMPARED_BYTES = 2**19  # at once: what is found out of each byte stays in the processor's cache
_MAX_WORKERS = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to be hashed.

    Attributes:
        size: How many.
        view: Gives them; called in the thread that hashes.
        release: Called when they have been hashed.
    """

    size: int
    view: Callable[[], memoryview]
    release: Callable[[], None] | None = None


def hash_pieces(pieces: Mapping[str, Piece], *, progress: Progress | None = None) -> dict[str, str]:
    """Return the digest of each piece.

    Args:
        pieces: Name to bytes.
        progress: Called with the bytes done and the bytes in all, one call at a time.
    """
    total = sum(piece.size for piece in pieces.values())
    done = 0
    lock = threading.Lock()

    def digest(piece: Piece) -> str:
        nonlocal done
        hasher = hashlib.sha256()
        with piece.view() as view:
            for start in range(0, piece.size, CHUNK_BYTES):
                part = view[start : start + CHUNK_BYTES]
                hasher.update(part)
                if progress is not None:
                    with lock:
                        done += len(part)
                        progress(done, total)
        if piece.release is not None:
            piece.release()
        return f"sha256:{hasher.hexdigest()}"

    return _on_every_core(pieces, digest, size=lambda piece: piece.size)


def equal_pieces(pairs: Mapping[str, tuple[Piece, Piece]]) -> set[str]:
    """Return the names of those pairs whose bytes are the same; hashing takes ten times as long.

    Args:
        pairs: Name to two pieces of the same size.
    """
    found = _on_every_core(pairs, _are_equal, size=lambda pair: pair[0].size)
    return {name for name, equal in found.items() if equal}


def _are_equal(pair: tuple[Piece, Piece]) -> bool:
    import numpy as np

    with pair[0].view() as one, pair[1].view() as other:
        equal = all(
            np.array_equal(
                np.frombuffer(one[start : start + _COMPARED_BYTES], np.uint8),
                np.frombuffer(other[start : start + _COMPARED_BYTES], np.uint8),
            )
            for start in range(0, pair[0].size, _COMPARED_BYTES)
        )
    for piece in pair:
        if piece.release is not None:
            piece.release()
    return equal


def _on_every_core(
    given: Mapping[str, T], do: Callable[[T], R], *, size: Callable[[T], int]
) -> dict[str, R]:
    """Return what comes of each, the largest first."""
    # Each worker takes the next piece by itself: a task for each piece would cost more than
    # hashing a small one.
    order = deque(sorted(given, key=lambda name: size(given[name]), reverse=True))
    found: dict[str, R] = {}

    def work() -> None:
        while True:
            try:
                name = order.popleft()
            except IndexError:
                return
            found[name] = do(given[name])

    workers = max(1, min(_MAX_WORKERS, usable_cores(), len(order)))
    with ThreadPoolExecutor(workers, thread_name_prefix="dovetail-hash") as pool:
        running = [pool.submit(work) for _ in range(workers)]
        try:
            for future in as_completed(running):
                future.result()
        except BaseException:
            order.clear()
            raise
    return found


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def tensor_piece(tensor: Any) -> Piece:
    """Describe the bytes of a torch tensor, without copying one that is contiguous on the CPU."""
    size = tensor.numel() * tensor.element_size()

    def view() -> memoryview:
        local = tensor.detach().cpu().contiguous()
        buffer = (ctypes.c_ubyte * size).from_address(local.data_ptr())
        # The buffer does not own the memory, so it must keep alive what does.
        buffer.owner = local
        return memoryview(buffer).cast("B")

    return Piece(size, view)
