"""Lean lists of versions and adapters."""

import re

from dovetail.registry import catalogue
from dovetail.registry.filters import parse_filter


def test_a_listed_version_has_what_lists_show(summary, measure, base_print):
    """The newest score of each metric, the aliases, and the base model by both names."""
    summary.promote("summary/2", "production")
    measure("summary/2", [0.1, 0.2])
    measure("summary/2", [0.3, 0.5])
    with summary._context.database.reading() as connection:
        listed = catalogue.list_version(connection, "summary", alias="production")
    assert (listed.name, listed.number, listed.aliases) == ("summary", 2, ["production"])
    assert (listed.base_model, listed.base_model_name) == (base_print, "tiny")
    assert re.fullmatch(r"0\.4000 \[0\.\d{4}, 0\.\d{4}\] on test", listed.scores["rougeL"])


def test_what_is_deleted_is_in_no_list(summary):
    """Neither by its number nor as the latest; a deleted adapter has no name any more."""
    summary.delete("summary/3")
    with summary._context.database.reading() as connection:
        assert catalogue.list_version(connection, "summary", number=3) is None
        assert catalogue.list_version(connection, "summary").number == 2
        assert catalogue.list_adapter(connection, "summary").latest.number == 2
    summary.delete_adapter("summary")
    with summary._context.database.reading() as connection:
        assert not catalogue.is_adapter(connection, "summary")
        assert catalogue.adapters_among(connection, ["summary", "x"]) == set()
        assert catalogue.list_adapter(connection, "summary") is None


def test_adapters_are_listed_page_by_page(summary, make, tmp_path):
    """A page begins after an adapter, in either direction of the names."""
    for name in ("alpha", "zeta"):
        summary.register(name, make.prompt(tmp_path / name, seed=9), base="tiny")
    for descending, expected in (
        (False, ["alpha", "summary", "zeta"]),
        (True, ["zeta", "summary", "alpha"]),
    ):
        terms = catalogue.terms_of_adapters([("name", descending)])
        found, place = [], None
        with summary._context.database.reading() as connection:
            while page := catalogue.list_adapters(
                connection, about=None, versions=None, terms=terms, place=place, limit=1
            ):
                found.append(page[0].name)
                place = catalogue.find_places(connection, terms, [page[0].id])[page[0].id]
        assert found == expected


def test_a_page_goes_on_where_an_adapter_was(summary, make, tmp_path):
    """Whether it was deleted or changed since: the place is where it was on the page before."""
    summary.register("zeta", make.prompt(tmp_path / "zeta", seed=9), base="tiny")
    terms = catalogue.terms_of_adapters([("updated_at", False)])

    def page(place, limit):
        with summary._context.database.reading() as connection:
            found = catalogue.list_adapters(
                connection, about=None, versions=None, terms=terms, place=place, limit=limit
            )
            places = catalogue.find_places(connection, terms, [one.id for one in found])
        return [one.name for one in found], list(places.values())

    names, places = page(None, 1)
    assert names == ["summary"]
    summary.edit_adapter("summary", description="Seen.")
    assert page(places[0], 10)[0] == ["zeta", "summary"]
    summary.delete_adapter("summary")
    assert page(places[0], 10)[0] == ["zeta"]


def test_adapters_are_found_by_themselves_and_by_a_version(summary):
    """What is asked of versions must hold of one of them."""

    def names(about=None, versions=None):
        with summary._context.database.reading() as connection:
            found = catalogue.list_adapters(
                connection,
                about=None if about is None else parse_filter(about),
                versions=None if versions is None else parse_filter(versions),
                terms=catalogue.terms_of_adapters([]),
                place=None,
                limit=10,
            )
        return [one.name for one in found]

    assert names(about="name LIKE 's%'", versions="params.seed = 2 AND number = 2") == ["summary"]
    assert names(versions="params.seed = 2 AND number = 3") == []
    assert names(about="adapter_tags.team = 'a'") == []
    summary.edit_adapter("summary", tags={"team": "a"})
    assert names(about="adapter_tags.team = 'a'") == ["summary"]
