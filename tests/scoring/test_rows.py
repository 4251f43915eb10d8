"""Rows come out of files as they went in."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import tempfile
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from dovetail.errors import InvalidInput
from dovetail.scoring.arrowrows import open_rows
from dovetail.scoring.rows import format_of
from dovetail.scoring.survey import survey

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
# A lone carriage return ends a CSV record for some writers, so names keep clear of line breaks.
NAMES = st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1), min_size=1,
                 max_size=4, unique=True)  # fmt: skip


def read(path, *, size=3, **options):
    """Return all rows of a file."""
    return [row for chunk in open_rows(path).chunks(size, **options) for row in chunk.python_rows()]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), min_size=1, max_size=8))
def test_jsonl_rows_come_back_exactly(rows):
    """Any Unicode, any nesting, types that vary from row to row, absent keys."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        path.write_bytes(text.encode())
        assert read(path) == rows


@settings(max_examples=60, deadline=None)
@given(NAMES, st.data())
def test_csv_cells_come_back_exactly(names, data):
    """Quotes, commas, line breaks and leading zeros stay what they are."""
    cells = data.draw(
        st.lists(st.lists(st.text(), min_size=len(names), max_size=len(names)), min_size=1)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.csv")
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([names, *cells])
        assert read(path) == [dict(zip(names, row, strict=True)) for row in cells]


def test_csv_cells_are_never_taken_for_numbers_or_dates(tmp_path):
    """007 is not 7, and an empty cell is an empty text."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c\n007,2024-01-01,\ntrue,NULL,1e3\n", encoding="utf-8")
    assert read(path) == [
        {"a": "007", "b": "2024-01-01", "c": ""},
        {"a": "true", "b": "NULL", "c": "1e3"},
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_and_gzip_are_seen_through(tmp_path, name, packed):
    """The first column's name has no mark in it."""
    text = {"rows.jsonl": b'{"a": "\xc3\xa9"}\r\n', "rows.csv": b"a\r\n\xc3\xa9\r\n"}[name]
    path = tmp_path / (f"{name}.gz" if packed else name)
    data = codecs.BOM_UTF8 + text
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read(path) == [{"a": "é"}]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("start", [0, 1, 4, 6, 10])
def test_reading_can_start_and_stop_anywhere(tmp_path, write_rows, suffix, start):
    """Chunks are of one size, in order, and say where they are."""
    rows = [{"n": str(n)} for n in range(10)]
    path = write_rows(tmp_path / f"rows.{suffix}", rows)
    if suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    chunks = list(open_rows(path).chunks(3, start=start, limit=9))
    assert [row for chunk in chunks for row in chunk.python_rows()] == rows[start:9]
    assert [chunk.start for chunk in chunks] == list(range(start, 9, 3))


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
    """The number in an error is the one that an editor shows."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"a": 2}\n{oops}\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"rows.jsonl, line 5") as caught:
        read(path)
    assert caught.value.line == 5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[1]", "not list"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'{"a": "\\ud83d"}', "surrogate"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": ' + b"[" * 100_000, "recursion"),
        (b'{"a": "half', "Unterminated"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_line_that_is_no_row_is_refused(tmp_path, line, said):
    """The error names the line and what is wrong with it."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(InvalidInput, match=rf"(?s)line 2: .*{said}"):
        read(path)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("rows.csv", b"a,b\n1\n", "Expected 2 columns"),
        ("rows.csv", b"a,b\n1,\xff\n", "UTF8"),
        ("rows.csv", b"a,a\n1,2\n", "'a'"),
        ("rows.csv", b"a,b\n", "no rows"),
        ("rows.jsonl", b"\n\n", "no rows"),
        ("rows.jsonl", b"", "is empty"),
        ("rows.parquet", b"PAR1 but not really", "cannot be read"),
        ("rows.jsonl.gz", b"not gzip", "cannot be read"),
        ("rows.xlsx", b"PK", "no known suffix"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, name, data, said):
    """The error says what is wrong with it."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=said):
        survey(open_rows(path))


def test_a_missing_file_and_a_directory_are_told_apart(tmp_path):
    """Both are refused by name."""
    with pytest.raises(InvalidInput, match="does not exist"):
        open_rows(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidInput, match="is no file"):
        open_rows(tmp_path / "folder.csv")


def test_a_format_can_be_given_where_the_suffix_tells_nothing():
    """And one that is not known is refused."""
    assert format_of(Path("data.txt"), "csv") == "csv"
    assert format_of(Path("DATA.NDJSON")) == "jsonl"
    with pytest.raises(InvalidInput, match="'excel'"):
        format_of(Path("data.csv"), "excel")


def test_parquet_values_that_python_cannot_hold_become_text(tmp_path):
    """Nanoseconds and decimals lose no digit."""
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "ns": pa.array([1], pa.timestamp("ns")),
            "day": [date(2024, 2, 29)],
            "money": [Decimal("1.10")],
            "list": [["a"]],
            "kind": pa.array(["x"]).dictionary_encode(),
        }
    )
    parquet.write_table(table, path)
    assert read(path) == [
        {
            "ns": "1970-01-01 00:00:00.000000001",
            "day": "2024-02-29",
            "money": "1.10",
            "list": ["a"],
            "kind": "x",
        }
    ]


def test_a_survey_finds_columns_kinds_and_adapters(tmp_path, write_rows):
    """In order of appearance, the kinds such that every value fits exactly."""
    path = write_rows(
        tmp_path / "rows.jsonl",
        [
            {"a": 1, "b": 2**60, "c": True, "who": " x@p "},
            {"a": 0.5, "b": None, "c": 1, "d": None, "who": ""},
            {"b": 3, "e": [1], "f": 2**70, "g": "t", "who": "x@p"},
        ],
    )
    found = survey(open_rows(path), adapter_column="who")
    assert found.rows == 3
    assert found.columns == ("a", "b", "c", "who", "d", "e", "f", "g")
    assert found.cells == {"x@p": 2}
    assert dict(found.kinds) == {
        "a": "float",
        "b": "int",
        "c": "json",
        "who": "text",
        "d": "text",
        "e": "json",
        "f": "json",
        "g": "text",
    }


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_survey_stops_at_the_limit(tmp_path, write_rows, suffix):
    """Rows behind the limit are not looked at."""
    path = write_rows(tmp_path / f"rows.{suffix}", [{"a": "x"}] * 10)
    assert survey(open_rows(path), limit=4).rows == 4


def test_nested_times_are_read_as_python_has_them(tmp_path):
    """Only columns of times become text."""
    path = tmp_path / "rows.parquet"
    when = datetime(2024, 1, 2)  # noqa: DTZ001 - Parquet knows times without a zone
    parquet.write_table(pa.table({"a": [[when]]}), path)
    assert read(path) == [{"a": [when]}]
