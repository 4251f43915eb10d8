"""Searching: what is no filter, and text that looks like something else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import InvalidInput, InvalidQuery
from dovetail.registry.filters import MAX_COMPARISONS, MAX_DEPTH

ALL = ["Summary/1", "labels/2", "labels/1", "summary/2", "summary/1"]


@pytest.mark.parametrize(
    "query",
    [
        "name",
        "name =",
        "= 1",
        "name = one",
        "name == 'a'",
        "name = 'a",
        "name = 'a' AND",
        "AND",
        "(name = 'a'",
        "name = 'a')",
        "name = 'a' name = 'b'",
        "name IN ()",
        "name IN ('a',)",
        "name IN 'a'",
        "name LIKE 1",
        "name IS 'a'",
        "name NOT = 'a'",
        "tags.`` = 'a'",
        "tags. = 'a'",
        "'name' = 'a'",
        "name = 'a'; DROP TABLE versions",
        "name = 'a' -- x",
        "1 = 1",
    ],
)
def test_what_is_no_filter_says_where_reading_stopped(shelf, query):
    """With an example of what to write."""
    with pytest.raises(InvalidQuery, match=r"cannot be understood at character \d+") as caught:
        shelf.search(query)
    assert caught.value.value == query


@pytest.mark.parametrize(
    "field",
    [
        "nothing",
        "metrics",
        "params",
        "tags",
        "name.x",
        "id",
        "metric.rougeL",
        'tags.`a"b`',
        "Name",
        "deleted_at",
        "versions.number",
    ],
)
def test_unknown_fields_are_refused_with_those_that_exist(shelf, field):
    """Internal columns are not among them."""
    with pytest.raises(InvalidQuery, match=r"no field.*known are: alias, base_model"):
        shelf.search(f"{field} = 'a'")


@pytest.mark.parametrize(
    "query",
    [
        "metrics.rougeL > 'high'",
        "number = 'one'",
        "created_at > 'now'",
        "created_at > 2026",
        "created_at > '0001-01-01T00:00:00+14:00'",
    ],
)
def test_values_of_the_wrong_kind_are_refused(shelf, query):
    """A number is compared with numbers, a date with dates."""
    with pytest.raises(InvalidQuery):
        shelf.search(query)


@pytest.mark.parametrize(
    "query",
    [
        "NOT " * 2_000 + "number = 1",
        "NOT(" * 1_500 + "number = 1" + ")" * 1_500,
        "(number = 1 OR " * 500 + "number = 1" + ")" * 500,
        "number=1AND " * 800 + "number=1",
        "name=1OR " * 1_000 + "name=1",
        "x" * 10_001,
        "number = " + "9" * 9_000 + " AND",
        "NOT " * (MAX_DEPTH + 1) + "number = 1",
    ],
    ids=range(8),
)
def test_too_deep_or_too_long_is_an_invalid_query(shelf, query):
    """Neither Python's stack nor the database's limits are met."""
    with pytest.raises(InvalidQuery):
        shelf.search(query)


def test_a_large_filter_within_the_limits_is_answered(found):
    """As many comparisons, brackets and list members as are allowed."""
    assert found(" OR ".join(["number=2"] * MAX_COMPARISONS)) == ["labels/2", "summary/2"]
    assert found("(" * 4_000 + "number = 2" + ")" * 4_000) == ["labels/2", "summary/2"]
    deepest = "NOT " * (MAX_DEPTH - 2) + "params.lr IN (0.5, 'x') AND number = 2"
    assert found(deepest) == ["summary/2"]
    assert found(f"number IN ({','.join(['2'] * 4_900)})") == ["labels/2", "summary/2"]
    assert found(f"params.epochs IN ({','.join(['3'] * 4_900)})") == ["summary/1"]
    assert found(f"number < 1{'0' * 5_000}") == ALL


INJECTIONS = [
    "' OR '1'='1",
    "'; DROP TABLE versions; --",
    '" OR 1=1',
    "%",
    "_",
    "*",
    "\\",
    "$",
    "$.a",
    '$."team"',
    "\n",
    ":p",
    "?",
    "{}",
    "%(a)s",
    "`",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_is_only_ever_compared(found, text):
    """Whatever it looks like to SQL, JSON paths or patterns."""
    quoted = "'" + text.replace("'", "''") + "'"
    for field in ("name", "task", "alias", "base_model", "tags.team", "params.lr", "payload"):
        assert found(f"{field} = {quoted}") == []
        assert found(f"{field} IN ({quoted})") == []
    assert found("") == ALL


@pytest.mark.parametrize(
    "key", [text for text in INJECTIONS if "`" not in text and '"' not in text]
)
def test_keys_are_only_ever_looked_up(found, key):
    """A key that does not exist finds nothing, whatever it looks like."""
    expected = ["Summary/1"] if key == "%" else []
    assert found(f"tags.`{key}` IS NOT NULL") == expected
    assert found(f"params.`{key}` IS NOT NULL") == []


def test_half_a_surrogate_pair_is_refused(shelf):
    """It is no text that a database could hold."""
    with pytest.raises(InvalidInput):
        shelf.search("name = '\ud800'")


@given(
    st.text(max_size=30)
    | st.lists(
        st.sampled_from(
            [
                "name",
                "tags.a",
                "metrics.`x`",
                "params.r",
                "number",
                "=",
                "!=",
                ">",
                "LIKE",
                "ILIKE",
                "IN",
                "NOT",
                "IS",
                "NULL",
                "AND",
                "OR",
                "(",
                ")",
                ",",
                "'a'",
                '"b"',
                "1",
                "-2.5e3",
                "true",
                "created_at",
                "''",
                "`",
            ]
        ),
        max_size=12,
    ).map(" ".join)
)
@settings(deadline=None)
def test_any_text_is_answered_or_refused(found, text):
    """Nothing else is raised, and only versions that exist are found."""
    try:
        answer = found(text)
    except InvalidInput:
        return
    assert set(answer) <= set(ALL)


@pytest.mark.parametrize(
    ("query", "order"),
    [("name = 'x\0y'", []), ("tags.`x\0y` = 'a'", []), ("", ["metrics.`x\0y`"])],
)
def test_a_nul_is_refused(found, query, order):
    """No text in a registry has one, and PostgreSQL cannot be asked for it."""
    with pytest.raises(InvalidQuery, match="NUL"):
        found(query, order_by=order)


@pytest.mark.parametrize(
    "query", ["number LIKE '1%'", "metrics.rougeL ILIKE '0%'", "created_at LIKE '2026%'"]
)
def test_patterns_are_for_text(found, query):
    """How a database would write a number or date is nobody's business."""
    with pytest.raises(InvalidQuery, match="is no text"):
        found(query)


def test_an_order_has_a_limit(found):
    """Ten fields are enough for anybody; what is said twice counts once."""
    with pytest.raises(InvalidQuery, match="at most 10"):
        found("", order_by=["name"] * 11)
    assert found("", order_by=["name", "name DESC"]) == ALL
