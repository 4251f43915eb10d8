"""Input templates fill in columns, and reach nothing else."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.registry.template import InputTemplate

NAMES = st.text(st.characters(exclude_characters="{}.[]!:"), min_size=1).filter(
    lambda name: name == name.strip() and name.strip() != ""
)
VALUES = st.text(min_size=1).filter(str.strip)


@given(st.lists(st.tuples(st.text(), NAMES), min_size=1, max_size=4), st.text(), st.data())
def test_rendering_is_plain_replacement(parts, end, data):
    """Literals and values come through unchanged, braces in either of them too."""
    row = {name: data.draw(VALUES) for _, name in parts}
    escaped = [(text.replace("{", "{{").replace("}", "}}"), name) for text, name in parts]
    tail = end.replace("{", "{{").replace("}", "}}")
    template = InputTemplate.parse("".join(f"{text}{{{name}}}" for text, name in escaped) + tail)
    assert template.render(row) == "".join(text + row[name] for text, name in parts) + end
    assert template.fields == tuple(dict.fromkeys(name for _, name in parts))


@given(st.text())
def test_any_text_is_a_template_or_is_refused(text):
    """There is no third way out."""
    try:
        template = InputTemplate.parse(text)
    except InvalidInput as error:
        assert error.value == text  # noqa: PT017 - both ways are right
    else:
        assert template.fields


@given(st.text(min_size=1), VALUES)
def test_a_column_alone_may_have_any_name(name, value):
    """A text column needs no escaping."""
    assert InputTemplate.of_column(name).render({name: value}) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{a.__class__}", "'.'"),
        ("{a[0]}", r"'\['"),
        ("{a!r}", "'!'"),
        ("{a:>9}", "':'"),
        ("{}", "no column name"),
        ("{ a }", "white space"),
        ("{a", "unmatched"),
        ("a}", "unmatched"),
        ("{a{b}}", "unmatched"),
        ("plain", "no column"),
        ("{{a}}", "no column"),
    ],
)
def test_nothing_but_a_column_name_is_understood(text, said):
    """Attributes, indices, conversions and format specifications are refused."""
    with pytest.raises(InvalidInput, match=said):
        InputTemplate.parse(text)


@pytest.mark.parametrize(
    ("value", "text"), [(5, "5"), (1.5, "1.5"), (True, "True"), (date(2024, 1, 2), "2024-01-02")]
)
def test_numbers_and_dates_are_written_as_python_writes_them(value, text):
    """As ``str.format`` did it in training."""
    assert InputTemplate.parse("{a}").render({"a": value}) == text


@pytest.mark.parametrize("row", [{}, {"a": None}, {"a": [1]}, {"a": {}}, {"a": b"x"}, {"a": " "}])
def test_a_row_without_text_is_refused(row):
    """Missing, null, nested, bytes or blank: the error names the column."""
    with pytest.raises(InvalidRow, match="'a'"):
        InputTemplate.parse("Say {a}").render(row)


def test_one_blank_column_of_two_is_no_error():
    """A title may be empty where the body is not."""
    assert InputTemplate.parse("{title}: {body}").render({"title": "", "body": "x"}) == ": x"
