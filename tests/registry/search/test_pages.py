"""Searching: orders, pages and their tokens."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import InvalidQuery
from dovetail.registry.search import MAX_PAGE

ALL = ["Summary/1", "labels/2", "labels/1", "summary/2", "summary/1"]


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
        (["updated_at"], ["summary/1", "summary/2", "Summary/1", "labels/2", "labels/1"]),
        (["updated_at DESC"], ["labels/1", "labels/2", "Summary/1", "summary/2", "summary/1"]),
        (["task"], ["summary/2", "summary/1", "labels/2", "labels/1", "Summary/1"]),
    ],
)
def test_results_are_ordered_with_the_missing_last(found, order, expected):
    """In either direction; name and number decide the rest."""
    assert found("", order_by=order) == expected


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
@settings(deadline=None)
def test_all_pages_together_are_the_whole(shelf, found, size, order):
    """Each version is on one page, in the same order."""
    pages, token = [], None
    while True:
        page = shelf.search("number > 0", order_by=order, limit=size, page_token=token)
        assert len(page.versions) <= size
        pages += [str(version.reference) for version in page.versions]
        token = page.next_page_token
        if token is None:
            break
    assert pages == found("number > 0", order_by=order)


def test_a_token_belongs_to_one_search(shelf, found):
    """With another filter or order it would skip what it should show."""
    token = shelf.search("number > 0", limit=2).next_page_token
    assert found("number > 0", limit=2, page_token=token) == ALL[2:4]
    for query, order in (("number > 1", []), ("", []), ("number > 0", ["name"])):
        with pytest.raises(InvalidQuery, match="does not belong to this search"):
            shelf.search(query, order_by=order, limit=2, page_token=token)


def test_a_page_goes_on_from_where_the_one_before_ended(summary):
    """Whatever became of its last version since: edited, scored anew, deleted."""
    for order in (["updated_at DESC"], ["updated_at"], ["number DESC"]):
        first = summary.search("name = 'summary'", order_by=order, limit=1)
        last = first.versions[0].reference
        summary.edit_version(last, description=f"Seen by {order}.")
        rest = summary.search(
            "name = 'summary'", order_by=order, page_token=first.next_page_token
        ).versions
        assert len({version.number for version in rest} - {last.number}) == 2
    first = summary.search("name = 'summary'", order_by=["number"], limit=1)
    summary.delete("summary/1")
    rest = summary.search("name = 'summary'", order_by=["number"], page_token=first.next_page_token)
    assert [version.number for version in rest.versions] == [2, 3]


@pytest.mark.parametrize(
    ("order", "value"),
    [
        ("number", "one"),
        ("number", 2**63),
        ("number", True),
        ("number", None),
        ("metrics.rougeL", "high"),
        ("metrics.rougeL", float("nan")),
        ("metrics.rougeL", 1),
        ("updated_at", "yesterday"),
        ("updated_at", "2026-01-01T00:00:00"),
        ("updated_at", 5),
        ("task", "\0"),
        ("task", "\ud800"),
        ("task", ["a"]),
    ],
)
def test_a_place_that_no_version_can_have_is_refused(shelf, order, value):
    """A token is a stranger's word, and no database is asked what it cannot compare."""
    token = shelf.search("", order_by=[order], limit=1).next_page_token
    read = json.loads(base64.urlsafe_b64decode(token))
    for written in ([read[0], value, *read[2:]], read[:-1], [*read, value]):
        made = base64.urlsafe_b64encode(json.dumps(written).encode()).decode()
        with pytest.raises(InvalidQuery, match="does not belong to this search"):
            shelf.search("", order_by=[order], page_token=made)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.hex()))
@settings(deadline=None)
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
def test_a_page_has_from_one_to_ten_thousand_versions(shelf, found, limit):
    """More is asked for in pages."""
    with pytest.raises(InvalidQuery, match="must be from 1 to 10,000"):
        shelf.search("", limit=limit)
    assert found("", limit=MAX_PAGE) == ALL
