"""CSV and Parquet, read by pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidInput
from dovetail.scoring.rows import Chunk, Format, JsonlRows, Row, RowSource, format_of, reading

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CsvRows", "ParquetRows", "open_rows", "to_python"]

# A CSV record must fit into one block.
_CSV_BLOCK = 1 << 24
_PARQUET_BATCH = 4_096


def open_rows(path: Path, *, format: str | None = None) -> RowSource:  # noqa: A002 - the one word
    """Open a file of rows.

    Args:
        path: A ``.jsonl``, ``.csv`` or ``.parquet`` file; the first two also with ``.gz``.
        format: ``jsonl``, ``csv`` or ``parquet`` where the suffix does not tell.

    Raises:
        InvalidInput: There is no such file, it is empty, or its format is not known.
    """
    kind = format_of(path, format)
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise InvalidInput(f"input {str(path)!r} {what}", path=str(path))
    if path.stat().st_size == 0:
        raise InvalidInput(f"input {str(path)!r} is empty", path=str(path))
    makers: dict[str, type[RowSource]] = {
        "jsonl": JsonlRows,
        "csv": CsvRows,
        "parquet": ParquetRows,
    }
    return makers[kind](path)


class CsvRows(RowSource):
    """Comma-separated values, UTF-8 with or without a byte-order mark, with a header."""

    format: Format = "csv"

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        super().__init__(path)
        with reading(path), self._read(()) as reader:
            names = reader.schema.names
        self.columns = _distinct(names, path)
        self.schema = pa.schema([(name, pa.string()) for name in names])

    def chunks(
        self,
        size: int,
        *,
        start: int = 0,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Chunk]:
        """Yield chunks of rows; see `RowSource.chunks`."""
        with reading(self.path), self._read(self.columns or (), wanted=columns) as reader:
            yield from _rechunk(reader, size, skip=start, start=start, limit=limit)

    @contextlib.contextmanager
    def _read(self, names: Sequence[str], wanted: Sequence[str] | None = None) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv

        compression = "gzip" if self.path.suffix.lower() == ".gz" else None
        with pa.input_stream(self.path, compression=compression) as stream:
            yield csv.open_csv(
                stream,
                read_options=csv.ReadOptions(block_size=_CSV_BLOCK),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    include_columns=list(wanted or ()),
                    strings_can_be_null=False,
                ),
            )


class ParquetRows(RowSource):
    """Parquet; whole row groups are passed over without being read."""

    format: Format = "parquet"

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        super().__init__(path)
        with reading(path):
            self.schema = parquet.read_schema(path)
            self.row_count = int(parquet.read_metadata(path).num_rows)
        self.columns = _distinct(self.schema.names, path)

    def chunks(
        self,
        size: int,
        *,
        start: int = 0,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Chunk]:
        """Yield chunks of rows; see `RowSource.chunks`."""
        from pyarrow import parquet

        with reading(self.path), parquet.ParquetFile(self.path) as file:
            skip, groups = start, list(range(file.num_row_groups))
            while groups and skip >= (rows := file.metadata.row_group(groups[0]).num_rows):
                skip -= rows
                groups.pop(0)
            wanted = None if columns is None else list(columns)
            batches = file.iter_batches(
                min(size, _PARQUET_BATCH), row_groups=groups, columns=wanted
            )
            yield from _rechunk(batches, size, skip=skip, start=start, limit=limit)


def to_python(table: pa.Table) -> list[Row]:
    """Return rows as Python values.

    Dates, times, durations and decimals become the text that Arrow writes for them: Python's own
    types cannot hold nanoseconds, and JSON has none of them.
    """
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if pa.types.is_temporal(field.type) or pa.types.is_decimal(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.string()))
    try:
        rows: list[Row] = table.to_pylist()
    except ValueError as error:
        raise InvalidInput(f"a nested value cannot be read: {error}") from error
    return rows


def _rechunk(
    batches: Iterator[pa.RecordBatch], size: int, *, skip: int, start: int, limit: int | None
) -> Iterator[Chunk]:
    """Cut batches of any length into chunks of ``size`` rows."""
    import pyarrow as pa

    left = None if limit is None else max(0, limit - start)
    held: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch]).slice(skip)
        skip = max(0, skip - batch.num_rows)
        if left is not None:
            table = table.slice(0, left)
            left -= table.num_rows
        held = table if held is None else pa.concat_tables([held, table])
        while held.num_rows >= size:
            yield Chunk(start, table=held.slice(0, size))
            start, held = start + size, held.slice(size)
        if left == 0:
            break
    if held is not None and held.num_rows:
        yield Chunk(start, table=held)


def _distinct(names: Sequence[str], path: Path) -> tuple[str, ...]:
    again = next((name for name in names if list(names).count(name) > 1), None)
    if again is not None:
        raise InvalidInput(f"{path.name}: two columns are called {again!r}", column=again)
    return tuple(names)
