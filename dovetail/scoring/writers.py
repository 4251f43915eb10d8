"""Write scored rows as JSONL, CSV or Parquet, so that they can be appended to.

Each encoder turns a chunk into bytes that are appended to one file; cutting that file after a whole
chunk leaves a sound beginning. Parquet cannot be appended to, so its chunks are kept as Arrow IPC
streams one behind the other and become Parquet when all rows are there.

What becomes of values that the output format does not know:

- Parquet to Parquet keeps the Arrow schema, metadata included.
- JSONL to Parquet stores numbers, texts and booleans as such where a whole column agrees (integers
  beside fractions become fractions if all are exact); a column of mixed or nested values is stored
  as JSON text. An absent key becomes null.
- Parquet to JSONL or CSV writes dates, times and decimals as Arrow's text, bytes as Base64, and
  numbers that are not finite as null.
- CSV knows only text: null is an empty cell (unquoted; an empty text is quoted), all else but text
  is written as JSON.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dovetail.scoring.rows import Chunk, Format

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Added", "Encoder", "encoder_for", "to_json_value"]

Added = Mapping[str, Sequence[str | None]]

_ROW_GROUP_ROWS = 65_536
_ROW_GROUP_BYTES = 1 << 27


class Encoder(Protocol):
    """Turns chunks into bytes, and the bytes of all chunks into the final file."""

    def header(self) -> bytes:
        """Return what stands before the first row."""
        ...

    def encode(self, chunk: Chunk, added: Added) -> bytes:
        """Return a chunk's rows with the added columns."""
        ...

    def finish(self, appended: Path) -> Path:
        """Return the finished file: the appended one itself, or one made from it beside it."""
        ...


def encoder_for(
    format: Format,  # noqa: A002 - the one word
    *,
    columns: Sequence[str],
    added: Sequence[str],
    schema: pa.Schema | None,
    kinds: Mapping[str, str],
) -> Encoder:
    """Return the encoder of a format.

    Args:
        format: Format of the output.
        columns: Input columns that are kept, in order.
        added: Columns that are added after them.
        schema: Arrow schema of the input, or None for JSONL.
        kinds: For JSONL, what each column is stored as in Parquet.
    """
    if format == "jsonl":
        return JsonlEncoder(columns)
    if format == "csv":
        return CsvEncoder(columns, added)
    return ParquetEncoder(columns, added, schema, kinds)


class JsonlEncoder:
    """One JSON object per line; each row keeps the keys that it has."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = dict.fromkeys(columns)

    def header(self) -> bytes:
        """Return nothing: JSONL has no header."""
        return b""

    def encode(self, chunk: Chunk, added: Added) -> bytes:
        """Return one line per row."""
        lines = []
        for index, row in enumerate(chunk.python_rows(tuple(self._columns))):
            kept = {key: value for key, value in row.items() if key in self._columns}
            lines.append(_json({**kept, **{name: cells[index] for name, cells in added.items()}}))
        return "".join(f"{line}\n" for line in lines).encode()

    def finish(self, appended: Path) -> Path:
        """Return the appended file: it is whole."""
        return appended


class CsvEncoder:
    """Quoted cells, so that line breaks, quotes and empty texts come back as they were."""

    def __init__(self, columns: Sequence[str], added: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._all = (*columns, *added)

    def header(self) -> bytes:
        """Return the line of column names."""
        import pyarrow as pa

        return self._write(pa.table({name: pa.array([], pa.string()) for name in self._all}), True)

    def encode(self, chunk: Chunk, added: Added) -> bytes:
        """Return one record per row."""
        import pyarrow as pa

        rows = chunk.python_rows(self._columns)
        kept = {name: [_cell(row.get(name)) for row in rows] for name in self._columns}
        columns = {**kept, **added}
        table = pa.table({name: pa.array(columns[name], pa.string()) for name in self._all})
        return self._write(table, False)

    def finish(self, appended: Path) -> Path:
        """Return the appended file: it is whole."""
        return appended

    @staticmethod
    def _write(table: pa.Table, include_header: bool) -> bytes:
        from pyarrow import csv

        sink = io.BytesIO()
        csv.write_csv(table, sink, csv.WriteOptions(include_header=include_header))
        return sink.getvalue()


class ParquetEncoder:
    """Arrow IPC streams, one per chunk, that become one Parquet file."""

    def __init__(
        self,
        columns: Sequence[str],
        added: Sequence[str],
        schema: pa.Schema | None,
        kinds: Mapping[str, str],
    ) -> None:
        import pyarrow as pa

        types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
        fields = [
            pa.field(name, types.get(kinds[name], pa.string()))
            if schema is None
            else schema.field(name)
            for name in columns
        ]
        fields += [pa.field(name, pa.string()) for name in added]
        self._schema = pa.schema(fields, metadata=None if schema is None else schema.metadata)
        self._columns = tuple(columns)
        self._kinds = kinds

    def header(self) -> bytes:
        """Return nothing: each chunk brings its schema."""
        return b""

    def encode(self, chunk: Chunk, added: Added) -> bytes:
        """Return the rows as one Arrow IPC stream."""
        import pyarrow as pa

        kept = (
            [self._array(name, chunk.rows) for name in self._columns]
            if chunk.table is None
            else chunk.table.select(list(self._columns)).columns
        )
        arrays = [*kept, *(pa.array(cells, pa.string()) for cells in added.values())]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self._schema) as writer:
            writer.write_table(table)
        return sink.getvalue()

    def finish(self, appended: Path) -> Path:
        """Write the Parquet file beside the appended one and return it."""
        import pyarrow as pa
        from pyarrow import parquet

        target = appended.with_suffix(".parquet")
        held: list[pa.Table] = []
        with parquet.ParquetWriter(target, self._schema) as writer, appended.open("rb") as stream:
            end = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            while stream.tell() < end:
                held.append(pa.ipc.open_stream(stream).read_all())
                full = (
                    sum(table.num_rows for table in held) >= _ROW_GROUP_ROWS
                    or sum(table.nbytes for table in held) >= _ROW_GROUP_BYTES
                )
                if full or stream.tell() == end:
                    whole = pa.concat_tables(held)
                    writer.write_table(whole, row_group_size=whole.num_rows)
                    held = []
        return target

    def _array(self, name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
        import pyarrow as pa

        values = [row.get(name) for row in rows]
        if self._kinds[name] == "json":
            values = [_json(row[name]) if name in row else None for row in rows]
        elif self._kinds[name] == "float":
            values = [None if value is None else float(value) for value in values]
        return pa.array(values, self._schema.field(name).type)


def _cell(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(to_json_value(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> str:
    """Write what JSON has no form for."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)


def to_json_value(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite become null."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: to_json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json_value(item) for item in value]
        case None | bool() | int() | str():
            return value
    return _plain(value)
