"""The language of requirements."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import InvalidQuery
from dovetail.registry.requirements import MAX_LENGTH, Requirement

PARTS = [
    "rougeL",
    "a/b-c.d",
    ">=",
    ">",
    "=",
    "0.4",
    "-1",
    "1e-3",
    "1e999",
    "production",
    "base",
    "on",
    "+",
    "-",
    "+ .5",
    "'my set'",
    '"x"',
    "'",
    "sha256:ab",
    "latest",
    "v7",
    "nan",
    " ",
    "\n",
    "\0",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rougeL >= 0.40", {"operator": ">=", "threshold": 0.4}),
        ("rougeL>0.40", {"operator": ">", "threshold": 0.4}),
        ("rougeL >= -1", {"operator": ">=", "threshold": -1.0}),
        ("rougeL >= 4e-1", {"operator": ">=", "threshold": 0.4}),
        ("rougeL >= .4E0", {"operator": ">=", "threshold": 0.4}),
        ("rougeL >= production", {"operator": ">=", "alias": "production"}),
        ("rougeL > base", {"operator": ">", "alias": "base"}),
        ("rougeL >= on", {"operator": ">=", "alias": "on"}),
        ("rougeL > base + 0.05", {"operator": ">", "alias": "base", "margin": 0.05}),
        ("rougeL > base+0.05", {"operator": ">", "alias": "base", "margin": 0.05}),
        ("rougeL > base + 5e-2", {"operator": ">", "alias": "base", "margin": 0.05}),
        ("rougeL >= my-alias - .05", {"operator": ">=", "alias": "my-alias", "margin": -0.05}),
        (
            "rougeL >= 0.4 on samsum-test",
            {"operator": ">=", "threshold": 0.4, "dataset": "samsum-test"},
        ),
        ("rougeL >= 0.4 on 'my set'", {"operator": ">=", "threshold": 0.4, "dataset": "my set"}),
        (
            "rougeL >= base - 1 on \"a 'b'\"",
            {"operator": ">=", "alias": "base", "margin": -1.0, "dataset": "a 'b'"},
        ),
        ("rougeL > on on on", {"operator": ">", "alias": "on", "dataset": "on"}),
        (
            "rougeL >= 0.4 on sha256:abcdef",
            {"operator": ">=", "threshold": 0.4, "dataset": "sha256:abcdef"},
        ),
    ],
)
def test_each_form_is_read(text, expected):
    """Operator, operand, margin and dataset arrive where they belong."""
    assert Requirement.parse(text) == Requirement(text=text, metric="rougeL", **expected)


@pytest.mark.parametrize("metric", ["rouge1", "eval_loss", "rougeL/v1/mean", "a-b.c", "bleu"])
def test_a_metric_may_have_the_names_that_scores_have(metric):
    """Slashes and dots included, as MLflow writes them."""
    assert Requirement.parse(f"{metric} >= 1").metric == metric


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "rougeL",
        "rougeL >=",
        ">= 0.4",
        "rougeL = 0.4",
        "rougeL < 0.4",
        "rougeL <= 0.4",
        "rougeL >= 0.4 0.5",
        "rougeL >= 0.4 + 0.1",
        "rougeL >= 0.4 on",
        "rougeL >= 0.4 ON x",
        "rougeL >= production on 'a",
        "rougeL >= base + production",
        "0.4 <= rougeL",
        "rougeL => 1",
    ],
)
def test_what_is_no_requirement_says_what_to_write(text):
    """The message has the text and an example."""
    with pytest.raises(InvalidQuery, match=r"METRIC >= NUMBER or METRIC >= ALIAS") as caught:
        Requirement.parse(text)
    assert caught.value.value == text


@pytest.mark.parametrize("alias", ["latest", "Base", "v7"])
def test_an_operand_is_an_alias_that_can_be_set(alias):
    """One that cannot exist would be met by every version."""
    with pytest.raises(InvalidQuery, match="alias"):
        Requirement.parse(f"rougeL >= {alias}")


@pytest.mark.parametrize("operand", ["production-0.01", "production-1", "base-.5", "nan", "Inf"])
def test_a_number_is_never_taken_for_part_of_an_alias(operand):
    """An alias that is not set demands nothing, so the gate would stand open."""
    with pytest.raises(InvalidQuery, match="with spaces"):
        Requirement.parse(f"rougeL >= {operand}")


@pytest.mark.parametrize("text", ["rougeL >= 1e999", "rougeL >= base + 1e999", "rougeL > -1e400"])
def test_a_number_is_finite(text):
    """No score is above infinity, and the history cannot hold it."""
    with pytest.raises(InvalidQuery, match="too large"):
        Requirement.parse(text)


@pytest.mark.parametrize(
    "text", ["rougeL >= 1 on \ud800", "rougeL >= 1 on a\0b", "a" * (MAX_LENGTH + 1)]
)
def test_what_a_database_cannot_keep_is_refused(text):
    """Requirements are stored as they were written."""
    with pytest.raises(InvalidQuery):
        Requirement.parse(text)


@given(st.lists(st.sampled_from(PARTS), max_size=9).map(" ".join) | st.text(max_size=40))
def test_any_text_is_a_requirement_or_an_invalid_query(text):
    """What is read has exactly one operand and finite numbers."""
    try:
        found = Requirement.parse(text)
    except InvalidQuery:
        return
    assert found.text == text
    assert (found.threshold is None) != (found.alias is None)
    assert math.isfinite(found.threshold or 0.0)
    assert math.isfinite(found.margin)
