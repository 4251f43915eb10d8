"""Moving house with descriptions, tags, dropped aliases and deleted adapters."""

import json
from pathlib import Path

import pytest

from dovetail.errors import AdapterNotFound, AliasNotFound, ConflictError
from dovetail.registry.digests import digest_bytes
from dovetail.registry.events import append_event
from dovetail.registry.jsontext import canonical_json
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.transport.bundle import format_contents

FIRST_FORMAT = Path(__file__).with_name("data") / "export-1.zip"
"""What `dovetail export` wrote before versions had descriptions and tags of their own."""


@pytest.fixture
def target(places, tmp_path):
    """Another registry, with nothing in it."""
    with places.make(tmp_path / "target").open(actor="importer") as opened:
        yield opened


@pytest.fixture
def move(tmp_path):
    """Export all of one registry and import it into another."""
    count = iter(range(100))

    def go(source, target):
        bundle = tmp_path / f"move-{next(count)}.zip"
        source.export(None, bundle)
        return target.import_bundle(bundle)

    return go


@pytest.fixture
def both(summary, target, move):
    """Two registries that know the same."""
    summary.promote("summary/1", "production")
    move(summary, target)
    return summary, target


def said(registry, number=1):
    """Return what a version and its adapter say of themselves, and when they changed."""
    version, adapter = registry.resolve(f"summary/{number}"), registry.adapter("summary")
    return [(each.description, each.tags, each.updated_at) for each in (version, adapter)]


@pytest.mark.backends("sqlite+local", "postgresql+local")
def test_edits_made_here_arrive_there(both, move):
    """Of versions and of adapters, with their times; then nothing is left to do."""
    here, there = both
    here.edit_version("summary/1", description="good", tags={"a": "1"})
    here.edit_adapter("summary", description="all", tags={"b": "2"})
    move(here, there)
    assert said(there) == said(here)
    here.edit_version("summary/1", tags={"a": "2"}, remove_tags=["x"])
    here.edit_adapter("summary", remove_tags=["b"])
    move(here, there)
    assert said(there) == said(here)
    assert move(here, there).adapters == ()
    assert there.broken_history() is None


def test_an_older_export_undoes_no_edit(both, tmp_path):
    """Who knows more is right."""
    here, there = both
    here.export(None, tmp_path / "old.zip")
    there.edit_version("summary/1", description="new", tags={"a": "1"})
    there.edit_adapter("summary", tags={"b": "2"})
    before = said(there)
    there.import_bundle(tmp_path / "old.zip")
    assert said(there) == before


def test_edits_of_different_things_are_no_conflict(both, move):
    """One side edited a version, the other another and the adapter."""
    here, there = both
    here.edit_version("summary/1", description="mine")
    there.edit_version("summary/2", tags={"a": "1"})
    there.edit_adapter("summary", description="all")
    move(here, there)
    assert there.resolve("summary/1").description == "mine"
    assert there.resolve("summary/2").tags == {"a": "1"}
    assert there.adapter("summary").description == "all"


@pytest.mark.parametrize("what", ["summary", "summary/1"])
def test_edits_of_the_same_thing_are_a_conflict_until_they_agree(both, move, what):
    """Nobody can say which is right; who makes them equal says so."""
    for registry, text in zip(both, ("mine", "yours"), strict=True):
        edit(registry, what, text)
    with pytest.raises(ConflictError) as caught:
        move(*both)
    assert caught.value.conflicts == (
        f"{what} was edited here and there, and says different things",
    )
    edit(both[1], what, "mine")
    move(*both)
    assert both[1].broken_history() is None


def edit(registry, what, text):
    """Describe a version or an adapter."""
    change = registry.edit_version if "/" in what else registry.edit_adapter
    change(what, description=text)


def test_a_registration_here_and_an_edit_there_that_differ_are_a_conflict(
    both, move, make, tmp_path
):
    """Both change what the adapter says of itself."""
    here, there = both
    there.register(
        "summary", make.prompt(tmp_path / "new", seed=9), base="tiny", description="theirs"
    )
    here.edit_adapter("summary", description="ours")
    with pytest.raises(ConflictError) as caught:
        move(here, there)
    assert caught.value.conflicts == (
        "summary was edited here and there, and says different things",
    )


@pytest.mark.backends("sqlite+local", "postgresql+local")
def test_an_alias_that_was_dropped_is_dropped_there(both, move):
    """It may be set anew, and an export of before does not bring it back."""
    here, there = both
    here.drop_alias("summary", "production")
    done = move(here, there)
    with pytest.raises(AliasNotFound):
        there.resolve("summary@production")
    assert done.adapters[0].aliases == {}
    assert there.history("summary")[-1].details["dropped"] == ["production"]
    here.promote("summary/2", "production")
    move(here, there)
    assert there.resolve("summary@production").number == 2
    there.drop_alias("summary", "production")
    move(here, there)
    assert there.adapter("summary").aliases == {}


def test_an_alias_that_was_dropped_here_and_moved_there_is_a_conflict(both, move):
    """In either direction."""
    here, there = both
    here.promote("summary/2", "production")
    there.drop_alias("summary", "production")
    with pytest.raises(ConflictError) as caught:
        move(here, there)
    told = "summary@production was dropped here and moved to 2 there"
    assert caught.value.conflicts == (told,)
    with pytest.raises(ConflictError, match="was moved to 2 here and dropped there"):
        move(there, here)


@pytest.mark.backends("sqlite+local", "postgresql+local")
def test_a_deleted_adapter_is_deleted_there_and_comes_back_with_a_version(
    both, move, make, tmp_path
):
    """Into an empty registry, too, and with everything that it hides."""
    here, there = both
    here.delete("summary/3")
    here.delete_adapter("summary")
    move(here, there)
    with pytest.raises(AdapterNotFound, match="was deleted"):
        there.adapter("summary")
    assert move(here, there).adapters == ()
    here.register("summary", make.prompt(tmp_path / "new", seed=9), base="tiny")
    move(here, there)
    assert there.adapter("summary") == here.adapter("summary")
    assert [version.number for version in there.versions("summary")] == [4]
    here.restore("summary/2")
    move(here, there)
    assert [version.number for version in there.versions("summary")] == [4, 2]
    assert there.broken_history() is None


def test_an_export_of_before_does_not_bring_a_deleted_adapter_back(both, tmp_path):
    """Nor its aliases and versions."""
    here, there = both
    here.export(None, tmp_path / "old.zip")
    there.delete_adapter("summary")
    there.import_bundle(tmp_path / "old.zip")
    assert there.adapters() == []
    assert there.search().versions == ()


def test_an_adapter_that_was_deleted_there_and_is_used_here_is_a_conflict(
    both, move, make, tmp_path
):
    """A new version, or an alias that moved, is not hidden by somebody who never saw it."""
    here, there = both
    here.delete_adapter("summary")
    there.register("summary", make.prompt(tmp_path / "new", seed=9), base="tiny")
    with pytest.raises(ConflictError) as caught:
        move(here, there)
    assert "summary is alive here and deleted there" in caught.value.conflicts


def test_a_deleted_adapter_is_named_to_be_exported(summary, target, tmp_path):
    """A backup has what was deleted."""
    summary.delete_adapter("summary")
    assert summary.export(["summary"], tmp_path / "b.zip").versions == {"summary": 3}
    target.import_bundle(tmp_path / "b.zip")
    assert target.adapters() == []
    target.restore("summary/2")
    assert target.pull("summary/2").is_dir()


@pytest.mark.backends("sqlite+local", "postgresql+local")
def test_an_export_of_the_first_format_is_read(target):
    """Versions have no tags of their own then, and were last changed when they were registered."""
    done = target.import_bundle(FIRST_FORMAT)
    assert done.adapters[0].versions == (1, 2, 3)
    adapter = target.adapter("summary")
    assert (adapter.description, adapter.tags) == ("Grüße", {"team": "support"})
    versions = target.versions("summary", deleted=True)
    assert all(each.updated_at == each.created_at for each in versions)
    assert [(each.description, each.tags) for each in versions] == [("", {})] * 3
    assert adapter.updated_at == versions[0].deleted_at
    assert adapter.aliases == {"production": 2}
    target.edit_version("summary/1", description="new")
    assert target.import_bundle(FIRST_FORMAT).adapters == ()
    assert target.resolve("summary/1").description == "new"
    assert target.broken_history() is None
    assert target.verify().sound


@pytest.fixture
def forge(summary, target, tmp_path):
    """Export, change the adapter's document with all hashes made right, and import that."""

    def go(change):
        place = tmp_path / "forged"
        summary.export(None, place)
        store = LocalObjectStore(place / "blobs")
        manifest = json.loads((place / "dovetail-export.json").read_text())["contents"]
        (entry,) = manifest["adapters"]
        document = json.loads(store.path(entry["digest"]).read_bytes())
        change(document)
        data = canonical_json(document)
        digest = digest_bytes(data)
        store.put(digest, data)
        bases = {each["fingerprint"]: each["digest"] for each in manifest["base_models"]}
        made = format_contents(bases, {"summary": digest})
        (place / "dovetail-export.json").write_bytes(canonical_json(made))
        return target.import_bundle(place)

    return go


def _hide(document):
    document["deleted_at"] = document["created_at"]


@pytest.mark.parametrize(
    "change",
    [
        _hide,
        lambda document: document.update(updated_at=None),
        lambda document: document.pop("updated_at"),
        lambda document: document["versions"][0].update(tags={"a": 1}),
        lambda document: document["versions"][0].update(tags=[]),
        lambda document: document["versions"][0].update(tags={"": "x"}),
        lambda document: document["versions"][0].update(description=None),
        lambda document: document["versions"][0].update(description="a\0b"),
        lambda document: document["versions"][0].update(updated_at="now"),
        lambda document: document["versions"][0].pop("tags"),
    ],
)
def test_what_no_registry_would_have_written_is_refused(forge, target, change):
    """Each of the new fields is checked, and nothing is imported."""
    with pytest.raises(ValueError, match=r", not |has not|are text|NUL|deleted, but|text keys"):
        forge(change)
    assert target.base_models() == []


def test_strange_details_of_a_deletion_hide_nothing(both, move):
    """What a stranger wrote where numbers should be is taken for none."""
    here, there = both
    for registry, versions in ((here, {"1": 2}), (here, 5), (here, [[1], "2", None])):
        registry._context.database.write(
            lambda connection, versions=versions: append_event(
                connection,
                actor="x",
                action="delete-adapter",
                name="summary",
                details={"versions": versions},
            )
        )
    there.delete("summary/2")
    move(here, there)
    assert [version.number for version in there.versions("summary")] == [3, 1]
