"""Read JSONL, CSV and Parquet row by row, in order, in bounded memory, changing nothing.

CSV and Parquet are read by pyarrow. JSONL is read line by line with the standard library: Arrow's
JSON reader fixes one schema from the first block, so a column that is a number in one row and a
text in another fails, an absent key becomes null, and a text that looks like a date becomes one.

CSV cells are text, always: ``007`` stays ``007``, and an empty cell is an empty text.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, cast, get_args

from dovetail.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMATS", "Chunk", "Format", "JsonlRows", "RowSource", "format_of"]

Format: TypeAlias = Literal["jsonl", "csv", "parquet"]
Row: TypeAlias = dict[str, Any]
FORMATS: tuple[str, ...] = get_args(Format)

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json-lines": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_MAX_LINE = 1 << 28


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows that follow one another.

    Attributes:
        start: Position of the first one in the file, from 0.
        rows: The rows, where they are read as JSON.
        table: The rows, where they are read by Arrow.
    """

    start: int
    rows: Sequence[Row] = ()
    table: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.table is None else int(self.table.num_rows)

    def python_rows(self, columns: Sequence[str] | None = None) -> Sequence[Row]:
        """Return the rows as Python values: all columns, or at least those asked for."""
        if self.table is None:
            return self.rows
        from dovetail.scoring.arrowrows import to_python

        return to_python(self.table if columns is None else self.table.select(list(columns)))


class RowSource(ABC):
    """A file of rows that can be read from any row on, as often as needed.

    Attributes:
        path: The file.
        format: What it is written in.
        columns: Names of the columns, or None where only the rows themselves say it.
        schema: Arrow schema, or None for JSONL.
    """

    format: Format

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: tuple[str, ...] | None = None
        self.schema: pa.Schema | None = None

    @abstractmethod
    def chunks(
        self,
        size: int,
        *,
        start: int = 0,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Chunk]:
        """Yield chunks of ``size`` rows, the last one shorter.

        Args:
            size: Rows in a chunk.
            start: Rows to leave out at the beginning.
            limit: Stop before this row of the file, or None for its end.
            columns: Read only these where the format allows it.

        Raises:
            InvalidInput: A row cannot be read; the message says which and why.
        """


def format_of(path: Path, given: str | None = None) -> Format:
    """Return the format of a file: what is given, or what its suffix says.

    Raises:
        InvalidInput: Neither is known.

    Examples:
        >>> format_of(Path("rows.jsonl.gz"))
        'jsonl'
    """
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    found = given or _SUFFIXES.get(plain.suffix.lower())
    if found in FORMATS:
        return cast("Format", found)
    what = f"format {given!r} is not known" if given else f"{path.name!r} has no known suffix"
    raise InvalidInput(
        f"{what}; rows are .jsonl (also .ndjson), .csv or .parquet: rename the file or give the "
        f"format, one of {', '.join(FORMATS)}",
        value=given or str(path),
    )


class JsonlRows(RowSource):
    """One JSON object per line, UTF-8; blank lines are passed over."""

    format: Format = "jsonl"

    def chunks(
        self,
        size: int,
        *,
        start: int = 0,
        limit: int | None = None,
        columns: Sequence[str] | None = None,  # noqa: ARG002 - a line is parsed whole
    ) -> Iterator[Chunk]:
        """Yield chunks of rows; see `RowSource.chunks`."""
        with reading(self.path), self._open() as stream:
            lines = islice(_lines(stream, self.path), start, limit)
            while some := list(islice(lines, size)):
                rows = [_parse_line(line, number, self.path) for number, line in some]
                yield Chunk(start, rows)
                start += len(rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        opener = gzip.open if self.path.suffix.lower() == ".gz" else open
        with opener(self.path, "rb") as stream:
            yield cast("BinaryIO", stream)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while reading into an error that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path.name}: cannot be read: {error}", path=str(path)) from error


def _lines(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield line numbers, from 1, and lines that are not blank."""
    number = 0
    while line := stream.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise InvalidInput(
                f"{path.name}, line {number}: longer than {_MAX_LINE:,} bytes; one line is one row",
                line=number,
            )
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, line


def _parse_line(line: bytes, number: int, path: Path) -> Row:
    try:
        text = line.rstrip(b"\r\n").decode()
        row = json.loads(
            text,
            object_pairs_hook=_unrepeated,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if "\\ud" in text or "\\uD" in text:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _bad_line(path, number, "half of a surrogate pair is no text") from error
    except json.JSONDecodeError as error:
        raise _bad_line(path, number, f"{error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise _bad_line(path, number, str(error)) from error
    if not isinstance(row, dict):
        raise _bad_line(path, number, f"a row is a JSON object, not {type(row).__name__}")
    return row


def _bad_line(path: Path, number: int, why: str) -> InvalidInput:
    return InvalidInput(f"{path.name}, line {number}: {why}", path=str(path), line=number)


def _unrepeated(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        again = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {again!r} occurs twice")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; write null")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"number {text} is too large")
    return value
