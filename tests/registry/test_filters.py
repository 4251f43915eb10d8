"""Reading filters, apart from what the database makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import InvalidQuery
from dovetail.registry.filters import (
    MAX_COMPARISONS,
    MAX_DEPTH,
    Both,
    Comparison,
    Field,
    Not,
    parse_filter,
)

A, B, C = (Comparison(Field("number"), "=", number) for number in (1, 2, 3))


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_filter_is_none(text):
    """It finds everything."""
    assert parse_filter(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("number = 1 OR number = 2 AND number = 3", Both("OR", (A, Both("AND", (B, C))))),
        ("(number = 1 OR number = 2) AND number = 3", Both("AND", (Both("OR", (A, B)), C))),
        ("NOT number = 1 AND number = 2", Both("AND", (Not(A), B))),
        ("NOT (number = 1 AND number = 2)", Not(Both("AND", (A, B)))),
        ("NOT NOT number = 1", Not(Not(A))),
        ("number = 1 AND number = 2 AND number = 3", Both("AND", (A, B, C))),
        ("(((number=1)))", A),
    ],
)
def test_trees_are_built_by_precedence(text, expected):
    """NOT before AND before OR, and brackets before all."""
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name = 'a'", Comparison(Field("name"), "=", "a")),
        ("name = 'it''s'", Comparison(Field("name"), "=", "it's")),
        ('name = "a""b\'c"', Comparison(Field("name"), "=", "a\"b'c")),
        ("name = ''", Comparison(Field("name"), "=", "")),
        ("name like 'a%'", Comparison(Field("name"), "LIKE", "a%")),
        ("name not iLike 'a'", Comparison(Field("name"), "ILIKE", "a", negated=True)),
        ("name in ('a', 1)", Comparison(Field("name"), "IN", ("a", 1))),
        ("name NOT IN ('a')", Comparison(Field("name"), "IN", ("a",), negated=True)),
        ("name IS NULL", Comparison(Field("name"), "IS NULL", None)),
        ("name is not null", Comparison(Field("name"), "IS NULL", None, negated=True)),
        (
            "metrics.rougeL/v1/mean > -.5e1",
            Comparison(Field("metrics", "rougeL/v1/mean"), ">", -5.0),
        ),
        ("tags.`my tag` = 'x'", Comparison(Field("tags", "my tag"), "=", "x")),
        ("tags.a.b-c_d = 'x'", Comparison(Field("tags", "a.b-c_d"), "=", "x")),
        ("tags.not = 'x'", Comparison(Field("tags", "not"), "=", "x")),
        ("android = 1", Comparison(Field("android"), "=", 1)),
        ("params.flag = TRUE", Comparison(Field("params", "flag"), "=", True)),
        ("params.flag!=false", Comparison(Field("params", "flag"), "!=", False)),
    ],
)
def test_comparisons_are_read(text, expected):
    """Fields, operators in any case, and values of each kind."""
    assert parse_filter(text) == expected


@given(st.text(max_size=40))
def test_any_text_can_be_a_value(value):
    """Doubling the quotes is all that is needed."""
    for quote in ("'", '"'):
        found = parse_filter(f"name = {quote}{value.replace(quote, quote * 2)}{quote}")
        assert found == Comparison(Field("name"), "=", value)


@given(st.text(max_size=80))
def test_any_text_is_a_filter_or_an_invalid_query(text):
    """Nothing else is raised."""
    try:
        parse_filter(text)
    except InvalidQuery as error:
        assert str(error)  # noqa: PT017 (most texts are none, some are)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_as_python_writes_them(number):
    """Whole numbers that a database cannot hold become the nearest that it can."""
    value = parse_filter(f"number = {number!r}").value
    assert value == (number if abs(number) < 10**18 else float(number))


def test_depth_and_number_of_comparisons_are_limited():
    """The last that is allowed is read, the next is refused with the limit."""
    assert parse_filter("NOT " * (MAX_DEPTH - 1) + "number = 1")
    with pytest.raises(InvalidQuery, match=f"more than {MAX_DEPTH} levels"):
        parse_filter("NOT " * MAX_DEPTH + "number = 1")
    assert parse_filter(" OR ".join(["number=1"] * MAX_COMPARISONS))
    with pytest.raises(InvalidQuery, match=r"501 comparisons; the limit is 500; write 'FIELD IN"):
        parse_filter(" OR ".join(["number=1"] * (MAX_COMPARISONS + 1)))
