"""Searching: the filter language on a registry, against a plain reading of the same records."""

import fnmatch
import operator
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.errors import InvalidInput, InvalidQuery
from dovetail.registry.filters import MAX_COMPARISONS, MAX_DEPTH
from dovetail.registry.search import MAX_PAGE


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, place_at, make):
    """A registry of five versions that differ in every field; nothing changes it."""
    root = tmp_path_factory.mktemp("shelf")
    bases = {name: make.base(root / name, seed=at) for at, name in enumerate(("one", "two"))}
    with place_at(root / "place").open(actor="ann") as registry:

        def add(name, kind, seed, base, **options):
            payload = getattr(make, kind)(root / f"{kind}{seed}", seed=seed)
            registry.register(name, payload, base=bases[base], **options)

        add(
            "summary",
            "prompt",
            1,
            "one",
            task="summarization",
            tags={"team": "Support", "my tag": "x"},
            hyperparameters={"lr": 1e-5, "epochs": 3, "num_virtual_tokens": "many"},
            scores={"rougeL": 0.4},
        )
        add(
            "summary",
            "prompt",
            2,
            "one",
            hyperparameters={"lr": 0.5, "size": 10**20, "deep": {"a": [1]}},
            scores={"rougeL": 0.6, "a/b.c-d": 1},
        )
        add(
            "Summary",
            "lora",
            1,
            "two",
            tags={"team": "support", "é": "ü", "a\\b": "c", "%": "100%"},
            hyperparameters={"epochs": "3", "flag": True, "x.y": None},
            source_run="run-7",
        )
        add("labels", "lora", 2, "one", task="text-classification", scores={"rougeL": -1.0})
        add(
            "labels",
            "lora",
            3,
            "one",
            tags={"team": "it's"},
            generation_config={"max_new_tokens": 4},
        )
        add("labels", "lora", 4, "one", scores={"rougeL": 0.9})
        registry.promote("summary/1", "production")
        registry.promote("summary/2", "staging")
        registry.promote("labels/1", "production")
        registry.delete("labels/3")
        yield registry


def found(registry, query, **options):
    """Return the references that a query finds, in the order of the answer."""
    return [str(version.reference) for version in registry.search(query, **options).versions]


ALL = ["Summary/1", "labels/2", "labels/1", "summary/2", "summary/1"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ALL),
        (" \n ", ALL),
        ("name = 'summary'", ["summary/2", "summary/1"]),
        ("name != 'summary'", ["Summary/1", "labels/2", "labels/1"]),
        ("number = 2", ["labels/2", "summary/2"]),
        ("number >= 2", ["labels/2", "summary/2"]),
        ("number < 2", ["Summary/1", "labels/1", "summary/1"]),
        ("number IN (2, 3)", ["labels/2", "summary/2"]),
        ("number = '2'", ["labels/2", "summary/2"]),
        ("task = 'summarization'", ["summary/2", "summary/1"]),
        ("task IS NULL", ["Summary/1"]),
        ("task is not null AND number = 1", ["labels/1", "summary/1"]),
        ("peft_type = 'LORA'", ["Summary/1", "labels/2", "labels/1"]),
        ("created_by = 'ann'", ALL),
        ("source_run = 'run-7'", ["Summary/1"]),
        ("alias = 'production'", ["labels/1", "summary/1"]),
        ("alias IN ('staging', 'x')", ["summary/2"]),
        ("alias LIKE '%ing'", ["summary/2"]),
        ("alias IS NULL", ["Summary/1", "labels/2"]),
        ("alias IS NOT NULL", ["labels/1", "summary/2", "summary/1"]),
        ("alias NOT IN ('production')", ["Summary/1", "labels/2", "summary/2"]),
        ("base_model = 'two'", ["Summary/1"]),
        ("base_model IN ('two', 'three')", ["Summary/1"]),
        ("base_model LIKE 't%'", ["Summary/1"]),
        ("base_model = 5", []),
        ("created_at > '2020-01-01'", ALL),
        ("created_at < '2020-01-01T00:00:00+00:00'", []),
        ("created_at IN ('2020-01-01')", []),
    ],
)
def test_plain_fields(shelf, query, expected):
    """Each field is found by value, list and pattern."""
    assert found(shelf, query) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("metrics.rougeL > 0.4", ["summary/2"]),
        ("metrics.rougeL >= 0.4", ["summary/2", "summary/1"]),
        ("metrics.rougeL = 4e-1", ["summary/1"]),
        ("metrics.rougeL < 0", ["labels/1"]),
        ("metrics.rougeL = -1", ["labels/1"]),
        ("metrics.rougeL IN (0.4, .6)", ["summary/2", "summary/1"]),
        ("metrics.a/b.c-d = 1", ["summary/2"]),
        ("metrics.`a/b.c-d` = 1", ["summary/2"]),
        ("metrics.rougeL IS NULL", ["Summary/1", "labels/2"]),
        ("metrics.rougeL IS NOT NULL AND NOT metrics.rougeL > 0", ["labels/1"]),
        ("metrics.nothing > 0", []),
        ("metrics.rougeL > 1e999", []),
    ],
)
def test_metrics(shelf, query, expected):
    """Any evaluation's score counts, reported ones included; no score meets no comparison."""
    assert found(shelf, query) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("params.lr = 1e-5", ["summary/1"]),
        ("params.lr IN (0.00001)", ["summary/1"]),
        ("params.lr < 1", ["summary/2", "summary/1"]),
        ("params.lr >= 0.50", ["summary/2"]),
        ("params.epochs = 3", ["summary/1"]),
        ("params.epochs = 3.0", ["summary/1"]),
        ("params.epochs = '3'", ["Summary/1", "summary/1"]),
        ("params.epochs IN ('3', 4)", ["Summary/1", "summary/1"]),
        ("params.epochs IN (3, 4)", ["summary/1"]),
        ("params.r = 2", ["Summary/1", "labels/2", "labels/1"]),
        ("params.num_virtual_tokens = 3", ["summary/2"]),
        ("params.num_virtual_tokens = 'many'", ["summary/1"]),
        ("params.flag = true", ["Summary/1"]),
        ("params.flag = FALSE", []),
        ("params.size = 100000000000000000000", ["summary/2"]),
        ("params.`x.y` IS NULL", ALL),
        ("params.lr IS NOT NULL", ["summary/2", "summary/1"]),
        ("params.bias LIKE 'no%'", ["Summary/1", "labels/2", "labels/1"]),
        ("params.target_modules LIKE '%c_attn%'", ["Summary/1", "labels/2", "labels/1"]),
    ],
)
def test_params(shelf, query, expected):
    """Numbers equal numbers, text equals what is written; hyperparameters hide the config."""
    assert found(shelf, query) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("tags.team = 'support'", ["Summary/1"]),
        ("tags.team ILIKE 'SUPPORT'", ["Summary/1", "summary/2", "summary/1"]),
        ("tags.team LIKE 'S%'", ["summary/2", "summary/1"]),
        ("tags.team LIKE '_upport'", ["Summary/1", "summary/2", "summary/1"]),
        ("tags.team = 'it''s'", ["labels/2", "labels/1"]),
        ('tags.team = "it\'s"', ["labels/2", "labels/1"]),
        ("tags.`my tag` = 'x'", ["summary/2", "summary/1"]),
        ("tags.`é` = 'ü'", ["Summary/1"]),
        ("tags.`a\\b` = 'c'", ["Summary/1"]),
        ("tags.`%` LIKE '100%'", ["Summary/1"]),
        ("tags.`%` = '%'", []),
        ("tags.team LIKE '*'", []),
        ("tags.team LIKE '[a-z]%'", []),
        ("tags.team LIKE '?upport'", []),
        ("tags.team NOT LIKE '%upport'", ["labels/2", "labels/1"]),
    ],
)
def test_tags(shelf, query, expected):
    """``LIKE`` minds case and knows ``%`` and ``_`` only; names stand in backticks."""
    assert found(shelf, query) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("number = 2 OR number = 1 AND name = 'labels'", ["labels/2", "labels/1", "summary/2"]),
        ("(number = 2 OR number = 1) AND name = 'labels'", ["labels/2", "labels/1"]),
        ("NOT number = 2 AND name = 'labels'", ["labels/1"]),
        (
            "NOT (number = 2 AND name = 'labels')",
            ["Summary/1", "labels/1", "summary/2", "summary/1"],
        ),
        ("NOT NOT number = 2", ["labels/2", "summary/2"]),
        ("not number=2 and name='labels'or number=2", ["labels/2", "labels/1", "summary/2"]),
        ("((((number = 2))))", ["labels/2", "summary/2"]),
    ],
)
def test_not_binds_before_and_and_before_or(shelf, query, expected):
    """As in SQL; the words may be written in any case."""
    assert found(shelf, query) == expected


@pytest.mark.parametrize(
    "condition",
    [
        "task = 'x'",
        "params.zzz = 8",
        "params.zzz = 'x'",
        "source_run LIKE 'x%'",
        "metrics.zzz > 0",
        "tags.zzz IN ('a')",
    ],
)
def test_what_is_missing_meets_no_comparison_and_so_its_opposite(shelf, condition):
    """For every kind of field alike; SQL's third truth value never shows."""
    assert found(shelf, condition) == []
    assert found(shelf, f"NOT {condition}") == ALL
    assert found(shelf, f"NOT ({condition} AND number > 0)") == ALL
    assert found(shelf, f"NOT NOT {condition}") == []


def test_a_base_model_is_found_by_name_or_fingerprint(shelf):
    """Whole, in a list, or by its beginning."""
    fingerprint = shelf.base_model("two").fingerprint
    for query in (
        f"= '{fingerprint}'",
        f"IN ('x', '{fingerprint}')",
        f"LIKE '{fingerprint[:20]}%'",
    ):
        assert found(shelf, f"base_model {query}") == ["Summary/1"]
    assert "Summary/1" not in found(shelf, f"base_model != '{fingerprint}'")


def test_a_payload_is_found_by_its_digest(shelf):
    """The digest that ``show`` prints."""
    digest = shelf.resolve("summary/1").payload_digest
    assert found(shelf, f"payload = '{digest}'") == ["summary/1"]


def test_dates_may_have_any_zone(shelf):
    """A moment is the same moment however it is written."""
    at = shelf.resolve("summary/2").created_at
    east = at.astimezone(datetime.strptime("+05:30", "%z").tzinfo)
    assert "summary/2" in found(shelf, f"created_at = '{east.isoformat()}'")
    assert "summary/2" not in found(shelf, f"created_at > '{at.isoformat()}'")
    assert found(shelf, f"created_at > '{(datetime.now(UTC) + timedelta(days=1)).date()}'") == []


# Orders and pages


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([], ALL),
        (["name DESC"], ["summary/2", "summary/1", "labels/2", "labels/1", "Summary/1"]),
        (["number"], ["Summary/1", "labels/1", "summary/1", "labels/2", "summary/2"]),
        (
            ["number desc", "name desc"],
            ["summary/2", "labels/2", "summary/1", "labels/1", "Summary/1"],
        ),
        (["metrics.rougeL DESC"], ["summary/2", "summary/1", "labels/1", "Summary/1", "labels/2"]),
        (["metrics.rougeL ASC"], ["labels/1", "summary/1", "summary/2", "Summary/1", "labels/2"]),
        (["metrics.`a/b.c-d`"], ["summary/2", "Summary/1", "labels/2", "labels/1", "summary/1"]),
        (["source_run DESC"], ["Summary/1", "labels/2", "labels/1", "summary/2", "summary/1"]),
        (["created_at"], ["summary/1", "summary/2", "Summary/1", "labels/1", "labels/2"]),
        (["task"], ["summary/2", "summary/1", "labels/2", "labels/1", "Summary/1"]),
    ],
)
def test_results_are_ordered_with_the_missing_last(shelf, order, expected):
    """In either direction; name and number decide the rest."""
    assert found(shelf, "", order_by=order) == expected


@pytest.mark.parametrize(
    "order",
    [
        "",
        "DESC",
        "name name",
        "name DESC DESC",
        "alias",
        "params.r",
        "nothing",
        "metrics",
        "name; DROP TABLE versions",
        "name,number",
    ],
)
def test_orders_that_cannot_be_understood_are_refused(shelf, order):
    """The message has the order as it was given."""
    with pytest.raises(InvalidQuery):
        shelf.search("", order_by=[order])


@given(size=st.integers(1, 6), order=st.sampled_from([[], ["number"], ["metrics.rougeL DESC"]]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_pages_together_are_the_whole(shelf, size, order):
    """Each version is on one page, in the same order."""
    pages, token = [], None
    while True:
        page = shelf.search("number > 0", order_by=order, limit=size, page_token=token)
        assert len(page.versions) <= size
        pages += [str(version.reference) for version in page.versions]
        token = page.next_page_token
        if token is None:
            break
    assert pages == found(shelf, "number > 0", order_by=order)


def test_a_token_belongs_to_one_search(shelf):
    """With another filter or order it would skip what it should show."""
    token = shelf.search("number > 0", limit=2).next_page_token
    assert found(shelf, "number > 0", limit=2, page_token=token) == ALL[2:4]
    for query, order in (("number > 1", []), ("", []), ("number > 0", ["name"])):
        with pytest.raises(InvalidQuery, match="does not belong to this search"):
            shelf.search(query, order_by=order, limit=2, page_token=token)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.hex()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_text_is_no_token(shelf, token):
    """It is refused and never read as a place."""
    with pytest.raises(InvalidQuery):
        shelf.search("", page_token=token)


@pytest.mark.parametrize(
    "token", ["W1tb" * 30_000, "WzE4NDQ2NzQ0MDczNzA5NTUxNjE2LCAiYSJd", "WzEsMl0="]
)
def test_tokens_made_to_hurt_are_refused(shelf, token):
    """Neither deep nesting nor a huge offset gets through."""
    with pytest.raises(InvalidQuery):
        shelf.search("", page_token=token)


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
def test_a_page_has_from_one_to_ten_thousand_versions(shelf, limit):
    """More is asked for in pages."""
    with pytest.raises(InvalidQuery, match="must be from 1 to 10,000"):
        shelf.search("", limit=limit)
    assert found(shelf, "", limit=MAX_PAGE) == ALL


# What is no filter


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
        "tags.é = 'a'",
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


def test_a_large_filter_within_the_limits_is_answered(shelf):
    """As many comparisons, brackets and list members as are allowed."""
    assert found(shelf, " OR ".join(["number=2"] * MAX_COMPARISONS)) == ["labels/2", "summary/2"]
    assert found(shelf, "(" * 4_000 + "number = 2" + ")" * 4_000) == ["labels/2", "summary/2"]
    deepest = "NOT " * (MAX_DEPTH - 2) + "params.lr IN (0.5, 'x') AND number = 2"
    assert found(shelf, deepest) == ["summary/2"]
    assert found(shelf, f"number IN ({','.join(['2'] * 4_900)})") == ["labels/2", "summary/2"]
    assert found(shelf, f"params.epochs IN ({','.join(['3'] * 4_900)})") == ["summary/1"]
    assert found(shelf, f"number < 1{'0' * 5_000}") == ALL


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
    "x\0y",
    "\n",
    ":p",
    "?",
    "{}",
    "%(a)s",
    "`",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_is_only_ever_compared(shelf, text):
    """Whatever it looks like to SQL, JSON paths or patterns."""
    quoted = "'" + text.replace("'", "''") + "'"
    for field in ("name", "task", "alias", "base_model", "tags.team", "params.lr", "payload"):
        assert found(shelf, f"{field} = {quoted}") == []
        assert found(shelf, f"{field} IN ({quoted})") == []
    assert found(shelf, "") == ALL


@pytest.mark.parametrize(
    "key", [text for text in INJECTIONS if "`" not in text and '"' not in text]
)
def test_keys_are_only_ever_looked_up(shelf, key):
    """A key that does not exist finds nothing, whatever it looks like."""
    expected = ["Summary/1"] if key == "%" else []
    assert found(shelf, f"tags.`{key}` IS NOT NULL") == expected
    assert found(shelf, f"params.`{key}` IS NOT NULL") == []


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
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_answered_or_refused(shelf, text):
    """Nothing else is raised, and only versions that exist are found."""
    try:
        answer = found(shelf, text)
    except InvalidInput:
        return
    assert set(answer) <= set(ALL)


# The filter language against a plain reading of the records

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
        value = tags.get(key) if kind == "tags" else None
    if kind not in ("params", "tags"):
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


@given(TREES)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_database_finds_what_plain_python_finds(shelf, tree):
    """For any tree of comparisons over all kinds of fields."""
    records = [
        (
            version,
            [evaluation.scores for evaluation in shelf.evaluations(version.reference)],
            shelf.adapter(version.name).tags,
        )
        for version in shelf.search().versions
    ]
    expected = [str(record[0].reference) for record in records if holds(tree, record)]
    assert found(shelf, write(tree)) == expected
