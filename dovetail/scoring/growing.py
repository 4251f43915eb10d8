"""A file that grows in checkpoints: what a checkpoint counts is safe, the rest is cut off.

The state is a file of its own, replaced whole after the data have reached the disk. So whatever a
killed process left behind the last checkpoint is never taken for a row.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from dovetail.errors import StorageError
from dovetail.registry.durable import sync

__all__ = ["Checkpoint", "GrowingFile", "to_json", "write_whole", "writing"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is safe.

    Attributes:
        rows: Rows of the input that are dealt with.
        failed: How many of those that are in the file have an error instead of a prediction.
        size: Length of the file in bytes.
        finished: Whether nothing will be added.
        reference_path: Versions of which rows ran through PEFT, in alphabetical order.
    """

    rows: int = 0
    failed: int = 0
    size: int = 0
    finished: bool = False
    reference_path: tuple[str, ...] = ()


class GrowingFile:
    """A file and its checkpoint.

    Args:
        path: The file.
        state: Where its checkpoint is kept.
        output: The result that it is a part of, for messages.

    Attributes:
        checkpoint: What is safe now.
    """

    def __init__(self, path: Path, state: Path, *, output: Path) -> None:
        self.path = path
        self.checkpoint = Checkpoint()
        self._state = state
        self._output = output
        self._stream: IO[bytes] | None = None

    @property
    def exists(self) -> bool:
        """Whether an earlier run left a checkpoint."""
        return self._state.exists()

    def last_checkpoint(self) -> Checkpoint:
        """Read the checkpoint that an earlier run left; it counts only once it is taken up."""
        with writing(self._output):
            found = json.loads(self._state.read_bytes())
            return Checkpoint(**{**found, "reference_path": tuple(found.get("reference_path", ()))})

    def start(self, header: bytes) -> None:
        """Begin the file anew."""
        with writing(self._output):
            self.path.write_bytes(header)
            sync(self.path)
            self.save(Checkpoint(size=len(header)))

    def open(self) -> None:
        """Make ready for `append`; what lies behind the checkpoint is cut off."""
        if self._stream is None:
            with writing(self._output):
                self._stream = self.cut().open("ab")

    def append(
        self, data: bytes, *, rows: int, failed: int, reference_path: Set[str] = frozenset()
    ) -> None:
        """Add data and return when they are safe on the disk.

        Args:
            data: What to add.
            rows: Rows of the input that are dealt with by it.
            failed: Rows in it that have an error.
            reference_path: Versions of which rows in it ran through PEFT.
        """
        if self._stream is None:
            raise RuntimeError("append() before open()")
        with writing(self._output):
            self._stream.write(data)
            self._stream.flush()
            os.fsync(self._stream.fileno())
            now = self.checkpoint
            self.save(
                Checkpoint(
                    rows=now.rows + rows,
                    failed=now.failed + failed,
                    size=now.size + len(data),
                    reference_path=tuple(sorted({*now.reference_path, *reference_path})),
                )
            )

    def cut(self) -> Path:
        """Cut off what lies behind the checkpoint and return the file.

        Raises:
            StorageError: It is shorter than the checkpoint says.
        """
        if self.path.stat().st_size < self.checkpoint.size:
            raise StorageError(
                f"the partial result in {str(self.path.parent)!r} is shorter than it was; "
                "start over with overwrite=True (--overwrite)"
            )
        os.truncate(self.path, self.checkpoint.size)
        return self.path

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        write_whole(self._state, to_json(asdict(checkpoint)))
        self.checkpoint = checkpoint

    def close(self) -> None:
        """Let go of the file; closing twice does no harm."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


@contextlib.contextmanager
def writing(output: Path) -> Iterator[None]:
    """Say of which result it is that a file cannot be written.

    Raises:
        StorageError: In place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {str(output)!r}: {error}", path=str(output)) from error


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return a record as it is kept beside the rows."""
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file so that it is either the old one or the new one, whatever happens."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    sync(new)
    new.replace(path)
    sync(path.parent)
