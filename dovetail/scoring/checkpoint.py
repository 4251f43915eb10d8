"""An output that grows in checkpoints, survives being killed, and appears only when it is whole.

Beside ``out.jsonl`` stands the directory ``.out.jsonl.partial`` with

- ``lock``: held by the job that writes;
- ``job.json``: what the job is, written once;
- ``rows``: the rows so far; what lies behind the last checkpoint is cut off on resuming;
- ``state.json``: how many rows and bytes are safe, replaced at each checkpoint after the rows have
  reached the disk.

When all rows are there, the state says so, the finished file is renamed to its final name, and the
directory is removed. Each step can be repeated, so a job killed anywhere goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Self

from dovetail.errors import ConflictError, InvalidInput, StorageError
from dovetail.registry.durable import sync

__all__ = ["PartialOutput"]


@dataclass(frozen=True, slots=True)
class _State:
    rows: int = 0
    failed: int = 0
    size: int = 0
    finished: bool = False


class PartialOutput:
    """The result of a job in the making; see the module for what lies where.

    Attributes:
        output: Final name.
        job: What an earlier run recorded about the job, or None where this one starts it.
    """

    def __init__(self, output: Path, directory: Path, lock: IO[bytes]) -> None:
        self.output = output
        self.job: Mapping[str, Any] | None = None
        self._directory = directory
        self._lock = lock
        self._recorded: Mapping[str, Any] | None = None
        self._stream: IO[bytes] | None = None
        self._state = _State()

    @classmethod
    @contextlib.contextmanager
    def open(cls, output: Path, *, resume: bool, overwrite: bool) -> Iterator[Self]:
        """Take an output for this job alone.

        Args:
            output: Final name; its directory exists.
            resume: Go on with a partial result, if there is one.
            overwrite: Start over where a partial result lies, and replace a finished one.

        Raises:
            ConflictError: Another job writes it, or there is a result that neither option covers.
            InvalidInput: Its directory does not exist.
            StorageError: It cannot be written.
        """
        if not output.parent.is_dir():
            raise InvalidInput(f"there is no directory {str(output.parent)!r} to write to")
        directory = output.with_name(f".{output.name}.partial")
        with _storage(output):
            lock = _lock(directory, output)
        partial = cls(output, directory, lock)
        try:
            with _storage(output):
                partial._read(resume=resume, overwrite=overwrite)
            yield partial
        finally:
            partial._close()

    @property
    def recorded(self) -> Mapping[str, Any]:
        """What is recorded about the job, by this run or the one before it."""
        if self._recorded is None:
            raise RuntimeError("nothing is recorded before begin()")
        return self._recorded

    @property
    def rows(self) -> int:
        """Rows that are safely written."""
        return self._state.rows

    @property
    def failed(self) -> int:
        """How many of them have an error instead of a prediction."""
        return self._state.failed

    def begin(self, job: Mapping[str, Any], *, header: bytes) -> None:
        """Make ready for `append`; a new job is recorded, a resumed one cut to its checkpoint."""
        with _storage(self.output):
            if self.job is None:
                (self._directory / "rows").write_bytes(header)
                self._save(_State(size=len(header)))
                _write_whole(self._directory / "job.json", _to_json(job))
                self._recorded = job
            self._stream = self._cut().open("ab")

    def append(self, data: bytes, *, rows: int, failed: int) -> None:
        """Add rows and return when they are safe on the disk."""
        if self._stream is None:
            raise RuntimeError("append() before begin()")
        with _storage(self.output):
            self._stream.write(data)
            self._stream.flush()
            os.fsync(self._stream.fileno())
            state = self._state
            self._save(
                _State(state.rows + rows, state.failed + failed, state.size + len(data), False)
            )

    def publish(self, finish: Callable[[Path], Path]) -> None:
        """Give the finished file its final name and remove the directory."""
        with _storage(self.output):
            if self._stream is not None:
                self._stream.close()
                self._stream = None
            finished = self._directory / "finished"
            if not self._state.finished:
                if not finished.exists():
                    whole = finish(self._cut())
                    sync(whole)
                    whole.replace(finished)
                    sync(self._directory)
                self._save(replace(self._state, finished=True))
            if finished.exists():
                finished.replace(self.output)
            sync(self.output.parent)

    def _read(self, *, resume: bool, overwrite: bool) -> None:
        """Find what an earlier run left, and decide what becomes of it."""
        known = self._directory / "job.json"
        state = _read_state(self._directory) if known.exists() else _State()
        published = state.finished and not (self._directory / "finished").exists()
        if published and not self.output.exists():
            # The result was there and has been taken away since: nothing is left to go on with.
            _empty(self._directory)
            state, published = _State(), False
        if self.output.exists() and not overwrite and not (published and resume):
            raise ConflictError(
                f"output {str(self.output)!r} exists; replace it with overwrite=True "
                "(--overwrite) or give another name",
                output=str(self.output),
            )
        if known.exists() and not resume and not overwrite:
            raise ConflictError(
                f"a partial result of {str(self.output)!r} exists: go on with resume=True "
                "(--resume) or start over with overwrite=True (--overwrite)",
                output=str(self.output),
            )
        if known.exists() and resume:
            self.job, self._state = json.loads(known.read_bytes()), state
            self._recorded = self.job
        else:
            _empty(self._directory)

    def _cut(self) -> Path:
        """Cut off what lies behind the last checkpoint."""
        path = self._directory / "rows"
        if path.stat().st_size < self._state.size:
            raise StorageError(
                f"the partial result in {str(self._directory)!r} is shorter than it was; "
                "start over with overwrite=True (--overwrite)"
            )
        os.truncate(path, self._state.size)
        return path

    def _save(self, state: _State) -> None:
        _write_whole(self._directory / "state.json", _to_json(asdict(state)))
        self._state = state

    def _close(self) -> None:
        """Let go; a directory that holds no unfinished job is removed under the lock."""
        if self._stream is not None:
            self._stream.close()
        if not (self._directory / "job.json").exists() or self._state.finished:
            with contextlib.suppress(OSError):
                _empty(self._directory)
                (self._directory / "lock").unlink()
                self._directory.rmdir()
        self._lock.close()


def _read_state(directory: Path) -> _State:
    return _State(**json.loads((directory / "state.json").read_bytes()))


def _empty(directory: Path) -> None:
    """Remove what a job left, first that which makes it a job, and keep the lock."""
    (directory / "job.json").unlink(missing_ok=True)
    for path in directory.iterdir():
        if path.name != "lock":
            path.unlink()


def _lock(directory: Path, output: Path) -> IO[bytes]:
    """Create the directory and lock it; the one that is locked must be the one that is there."""
    while True:
        directory.mkdir(exist_ok=True)
        path = directory / "lock"
        try:
            lock = path.open("ab")
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConflictError(
                f"another job is writing {str(output)!r}; wait for it or give another name",
                output=str(output),
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                return lock
        lock.close()


@contextlib.contextmanager
def _storage(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {str(output)!r}: {error}", path=str(output)) from error


def _to_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def _write_whole(path: Path, data: bytes) -> None:
    """Replace a file so that it is either the old one or the new one, whatever happens."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    sync(new)
    new.replace(path)
    sync(path.parent)
