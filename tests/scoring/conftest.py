"""Fixtures of the scoring tests."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

_SPEC = importlib.util.spec_from_file_location(
    "scoring_fakes", Path(__file__).with_name("fakes.py")
)
_FAKES = importlib.util.module_from_spec(_SPEC)
sys.modules["scoring_fakes"] = _FAKES
_SPEC.loader.exec_module(_FAKES)


@pytest.fixture(scope="session")
def fakes():
    """The stand-ins for registry and model."""
    return _FAKES


@pytest.fixture
def registry(tmp_path):
    """A registry with one version, in production."""
    return _FAKES.FakeRegistry(str(tmp_path)).add(_FAKES.make_version(), "production")


@pytest.fixture(scope="session")
def write_rows():
    """Write rows in the format that the suffix says."""

    def write(path: Path, rows):
        if path.suffix == ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        elif path.suffix == ".csv":
            columns = {key: [str(row[key]) for row in rows] for key in rows[0]}
            csv.write_csv(pa.table(columns), path)
        else:
            parquet.write_table(pa.Table.from_pylist(rows), path)
        return path

    return write


@pytest.fixture(scope="session")
def read_rows():
    """Read a result back with other means than those under test."""

    def read(path: Path):
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in path.read_bytes().splitlines()]
        if path.suffix == ".csv":
            import csv as plain

            with path.open(newline="", encoding="utf-8") as stream:
                return list(plain.DictReader(stream))
        return parquet.read_table(path).to_pylist()

    return read
