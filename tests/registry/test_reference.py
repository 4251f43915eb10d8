"""References: what is written comes back, and what is nearly one is told apart."""
# ruff: noqa: RUF001 (names that look like others are what some cases are about)

import contextlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dovetail.errors import InvalidReference
from dovetail.registry.reference import MAX_NAME_LENGTH, Reference, check_alias, check_name

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)


def is_alias(text):
    """Tell whether people may set this alias."""
    try:
        check_alias(text)
    except InvalidReference:
        return False
    return True


ALIASES = NAMES.filter(is_alias)


@given(NAMES, ALIASES | st.just("latest"))
def test_an_alias_reference_reads_back(name, alias):
    """Formatting and parsing are inverse."""
    reference = Reference(name=name, alias=alias)
    assert Reference.parse(str(reference)) == reference


@given(NAMES, st.integers(1, 9_999_999_999))
def test_a_number_reference_reads_back(name, number):
    """Formatting and parsing are inverse."""
    reference = Reference(name=name, number=number)
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=200))
def test_any_text_is_a_reference_or_an_invalid_one(text):
    """What parses is written back the same; nothing else is raised."""
    with contextlib.suppress(InvalidReference):
        assert str(Reference.parse(text)) == text


@given(st.text(min_size=1, max_size=20))
def test_names_with_other_characters_are_refused(text):
    """Only ASCII letters, digits, dot, hyphen and underscore are allowed."""
    assume(not (text.isascii() and text.replace(".", "").replace("-", "").isalnum()))
    assume(not all(char.isascii() and (char.isalnum() or char in "._-") for char in text))
    with pytest.raises(InvalidReference):
        check_name(text)


def test_a_bare_name_says_what_to_write():
    """The error lists the three forms."""
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("summary")
    for form in ("summary@latest", "summary@ALIAS", "summary/NUMBER"):
        assert form in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("ｓummary", "summary"),
        ("summary²", "summary2"),
        ("ﬁt", "fit"),
        ("ⅳ", "iv"),
    ],
)
def test_a_compatibility_form_is_refused_with_the_plain_one(typed, plain):
    """NFKC would make another name of it, so the person decides."""
    with pytest.raises(InvalidReference, match=f"did you mean '{plain}'"):
        check_name(typed)


@pytest.mark.parametrize(
    "typed", ["summаry", "ѕummary", "summa\u0301ry", "summáry", "sum\u200bmary"]
)
def test_look_alikes_are_refused_by_their_character(typed):
    """A Cyrillic letter, an accent in either normal form or an invisible character is named."""
    with pytest.raises(InvalidReference, match=r"CYRILLIC|ACUTE|ZERO WIDTH"):
        check_name(typed)


@pytest.mark.parametrize("alias", ["latest", "LATEST", "Latest", "base", "Base"])
def test_reserved_aliases_are_refused_in_any_case(alias):
    """They mean something already."""
    with pytest.raises(InvalidReference, match="reserved"):
        check_alias(alias)


@pytest.mark.parametrize("alias", ["7", "v7", "V12", "007"])
def test_an_alias_is_no_version_number(alias):
    """Otherwise ``name@7`` and ``name/7`` could differ."""
    with pytest.raises(InvalidReference, match="version number"):
        check_alias(alias)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "/",
        "a/",
        "a/0",
        "a/07",
        "a/-1",
        "a/1.0",
        "a/x",
        "a/1/2",
        "a@",
        "@x",
        "a@b@c",
        "a@b/1",
        "a/1@b",
        "a /1",
        "a/1\n",
        "a@base",
        ".a/1",
        "-a/1",
        "a/٣",
        "a/" + "9" * 11,
    ],
)
def test_malformed_references_are_refused(text):
    """Nothing is guessed."""
    with pytest.raises(InvalidReference):
        Reference.parse(text)


def test_a_name_may_have_128_characters_and_no_more():
    """The error says how many it has, and does not repeat them all."""
    assert check_name("a" * MAX_NAME_LENGTH)
    with pytest.raises(InvalidReference, match="has 129 characters") as caught:
        check_name("a" * 129)
    assert len(str(caught.value)) < 250
