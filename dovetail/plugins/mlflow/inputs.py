"""Texts in the shapes in which people and servers hand them in: tables, lists, one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.plugins.mlflow.signature import ADAPTER_COLUMN
from dovetail.registry.template import InputTemplate, text_of

Record: TypeAlias = Mapping[str, Any]
"""A row: column to value. A text that came without a column stands under ``0``."""

_PLAIN = "0"
_USUAL = ("text", "prompt", "input", "inputs")


def read_records(data: Any) -> list[Record]:
    """Return the rows of an input.

    Args:
        data: A table, a text, a list of texts or of rows, a column to a text or a list of texts.

    Raises:
        InvalidInput: It is something else, or its columns are of different length.
    """
    match data:
        case str():
            return [{_PLAIN: data}]
        case pd.DataFrame():
            rows: list[Record] = [_named(row) for row in data.to_dict("records")]
            # Where a signature has inputs, MLflow makes such a table of columns.
            return _spread(rows[0]) if len(rows) == 1 else rows
        case pd.Series() | np.ndarray():
            return read_records(data.tolist())
        case Mapping():
            return _spread(_named(data))
        case list() | tuple():
            return [record for item in data for record in _read_item(item)]
        case _:
            raise InvalidInput(
                f"the input is {type(data).__name__}; give a DataFrame, a list of texts, or a "
                "dictionary of column to texts"
            )


def text_for(record: Record, template: InputTemplate | None) -> str:
    """Return the text of a row, filled into the template of its adapter if it has one.

    Columns without names stand for the template's fields in their order.

    Raises:
        InvalidRow: A column is missing or holds no text.
    """
    if template is None:
        return _only_text(record)
    if not any(field in record for field in template.fields):
        unnamed = {field: record[str(i)] for i, field in _numbered(template) if str(i) in record}
        record = {**record, **unnamed}
    return template.render(record)


def adapter_for(record: Record, template: InputTemplate | None) -> str | None:
    """Return what a row's adapter column says, or None if it has none or says nothing.

    Args:
        record: The row.
        template: The model's own template; it may have a field of that name.

    Raises:
        InvalidRow: The column holds something other than a text.
    """
    fields = () if template is None else template.fields
    value = record.get(ADAPTER_COLUMN)
    if ADAPTER_COLUMN in fields or value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InvalidRow(f"column {ADAPTER_COLUMN!r} holds {value!r}, not a reference")
    return value


def _read_item(item: Any) -> list[Record]:
    if isinstance(item, Mapping):
        return [_named(item)]
    if isinstance(item, str):
        return read_records(item)
    if _plain(item) is None:
        return [{_PLAIN: None}]
    if isinstance(item, list | tuple | np.ndarray) and len(item) == 1:  # a table of one column
        return read_records(list(item))
    raise InvalidInput(
        f"the list holds {type(item).__name__}; give texts, or rows such as {{'text': ...}}"
    )


def _named(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    """Turn what pandas and numpy made of a value back into Python's own; a gap becomes None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value


def _spread(row: Record) -> list[Record]:
    """Make rows of one that has lists in its columns; a text beside them is for all of them."""
    columns = {key: value for key, value in row.items() if isinstance(value, list | tuple)}
    if not columns:
        return [row]
    lengths = {key: len(value) for key, value in columns.items()}
    lost = 0 in lengths.values() and len(columns) < len(row)
    if lost or len(set(lengths.values())) > 1:
        raise InvalidInput(f"the columns are of different length: {lengths}", lengths=lengths)
    count = next(iter(lengths.values()))
    return [
        {**row, **{key: _plain(value[index]) for key, value in columns.items()}}
        for index in range(count)
    ]


def _numbered(template: InputTemplate) -> Sequence[tuple[int, str]]:
    return list(enumerate(template.fields))


def _only_text(record: Record) -> str:
    columns = [key for key in record if key != ADAPTER_COLUMN]
    usual = [key for key in columns if key in _USUAL]
    if len(columns) != 1 and len(usual) != 1:
        raise InvalidRow(
            f"it has the columns {', '.join(map(repr, columns)) or 'none'}; the adapter has no "
            "input template, so name the one that holds the text 'text'"
        )
    column = columns[0] if len(columns) == 1 else usual[0]
    return text_of(record[column], column=column)
