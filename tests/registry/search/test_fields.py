"""Searching: what each field and operator finds."""

from datetime import UTC, datetime, timedelta

import pytest

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
def test_plain_fields(found, query, expected):
    """Each field is found by value, list and pattern."""
    assert found(query) == expected


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
def test_metrics(found, query, expected):
    """Any evaluation's score counts, reported ones included; no score meets no comparison."""
    assert found(query) == expected


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
def test_params(found, query, expected):
    """Numbers equal numbers, text equals what is written; hyperparameters hide the config."""
    assert found(query) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("tags.team = 'support'", ["Summary/1"]),
        ("tags.team ILIKE 'SUPPORT'", ["Summary/1", "summary/2", "summary/1"]),
        ("tags.team LIKE 'S%'", ["summary/2", "summary/1"]),
        ("tags.team LIKE '_upport'", ["Summary/1", "summary/2", "summary/1"]),
        ("tags.team = 'it''s'", ["labels/2"]),
        ('tags.team = "it\'s"', ["labels/2"]),
        ("tags.team = 'mine'", ["labels/1"]),
        ("tags.only = 'two'", ["summary/2"]),
        ("version_tags.team = 'mine'", ["labels/1"]),
        ("version_tags.team IN ('mine', 'Support')", ["labels/1"]),
        ("version_tags.team = 'Support'", []),
        ("version_tags.only IS NOT NULL", ["summary/2"]),
        (
            "version_tags.team IS NULL AND tags.team IS NOT NULL",
            ["Summary/1", "labels/2", "summary/2", "summary/1"],
        ),
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
def test_tags(found, query, expected):
    """``LIKE`` minds case and knows ``%`` and ``_`` only; names stand in backticks."""
    assert found(query) == expected


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
def test_not_binds_before_and_and_before_or(found, query, expected):
    """As in SQL; the words may be written in any case."""
    assert found(query) == expected


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
def test_what_is_missing_meets_no_comparison_and_so_its_opposite(found, condition):
    """For every kind of field alike; SQL's third truth value never shows."""
    assert found(condition) == []
    assert found(f"NOT {condition}") == ALL
    assert found(f"NOT ({condition} AND number > 0)") == ALL
    assert found(f"NOT NOT {condition}") == []


def test_a_base_model_is_found_by_name_or_fingerprint(shelf, found):
    """Whole, in a list, or by its beginning."""
    fingerprint = shelf.base_model("two").fingerprint
    for query in (
        f"= '{fingerprint}'",
        f"IN ('x', '{fingerprint}')",
        f"LIKE '{fingerprint[:20]}%'",
    ):
        assert found(f"base_model {query}") == ["Summary/1"]
    assert "Summary/1" not in found(f"base_model != '{fingerprint}'")


def test_a_payload_is_found_by_its_digest(shelf, found):
    """The digest that ``show`` prints."""
    digest = shelf.resolve("summary/1").payload_digest
    assert found(f"payload = '{digest}'") == ["summary/1"]


def test_dates_may_have_any_zone(shelf, found):
    """A moment is the same moment however it is written."""
    at = shelf.resolve("summary/2").created_at
    east = at.astimezone(datetime.strptime("+05:30", "%z").tzinfo)
    assert "summary/2" in found(f"created_at = '{east.isoformat()}'")
    assert "summary/2" not in found(f"created_at > '{at.isoformat()}'")
    assert found(f"created_at > '{(datetime.now(UTC) + timedelta(days=1)).date()}'") == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("params.lr = '1e-05'", ["summary/1"]),
        ("params.lr LIKE '0.%'", ["summary/2"]),
        ("params.size = '100000000000000000000'", ["summary/2"]),
        ("params.flag = 'true'", ["Summary/1"]),
        ("params.flag > 0", ["Summary/1"]),
        ("params.deep = '{\"a\":[1]}'", ["summary/2"]),
        ("params.deep > 0", []),
        ("params.target_modules = '[\"c_attn\"]'", ["Summary/1", "labels/2", "labels/1"]),
        ("params.r < 1e308", ["Summary/1", "labels/2", "labels/1"]),
        ("number > 1.5", ["labels/2", "summary/2"]),
        ("name < 'a'", ["Summary/1"]),
        ("name ILIKE 'SUMM%'", ["Summary/1", "summary/2", "summary/1"]),
    ],
)
def test_values_are_written_and_compared_alike_on_every_database(found, query, expected):
    """Numbers as JSON has them, objects without spaces, text by its bytes."""
    assert found(query) == expected
