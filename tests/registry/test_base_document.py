"""Base models that go to another registry as a document."""

import json

import pytest

from dovetail.errors import BaseModelNotFound, InvalidPayload

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")


@pytest.fixture
def other(places, tmp_path):
    """An empty registry."""
    with places.make(tmp_path / "other").open() as opened:
        yield opened


@pytest.fixture
def document(summary):
    """The document of a base model, as it is read from a file."""
    return json.loads(json.dumps(summary.base_document("tiny")))


def test_a_base_model_goes_to_a_registry_that_never_saw_it(summary, other, document):
    """There it is as it was here, and adapters are checked against it and registered."""
    here, there = summary.base_model("tiny"), other.register_base_document(document)
    changing = {"created_at"}
    for field in type(here).__slots__:
        assert field in changing or getattr(there, field) == getattr(here, field)
    assert other.base_manifest("tiny") == summary.base_manifest("tiny")
    version = other.register("copy", summary.pull("summary/1"), base="tiny").version
    assert version.payload_digest == summary.resolve("summary/1").payload_digest
    assert [event.action for event in other.history()] == ["register-base", "register"]
    assert other.verify().sound


def test_a_base_model_of_another_registry_is_added_first(summary, other, document):
    """Its record may be given where its name may, once this registry knows it."""
    record, directory = summary.base_model("tiny"), summary.pull("summary/1")
    with pytest.raises(BaseModelNotFound, match="is known to another registry and not to this one"):
        other.register("copy", directory, base=record)
    other.register_base_document(document)
    assert other.register("copy", directory, base=record).version.number == 1


def test_a_base_model_without_a_place_has_none_elsewhere(other, document, monkeypatch, tmp_path):
    """Its name is no path, whatever lies where the process stands."""
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    document["base_model"]["location"] = None
    assert other.register_base_document(document).location is None


def test_a_base_model_that_is_known_stays_as_it_is(summary, document, place):
    """Nothing is written."""
    before = place.state()
    assert summary.register_base_document(document) == summary.base_model("tiny")
    assert place.state() == before


def test_an_unknown_base_model_has_no_document(summary):
    """As for every other question about it."""
    with pytest.raises(BaseModelNotFound):
        summary.base_document("other")


def _set(*path, to):
    def change(document):
        part = document
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("format", to="dovetail-export"),
        _set("version", to=2),
        _set("extra", to=1),
        _set("base_model", to=None),
        _set("base_model", "fingerprint", to="sha256:" + "0" * 64),
        _set("base_model", "fingerprint", to="../../x"),
        _set("base_model", "parameter_count", to=7),
        _set("base_model", "dtype", to="F16"),
        _set("base_model", "name", to=7),
        _set("base_model", "created_at", to="yesterday"),
        _set("manifest", to=[]),
        _set("manifest", to={"tensors": [1]}),
        _set("manifest", to={"tensors": []}),
        _set("manifest", to={"tensors": float("nan")}),
        _set("manifest", "tensors", 0, "sha256", to="sha256:" + "0" * 64),
        _set("manifest", "tensors", 0, "shape", to=[1]),
    ],
)
def test_a_document_that_was_changed_is_refused(other, document, change):
    """Whatever was changed; nothing is written."""
    change(document)
    with pytest.raises(InvalidPayload):
        other.register_base_document(document)
    assert other.base_models() == []


def test_a_document_is_a_mapping(other):
    """Anything else is refused, too."""
    for value in ([], "x", None, 3, [["format", 1]]):
        with pytest.raises(InvalidPayload):
            other.register_base_document(value)
