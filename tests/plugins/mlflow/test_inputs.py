"""Rows are made of every shape of input, and each text stays in its own row."""

import numpy as np
import pandas as pd
import pytest

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.plugins.mlflow.inputs import read_records, text_for
from dovetail.registry.template import InputTemplate


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"text": ["a", ["b", "c"], []]}),
        pd.DataFrame({"text": ["a", np.array(["b", "c"]), np.array([])]}),
        [{"text": "a"}, {"text": ["b", "c"]}, {"text": []}],
    ],
    ids=["table", "table of arrays", "rows"],
)
@pytest.mark.parametrize("template", [None, InputTemplate.parse("{text}")])
def test_a_list_in_a_cell_is_that_rows_error(data, template):
    """It adds no rows and removes none, so that no answer goes to another row."""
    first, *others = read_records(data)
    assert text_for(first, template) == "a"
    assert len(others) == 2
    for record in others:
        with pytest.raises(InvalidRow, match="column 'text' holds list, not text"):
            text_for(record, template)


@pytest.mark.parametrize(
    "data",
    [
        {"text": ["a", "b"], "adapter": "chat/1"},
        {"text": np.array(["a", "b"]), "adapter": ["chat/1"] * 2},
        pd.DataFrame([{"text": ["a", "b"], "adapter": "chat/1"}]),
    ],
    ids=["columns", "arrays", "as MLflow hands them on"],
)
def test_columns_become_rows(data):
    """MLflow makes a table of one row of columns, where a signature has inputs."""
    assert read_records(data) == [
        {"text": "a", "adapter": "chat/1"},
        {"text": "b", "adapter": "chat/1"},
    ]


def test_columns_without_texts_have_no_rows():
    """They are as long as each other."""
    assert read_records({"text": [], "adapter": []}) == []


@pytest.mark.parametrize("data", [{"text": "a", "adapter": []}, {"text": [], "adapter": "chat/1"}])
def test_an_empty_column_beside_a_text_is_refused(data):
    """The text would vanish without a word."""
    with pytest.raises(InvalidInput, match="the columns are of different length"):
        read_records(data)
