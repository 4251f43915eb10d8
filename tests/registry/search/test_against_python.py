"""Searching: any filter finds what a plain reading of the same records finds."""

import fnmatch
import operator
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
TEXTS = [
    "summary",
    "Summary",
    "labels",
    "support",
    "Support",
    "mine",
    "two",
    "it's",
    "LORA",
    "production",
    "3",
    "x",
    "one",
    "s",
]
NUMBERS = [-1, 0, 0.4, 0.6, 1, 2, 3, 1e-5, 0.5, 1e20]
TEXT_FIELDS = [
    "name",
    "task",
    "peft_type",
    "alias",
    "base_model",
    "source_run",
    "tags.team",
    "tags.epochs",
    "version_tags.team",
    "version_tags.only",
    "params.epochs",
]
NUMBER_FIELDS = [
    "number",
    "metrics.rougeL",
    "params.r",
    "params.epochs",
    "params.lr",
    "params.flag",
]
PATTERNS = ["s%", "S%", "%a%", "_upport", "%", "", "summary", "SUMMARY", "%'%"]


def quote(value):
    """Write a value in the language."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


NOT_WORD = st.sampled_from(["", "NOT "])
COMPARISONS = st.one_of(
    st.tuples(
        st.just("compare"),
        st.sampled_from(TEXT_FIELDS),
        st.sampled_from([*OPERATORS]),
        st.sampled_from(TEXTS),
    ),
    st.tuples(
        st.just("compare"),
        st.sampled_from(NUMBER_FIELDS),
        st.sampled_from([*OPERATORS]),
        st.sampled_from(NUMBERS),
    ),
    st.tuples(
        st.just("in"),
        st.sampled_from(TEXT_FIELDS),
        NOT_WORD,
        st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3),
    ),
    st.tuples(
        st.just("in"),
        st.sampled_from(NUMBER_FIELDS),
        NOT_WORD,
        st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3),
    ),
    st.tuples(
        st.sampled_from(["LIKE", "ILIKE"]),
        st.sampled_from(TEXT_FIELDS),
        NOT_WORD,
        st.sampled_from(PATTERNS),
    ),
    st.tuples(
        st.just("null"), st.sampled_from([*TEXT_FIELDS, *NUMBER_FIELDS]), NOT_WORD, st.none()
    ),
)
TREES = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["AND", "OR"]), inner, inner),
    ),
    max_leaves=8,
)


def write(tree):
    """Write a tree in the language, every part in brackets."""
    match tree:
        case ("not", part):
            return f"NOT ({write(part)})"
        case ("AND" | "OR" as word, left, right):
            return f"({write(left)}) {word} ({write(right)})"
        case ("compare", field, sign, value):
            return f"{field} {sign} {quote(value)}"
        case ("in", field, negated, values):
            return f"{field} {negated}IN ({', '.join(map(quote, values))})"
        case ("null", field, negated, _):
            return f"{field} IS {negated}NULL"
        case (pattern, field, negated, value):
            return f"{field} {negated}{pattern} {quote(value)}"


def values_of(record, field):
    """Return all values that a version has for a field."""
    version, scores, tags = record
    kind, _, key = field.partition(".")
    if kind == "metrics":
        return [score[key].value for score in scores if key in score]
    if kind == "alias":
        return list(version.aliases)
    if kind == "params":
        value = version.hyperparameters.get(key)
        value = version.config.get(key) if value is None else value
    else:
        own = version.tags.get(key)
        value = tags.get(key) if kind == "tags" and own is None else own
    if kind not in ("params", "tags", "version_tags"):
        value = version.base_model_name if kind == "base_model" else getattr(version, kind)
    return [] if value is None else [value]


def alike(value, wanted):
    """Return both sides as they are compared, or None where a text meets a number."""
    if isinstance(wanted, str):
        return str(value), wanted
    return None if isinstance(value, str) else (value, wanted)


def matches(value, pattern, *, minds_case):
    """Match a pattern of SQL."""
    words = fnmatch.translate("".join({"%": "*", "_": "?"}.get(char, char) for char in pattern))
    return re.match(words, str(value), 0 if minds_case else re.IGNORECASE) is not None


def holds(tree, record):
    """Decide a tree in plain Python."""
    match tree:
        case ("not", part):
            return not holds(part, record)
        case ("AND", left, right):
            return holds(left, record) and holds(right, record)
        case ("OR", left, right):
            return holds(left, record) or holds(right, record)
    kind, field, word, wanted = tree
    values = values_of(record, field)
    if kind == "compare":
        pairs = [pair for value in values if (pair := alike(value, wanted))]
        return any(OPERATORS[word](*pair) for pair in pairs)
    if kind == "in":
        pairs = [pair for value in values for one in wanted if (pair := alike(value, one))]
        answer = any(left == right for left, right in pairs)
    elif kind == "null":
        answer = not values
    else:
        answer = any(matches(value, wanted, minds_case=kind == "LIKE") for value in values)
    return answer != bool(word)


@pytest.fixture(scope="module")
def records(shelf):
    """All that the registry holds, which does not change: each version, its scores and tags."""
    return [
        (
            version,
            [evaluation.scores for evaluation in shelf.evaluations(version.reference)],
            shelf.adapter(version.name).tags,
        )
        for version in shelf.search().versions
    ]


@given(TREES)
@settings(max_examples=300, deadline=None)
def test_the_database_finds_what_plain_python_finds(found, records, tree):
    """For any tree of comparisons over all kinds of fields."""
    expected = [str(record[0].reference) for record in records if holds(tree, record)]
    assert found(write(tree)) == expected
