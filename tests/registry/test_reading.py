"""What the registry shows: adapters, versions, base models and history."""

import pytest

from dovetail.errors import (
    AdapterNotFound,
    AliasNotFound,
    BaseModelNotFound,
    InvalidInput,
    InvalidReference,
    VersionNotFound,
)

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+radosgw")


def test_an_empty_registry_has_nothing(store):
    """And says so without an error."""
    assert store.adapters() == []
    assert store.base_models() == []
    assert store.history() == []
    assert store.search().versions == ()
    assert store.evaluations() == []


def test_an_adapter_is_summed_up(summary):
    """Its task, tags, aliases and how many versions it has."""
    summary.promote("summary/2", "production")
    found = summary.adapter("summary")
    assert (found.name, found.task, found.latest, found.versions) == (
        "summary",
        "summarization",
        3,
        3,
    )
    assert found.aliases == {"production": 2}
    assert summary.adapters() == [found]


def test_versions_come_newest_first(summary):
    """With files and hyperparameters."""
    found = summary.versions("summary")
    assert [version.number for version in found] == [3, 2, 1]
    assert found[0] == summary.resolve("summary/3")
    assert [file.path for file in found[0].files] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert found[0].hyperparameters == {"seed": 3, "lr": 0.01}


def test_lists_come_in_pages(summary, make, tmp_path, base_print):
    """Adapters after a name and by the beginning of one, versions before a number."""
    for name in ("a", "summaries", "Summary", "z"):
        summary.register(name, make.prompt(tmp_path / name, seed=9), base=base_print)
    names = ["Summary", "a", "summaries", "summary", "z"]
    assert [adapter.name for adapter in summary.adapters()] == names
    assert [adapter.name for adapter in summary.adapters(limit=2, after="a")] == names[2:4]
    assert [adapter.name for adapter in summary.adapters(prefix="summ")] == names[2:4]
    assert [v.number for v in summary.versions("summary", limit=2)] == [3, 2]
    assert [v.number for v in summary.versions("summary", before=2)] == [1]
    for wrong in ({"limit": 0}, {"prefix": "\0"}, {"after": "\ud800"}):
        with pytest.raises(InvalidInput):
            summary.adapters(**wrong)


def test_deleted_versions_do_not_count(summary):
    """Neither as a version nor as the latest, which may be none."""
    summary.delete("summary/3")
    assert (summary.adapter("summary").versions, summary.adapter("summary").latest) == (2, 2)
    for number in (1, 2):
        summary.delete(f"summary/{number}")
    assert (summary.adapter("summary").versions, summary.adapter("summary").latest) == (0, None)


@pytest.mark.parametrize("reference", ["summary/3", "summary@latest", "summary@production"])
def test_references_lead_to_the_version(summary, reference):
    """By number, by alias, and the highest."""
    summary.promote("summary/3", "production")
    assert str(summary.resolve(reference).reference) == "summary/3"


def test_a_missing_adapter_names_those_that_are_near(summary):
    """Or how to see them all."""
    with pytest.raises(AdapterNotFound, match="did you mean summary") as caught:
        summary.resolve("sumary/1")
    assert (caught.value.name, caught.value.similar) == ("sumary", ("summary",))
    with pytest.raises(AdapterNotFound, match="dovetail list"):
        summary.adapter("zzz")
    with pytest.raises(AdapterNotFound):
        summary.history("zzz")


def test_a_missing_version_names_the_latest(summary):
    """Numbers beyond any database's integers included."""
    with pytest.raises(
        VersionNotFound, match=r"'summary' has no version 7; the latest is 3"
    ) as caught:
        summary.resolve("summary/7")
    assert (caught.value.name, caught.value.number) == ("summary", 7)
    with pytest.raises(VersionNotFound):
        summary.resolve("summary/9999999999")


def test_a_missing_alias_names_those_that_are_set(summary):
    """``latest`` is always one of them; an alias is looked up with its case."""
    summary.promote("summary/1", "staging")
    with pytest.raises(AliasNotFound, match="it has: latest, staging"):
        summary.resolve("summary@Staging")


def test_a_base_model_is_found_by_name_fingerprint_or_its_beginning(summary):
    """Eight digits are enough."""
    (model,) = summary.base_models()
    for wanted in ("tiny", model.fingerprint, model.fingerprint[:15]):
        assert summary.base_model(wanted) == model
    for wanted in (model.fingerprint[:14], "Tiny", "", "sha256:%%%%%%%%", "sha256:________", "%"):
        with pytest.raises(BaseModelNotFound):
            summary.base_model(wanted)


def test_a_name_of_two_base_models_asks_for_the_fingerprint(summary, make, tmp_path):
    """Nothing is guessed."""
    summary.register_base(make.base(tmp_path / "b", seed=7), name="tiny")
    with pytest.raises(InvalidReference, match=r"2 base models are called 'tiny'.*sha256:"):
        summary.base_model("tiny")


def test_history_is_of_one_adapter_or_of_all(summary, make, tmp_path):
    """From the oldest to the newest."""
    base = summary.base_models()[0].fingerprint
    summary.register("other", make.prompt(tmp_path / "o", seed=8), base=base)
    assert [event.name for event in summary.history("other")] == ["other"]
    positions = [event.position for event in summary.history()]
    assert positions == list(range(1, len(positions) + 1))


def test_records_cannot_be_changed(summary):
    """What the registry hands out is frozen."""
    with pytest.raises(AttributeError):
        summary.resolve("summary/1").number = 9
