"""Strict JSON in, canonical JSON out."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import InvalidInput, InvalidPayload
from dovetail.registry.digests import is_digest
from dovetail.registry.jsontext import canonical_json, digest_json, parse_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_canonical_json_reads_back(value):
    """What is written canonically is read back as the same value."""
    assert parse_json(canonical_json(value), what="x") == value


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()))
def test_digest_does_not_depend_on_the_order_of_keys(table):
    """Two tables with the same pairs have one digest."""
    assert digest_json(table) == digest_json(dict(reversed(table.items())))


@given(st.binary(max_size=200))
def test_random_bytes_give_a_value_or_invalid_payload(data):
    """Whatever the bytes are, nothing but InvalidPayload comes out."""
    try:
        value = parse_json(data, what="x")
    except InvalidPayload:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"r": 1, "r": 2}', "key 'r' twice"),
        (b'{"a": {"b": 1, "b": 1}}', "key 'b' twice"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[-Infinity]", "-Infinity"),
        (b"1e999", "no double"),
        (b"9" * 401, "401 digits"),
        (b'"\xff"', "not UTF-8 text (byte 1)"),
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'"\\ud800"', "surrogate"),
        (b"[" * 65 + b"]" * 65, "64 levels"),
        (b'{"a":' * 100_000, "64 levels"),
        (b"[" * 1_000_000, "64 levels"),
    ],
)
def test_hostile_json_is_refused(data, words):
    """Each hostile document is refused with a message that names the fault."""
    with pytest.raises(InvalidPayload) as caught:
        parse_json(data, what="thing")
    assert words in str(caught.value)
    assert str(caught.value).startswith("thing ")


def test_brackets_in_text_are_not_nesting():
    """Only real brackets count towards the depth."""
    text = json.dumps(['"[[' * 100, "\\", "]"]).encode()
    assert parse_json(text, what="x", max_depth=1)[1] == "\\"


def test_the_depth_limit_is_the_deepest_that_is_read():
    """Nesting of exactly the limit is read."""
    assert parse_json(b"[" * 64 + b"]" * 64, what="x")


def test_many_escaped_quotes_take_linear_time():
    """An unterminated string full of escaped quotes is refused at once."""
    with pytest.raises(InvalidPayload):
        parse_json(b'"' + b'\\"' * 4_000_000, what="x")


def test_size_limit_is_named():
    """A document over the limit is refused with both sizes."""
    with pytest.raises(InvalidPayload, match="has 11 bytes; at most 10"):
        parse_json(b" " * 11, what="x", max_bytes=10)


def test_infinity_is_read_where_it_is_allowed():
    """Published model configurations with Infinity can be read."""
    assert parse_json(b"[Infinity]", what="x", allow_nonfinite=True) == [math.inf]


def test_canonical_json_is_utf8_without_spaces():
    """The canonical form is fixed to the byte."""
    assert canonical_json({"b": [1, 2], "a": "é"}) == '{"a":"é","b":[1,2]}'.encode()


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": object()}, "\ud800"])
def test_canonical_json_refuses_what_json_has_no_form_for(value):
    """NaN, infinities, objects and half characters are refused."""
    with pytest.raises(InvalidInput):
        canonical_json(value)


def test_a_digest_is_recognised():
    """A digest is the prefix and 64 lower-case hexadecimal digits."""
    assert is_digest(digest_json(1))
    assert not is_digest("sha256:" + "A" * 64)
    assert not is_digest(digest_json(1) + "\n")
    assert not is_digest(None)
