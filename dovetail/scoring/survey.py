"""One pass over the input before anything is scored.

It is cheap beside generation, and a row that cannot be read is found at once rather than after
hours. It counts the rows, finds the columns, and collects the adapters that rows name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.errors import InvalidInput
from dovetail.scoring.arrowrows import ParquetRows
from dovetail.scoring.rows import RowSource

__all__ = ["Survey", "find_cells", "survey"]

_CHUNK = 8_192
_INT64 = 2**63
_EXACT_IN_DOUBLE = 2**53
_KINDS = {type(None): "null", bool: "bool", float: "float", str: "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What is in a file of rows.

    Attributes:
        rows: Number of rows, up to the limit.
        columns: All columns, in the order in which they first appear.
        kinds: For JSONL, what each column can be stored as in Parquet: ``bool``, ``int``,
            ``float``, ``text``, or ``json`` where rows differ or values are nested.
        cells: How often each value occurs in the adapter column, blank ones left out.
    """

    rows: int
    columns: tuple[str, ...]
    kinds: Mapping[str, str]
    cells: Mapping[str, int]

    def require(self, columns: Iterable[str], *, what: str) -> None:
        """Check that columns exist.

        Raises:
            InvalidInput: One does not; the message names those that do.
        """
        for column in columns:
            if column not in self.columns:
                raise InvalidInput(
                    f"{what} column {column!r} is not in the input; its columns are "
                    f"{', '.join(map(repr, self.columns))}",
                    column=column,
                )


def survey(
    source: RowSource, *, limit: int | None = None, adapter_column: str | None = None
) -> Survey:
    """Read a file once.

    Raises:
        InvalidInput: A row cannot be read, there are no rows, or there is no adapter column.
    """
    if source.columns is not None:
        _require_known(source.columns, adapter_column)
    wanted = None if adapter_column is None else [adapter_column]
    rows = 0
    kinds: dict[str, set[str]] = {}
    cells: Counter[str] = Counter()
    if isinstance(source, ParquetRows) and wanted is None:
        rows = source.row_count if limit is None else min(limit, source.row_count)
    else:
        # CSV is read whole, so that a torn record is found; Parquet says itself what it holds.
        columns = wanted if isinstance(source, ParquetRows) else None
        for chunk in source.chunks(_CHUNK, limit=limit, columns=columns):
            rows += len(chunk)
            if source.columns is None:
                _note_kinds(kinds, chunk.rows)
            if adapter_column is not None:
                cells.update(_cells(chunk.python_rows(wanted), adapter_column))
    if not rows:
        raise InvalidInput(f"input {str(source.path)!r} has no rows", path=str(source.path))
    if source.columns is None:
        _require_known(tuple(kinds), adapter_column)
    return Survey(
        rows=rows,
        columns=source.columns or tuple(kinds),
        kinds={column: _one_kind(seen) for column, seen in kinds.items()},
        cells=dict(cells),
    )


def find_cells(
    source: RowSource, cells: Collection[str], *, adapter_column: str, limit: int | None = None
) -> dict[str, list[int]]:
    """Read a file again and return the rows, counted from 0, in which adapters are named.

    It is for those few that turn out to be wrong; noting the rows of all would cost memory in every
    job.
    """
    found: dict[str, list[int]] = {cell: [] for cell in cells}
    for chunk in source.chunks(_CHUNK, limit=limit, columns=[adapter_column]):
        for at, row in enumerate(chunk.python_rows([adapter_column]), chunk.start):
            cell = cell_reference(row, adapter_column)
            if cell in found:
                found[cell].append(at)
    return found


def cell_reference(row: Mapping[str, Any], column: str) -> str | None:
    """Return the adapter that a row names, or None where it names none."""
    value = row.get(column)
    return None if value is None else str(value).strip() or None


def _cells(rows: Sequence[Mapping[str, Any]], column: str) -> Iterable[str]:
    found = (cell_reference(row, column) for row in rows)
    return (cell for cell in found if cell is not None)


def _require_known(columns: tuple[str, ...], adapter_column: str | None) -> None:
    wanted = () if adapter_column is None else (adapter_column,)
    Survey(rows=0, columns=columns, kinds={}, cells={}).require(wanted, what="adapter")


def _note_kinds(kinds: dict[str, set[str]], rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        for column, value in row.items():
            kinds.setdefault(column, set()).add(_kind(value))


def _kind(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) <= _EXACT_IN_DOUBLE:
            return "int"
        return "long" if -_INT64 <= value < _INT64 else "json"
    return _KINDS.get(type(value), "json")


def _one_kind(seen: set[str]) -> str:
    """Return the one kind that holds all values exactly."""
    kinds = seen - {"null"}
    if not kinds:
        return "text"
    if kinds <= {"int", "long"}:
        return "int"
    if kinds <= {"int", "float"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 else "json"
