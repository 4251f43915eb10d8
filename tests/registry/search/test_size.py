"""Searching and listing among thousands of versions: right answers, and indices that are used.

There are more versions than are looked at one by one, so that both ways of searching are taken.
"""

import itertools
import json

import pytest
from sqlalchemy import event

from benchmarks.bulk import BIG, fill, score
from dovetail.registry.database import Database
from dovetail.registry.search import FEW

VERSIONS = 20_000
LARGE = {"versions", "evaluations", "scores", "events"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def many(request, tmp_path_factory, place_at):
    """A registry of many versions, a tenth of them of one adapter, on each database in turn."""
    root = tmp_path_factory.mktemp("many")
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("databases").create()
    place = place_at(root, url)
    database = Database(place.urls[0])
    database.prepare()
    fill(database, VERSIONS)
    database.close()
    with place.open() as registry:
        yield registry


@pytest.fixture(scope="module")
def ids(many):
    """The number that each version is in the order of registering, by name and own number."""
    return {
        (version.name, version.number): int(version.source_run.removeprefix("run-"))
        for adapter in many.adapters()
        for version in many.versions(adapter.name)
    }


@pytest.fixture
def plans(many):
    """Explain every statement that is sent while a function runs; return the plans as text."""
    engine = many._context.database.engine

    def explain(function):
        sent = []

        def note(_connection, _cursor, statement, parameters, *_):
            if statement.startswith("SELECT"):
                sent.append((statement, parameters))

        event.listen(engine, "before_cursor_execute", note)
        try:
            function()
        finally:
            event.remove(engine, "before_cursor_execute", note)
        is_sqlite = engine.dialect.name == "sqlite"
        how = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN (FORMAT JSON) "
        with engine.connect() as connection:
            explained = [
                connection.exec_driver_sql(how + statement, parameters).all()
                for statement, parameters in sent
            ]
        assert explained
        read = scanned_by_sqlite if is_sqlite else scanned_by_postgresql
        return [(*one, read(rows)) for one, rows in zip(sent, explained, strict=True)]

    return explain


def scanned_by_sqlite(rows):
    """Return the tables that a plan reads from end to end, and not in the order that is wanted."""
    steps = [row[-1] for row in rows]
    sorts = any("USE TEMP B-TREE FOR ORDER BY" in step for step in steps)
    return {
        words[1]
        for step in steps
        if (words := step.split())[0] == "SCAN"
        and (sorts or ("USING" not in words and words[1] != "events"))
    }


def scanned_by_postgresql(rows):
    """Return the tables that a plan reads from end to end."""
    (((document,),),) = rows if len(rows) == 1 else (((rows[0][0],),),)
    return set(_scans((document if isinstance(document, dict) else json.loads(document))["Plan"]))


def _scans(node):
    if node["Node Type"] == "Seq Scan":
        yield node["Relation Name"]
    for inner in node.get("Plans", ()):
        yield from _scans(inner)


def everything(registry, query, **options):
    """Return the references on all pages of a search."""
    found, token = [], None
    while True:
        page = registry.search(query, limit=2_000, page_token=token, **options)
        found += [(version.name, version.number) for version in page.versions]
        token = page.next_page_token
        if token is None:
            return found


SEARCHES = [
    ("", ()),
    ("", ("name DESC",)),
    ("", ("created_at DESC",)),
    ("", ("updated_at DESC", "name", "number DESC")),
    ("updated_at > '2026-01-01T05:00:00'", ()),
    ("", ("metrics.rougeL DESC",)),
    ("metrics.rougeL > 0.999", ()),
    ("metrics.rougeL > 0.7", ()),
    ("metrics.rougeL > 0.7", ("metrics.rougeL DESC",)),
    ("metrics.rougeL > 0.7 AND metrics.bleu < 50", ("created_at",)),
    ("metrics.bleu > 99.9 OR metrics.rougeL > 0.999", ("metrics.bleu DESC",)),
    ("alias = 'canary'", ()),
    ("alias = 'staging' AND metrics.rougeL > 0.5", ()),
    ("created_at > '2026-01-01T05:00:00'", ()),
    ("source_run = 'run-77'", ()),
    ("payload = 'sha256:77'", ("metrics.rougeL",)),
    (f"name = '{BIG}'", ("metrics.rougeL DESC",)),
    ("name = 'adapter-00007' AND metrics.rougeL > 0.5", ()),
]


@pytest.mark.parametrize(("query", "order"), SEARCHES)
def test_a_search_reads_no_large_table_whole(many, plans, query, order):
    """The first page and the second, whatever is asked for and in which order."""

    def search():
        page = many.search(query, order_by=order)
        if page.next_page_token:
            many.search(query, order_by=order, page_token=page.next_page_token)

    for statement, _, scanned in plans(search):
        assert not scanned & LARGE, statement


@pytest.mark.parametrize(
    "look",
    [
        lambda registry: registry.resolve("adapter-00007@production"),
        lambda registry: registry.resolve("adapter-00007/7"),
        lambda registry: registry.resolve(f"{BIG}@latest"),
        lambda registry: registry.adapters(limit=100),
        lambda registry: registry.adapters(prefix="adapter-000", limit=10, after="adapter-00050"),
        lambda registry: registry.adapter(BIG),
        lambda registry: registry.versions(BIG, limit=100),
        lambda registry: registry.versions(BIG, limit=100, before=500, deleted=True),
        lambda registry: registry.history(limit=50),
        lambda registry: registry.history(limit=50, before=5_000),
        lambda registry: registry.history(BIG, limit=50),
        lambda registry: registry.history("adapter-00007", limit=50, before=15_000),
        lambda registry: registry.evaluations("adapter-00007/7"),
    ],
    ids=range(13),
)
def test_looking_at_a_page_reads_no_large_table_whole(many, plans, look):
    """Lists, histories and single versions come by way of an index."""
    for statement, _, scanned in plans(lambda: look(many)):
        assert not scanned & LARGE, statement


def test_few_and_many_are_found_alike(many):
    """What is found in order is what is found in parts that are few enough to be looked at."""
    parts = [(0.4, 0.6), (0.6, 0.8), (0.8, 1)]
    found = everything(many, "metrics.rougeL > 0.4")
    assert len(found) > FEW
    in_parts = [
        everything(many, f"metrics.rougeL > {low} AND metrics.rougeL <= {high}")
        for low, high in parts
    ]
    assert all(len(part) < FEW for part in in_parts)
    assert found == sorted(itertools.chain(*in_parts), key=lambda one: (one[0], -one[1]))


@pytest.mark.parametrize("direction", ["ASC", "DESC"])
def test_an_order_by_score_has_every_version_once(many, ids, direction):
    """Those with a score by its value, then those without by name."""
    found = everything(many, "created_at > '2026-01-01'", order_by=[f"metrics.rougeL {direction}"])
    assert len(found) == len(set(found)) == VERSIONS
    found_ids = [ids[one] for one in found]
    scored = [score(version_id) for version_id in found_ids if version_id % 5]
    assert scored == sorted(scored, reverse=direction == "DESC")
    assert all(version_id % 5 for version_id in found_ids[: len(scored)])
    rest = found[len(scored) :]
    assert rest == sorted(rest, key=lambda one: (one[0], -one[1]))


def test_pages_of_a_large_adapter_are_the_whole(many):
    """Pages that begin in the middle of an adapter leave nothing out, in either direction."""
    everybody = everything(many, "")
    assert everybody == sorted(everybody, key=lambda one: (one[0], -one[1]))
    assert len(everybody) == VERSIONS
    backwards = everything(many, "", order_by=["name DESC"])
    assert sorted(backwards) == sorted(everybody)
    assert [number for name, number in backwards if name == BIG] == list(range(2_000, 0, -1))


def test_pages_of_lists_are_the_whole(many):
    """Adapters page by page after the last name, versions and events before the last number."""
    names = [adapter.name for adapter in many.adapters()]
    paged = []
    while page := many.adapters(limit=60, after=paged[-1] if paged else ""):
        paged += [adapter.name for adapter in page]
    assert paged == names == sorted(names)
    numbers = []
    while page := many.versions(BIG, limit=700, before=numbers[-1] if numbers else None):
        numbers += [version.number for version in page]
    assert numbers == list(range(2_000, 0, -1))
    events = many.history(limit=3)
    while page := many.history(limit=7_000, before=events[0].position):
        events = page + events
    assert [event.position for event in events] == list(range(1, VERSIONS * 11 // 10 + 1))


def test_the_whole_history_is_checked_in_small_parts(many):
    """With progress on the way, and nothing found in a chain that nobody touched."""
    seen = []
    assert many.broken_history(progress=lambda done, count: seen.append((done, count))) is None
    assert seen == [(done, 22_000) for done in range(5_000, 22_000, 5_000)]
