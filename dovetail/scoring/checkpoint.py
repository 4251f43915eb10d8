"""An output that grows in checkpoints, survives being killed, and appears only when it is whole.

Beside ``out.jsonl`` stands the directory ``.out.jsonl.partial`` with

- ``lock``: held by the job that writes;
- ``job.json``: what the job is, written once;
- ``rows``: the rows so far; what lies behind the last checkpoint is cut off on resuming;
- ``state.json``: how many rows and bytes are safe, replaced at each checkpoint after the rows have
  reached the disk;
- ``base-0``, ``base-0.json``, and so on where rows need several base models: what was made of each
  one's rows, and its checkpoint, until all are there and ``rows`` can be written in order.

When all rows are there, the state says so, the finished file is renamed to its final name, and the
directory is removed. Each step can be repeated, so a job killed anywhere goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Self

from dovetail.errors import ConflictError, InvalidInput
from dovetail.registry.durable import sync
from dovetail.scoring.growing import Checkpoint, GrowingFile, to_json, write_whole, writing

__all__ = ["PartialOutput"]


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
        self._rows = GrowingFile(directory / "rows", directory / "state.json", output=output)

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
        with writing(output):
            lock = _lock(directory, output)
        partial = cls(output, directory, lock)
        try:
            with writing(output):
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
        return self._rows.checkpoint.rows

    @property
    def failed(self) -> int:
        """How many of them have an error instead of a prediction."""
        return self._rows.checkpoint.failed

    @property
    def reference_path(self) -> tuple[str, ...]:
        """Versions of which rows ran through PEFT."""
        return self._rows.checkpoint.reference_path

    def begin(self, job: Mapping[str, Any], *, header: bytes) -> None:
        """Make ready for `append`; a new job is recorded, a resumed one cut to its checkpoint.

        Beginning again changes nothing.
        """
        with writing(self.output):
            if self._recorded is None:
                self._rows.start(header)
                write_whole(self._directory / "job.json", to_json(job))
                self._recorded = job
            self._rows.open()

    def part(self, name: str) -> GrowingFile:
        """Return a file of this job that is no result yet, as an earlier run left it."""
        part = GrowingFile(
            self._directory / name, self._directory / f"{name}.json", output=self.output
        )
        if part.exists:
            part.checkpoint = part.last_checkpoint()
        return part

    def append(
        self, data: bytes, *, rows: int, failed: int, reference_path: Set[str] = frozenset()
    ) -> None:
        """Add rows and return when they are safe on the disk; see `GrowingFile.append`."""
        self._rows.append(data, rows=rows, failed=failed, reference_path=reference_path)

    def publish(self, finish: Callable[[Path], Path]) -> None:
        """Give the finished file its final name and remove the directory."""
        with writing(self.output):
            self._rows.close()
            finished = self._directory / "finished"
            if not self._rows.checkpoint.finished:
                if not finished.exists():
                    whole = finish(self._rows.cut())
                    sync(whole)
                    whole.replace(finished)
                    sync(self._directory)
                self._rows.save(replace(self._rows.checkpoint, finished=True))
            if finished.exists():
                finished.replace(self.output)
            sync(self.output.parent)

    def _read(self, *, resume: bool, overwrite: bool) -> None:
        """Find what an earlier run left, and decide what becomes of it."""
        known = self._directory / "job.json"
        state = self._rows.last_checkpoint() if known.exists() else Checkpoint()
        published = state.finished and not (self._directory / "finished").exists()
        if published and not self.output.exists():
            # The result was there and has been taken away since: nothing is left to go on with.
            _empty(self._directory)
            state, published = Checkpoint(), False
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
            self.job = self._recorded = json.loads(known.read_bytes())
            self._rows.checkpoint = state
        else:
            _empty(self._directory)

    def _close(self) -> None:
        """Let go; a directory that holds no unfinished job is removed under the lock."""
        self._rows.close()
        if not (self._directory / "job.json").exists() or self._rows.checkpoint.finished:
            with contextlib.suppress(OSError):
                _empty(self._directory)
                (self._directory / "lock").unlink()
                self._directory.rmdir()
        self._lock.close()


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
