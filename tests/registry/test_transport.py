"""Moving house: what is exported from one registry and imported into another is the same there."""

import json
import shutil

import pytest

from dovetail.errors import (
    AdapterNotFound,
    ConflictError,
    DigestMismatch,
    InvalidInput,
    InvalidReference,
    VersionNotFound,
)
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.transport.documents import MOVES, identity

ALL_OF_EVENT = ("time", "actor", "action", "name", "number", "alias", "previous", "reason")


def seen(registry, names=None):
    """Return everything that a user can see of adapters, and of the base models."""
    adapters = [a for a in registry.adapters() if names is None or a.name in names]
    return {
        "adapters": adapters,
        "bases": {base.fingerprint: base for base in registry.base_models()},
        "bare": registry.evaluations(base=registry.base_models()[0].fingerprint),
        "versions": [registry.versions(a.name, deleted=True) for a in adapters],
        "evaluations": [
            registry.evaluations(version.reference)
            for a in adapters
            for version in registry.versions(a.name)
        ],
        "requirements": [registry.requirements(a.name, "production") for a in adapters],
        "history": [told(registry.history(a.name)) for a in adapters],
    }


def told(events):
    """Return what events tell, wherever they stand in the history."""
    return [
        (*(getattr(event, field) for field in ALL_OF_EVENT), event.details, identity(event))
        for event in events
        if event.action != "import"
    ]


def pulled(registry, reference, directory):
    """Return the names and bytes of a version's files."""
    path = registry.pull(reference, directory)
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def rich(summary, measure, make, tmp_path, tiny_base):
    """A registry with something of everything."""
    measure("summary/1", [0.5] * 12)
    measure("summary/2", [0.25, 0.75] * 6, dataset="other")
    measure(None, [0.125] * 12)
    summary.promote("summary/1", "production", reason="first")
    summary.promote("summary/2", "production")
    summary.promote("summary/2", "staging")
    summary.require("summary", "production", ["rougeL >= 0.4 on test"], reason="quality")
    with pytest.raises(Exception, match="not promoted"):
        summary.promote("summary/3", "production")
    summary.delete("summary/3", reason="bad data")
    summary.edit_version("summary/2", description="Ünïcode ✓", tags={"a": "b"}, reason="told")
    summary.promote("summary/1", "trial")
    summary.drop_alias("summary", "trial", reason="over")
    summary.register(
        "labels",
        make.lora(tmp_path / "lora"),
        base=tiny_base,
        task="text-classification",
        description="Ünïcode ✓",
        tags={"team": "support"},
        hyperparameters={"r": 2, "lr": 1e-5, "nested": {"a": [1, None, True]}},
        input_template="Label: {text}",
        generation_config={"max_new_tokens": 4},
        scores={"accuracy": 0.75},
        source_run="run-1",
    )
    return summary


@pytest.fixture
def target(places, tmp_path):
    """Another registry of the same kind, with nothing in it."""
    with places.make(tmp_path / "target").open(actor="importer") as opened:
        yield opened


@pytest.fixture(params=["bundle.zip", "bundle"])
def bundle(request, tmp_path):
    """Where a bundle is written: a file or a directory."""
    return tmp_path / request.param


@pytest.fixture
def moved(rich, target, tmp_path):
    """The target, after everything was moved there."""
    rich.export(None, tmp_path / "moved.zip")
    target.import_bundle(tmp_path / "moved.zip")
    return target


# All of it


@pytest.mark.backends("sqlite+local", "postgresql+radosgw")
def test_everything_is_the_same_in_the_other_registry(rich, target, bundle, tmp_path):
    """Versions, evaluations, aliases, requirements, history, and every byte of the files."""
    exported = rich.export(None, bundle)
    done = target.import_bundle(bundle)
    assert seen(target) == seen(rich)
    for reference in ("summary/1", "summary@production", "labels/1"):
        assert pulled(target, reference, tmp_path / f"b-{reference[-3:]}") == pulled(
            rich, reference, tmp_path / f"a-{reference[-3:]}"
        )
    assert target.verify().sound
    assert target.verify().orphaned == ()
    assert target.broken_history() is None
    assert exported.digest == done.digest
    assert exported.versions == {"labels": 1, "summary": 3}
    assert [(a.name, a.versions) for a in done.adapters] == [
        ("labels", (1,)),
        ("summary", (1, 2, 3)),
    ]
    assert done.base_models == ("tiny",)


@pytest.mark.parametrize("direction", ["out", "in"])
@pytest.mark.backends("postgresql+radosgw", "postgresql+local", "sqlite+radosgw")
def test_a_registry_moves_between_databases_and_stores(
    places, place_at, summary_files, tmp_path, direction
):
    """From files to servers, and from servers to files."""
    local, remote = place_at(tmp_path / "local"), places.make(tmp_path / "remote")
    source, goal = (local, remote) if direction == "out" else (remote, local)
    source.fill(summary_files)
    with source.open() as one, goal.open() as other:
        one.promote("summary/2", "production")
        one.export(None, tmp_path / "b.zip")
        other.import_bundle(tmp_path / "b.zip")
        assert seen(other) == seen(one)
        assert pulled(other, "summary/3", tmp_path / "x") == pulled(
            one, "summary/3", tmp_path / "y"
        )
        assert other.verify().sound


@pytest.mark.backends("sqlite+local", "postgresql+local")
def test_life_goes_on_after_a_move(moved, make, tmp_path):
    """Rollback knows where aliases were, gates know the scores, numbers go on."""
    assert moved.rollback("summary", "production").number == 1
    with pytest.raises(ConflictError, match="was nowhere before"):
        moved.rollback("summary", "production")
    assert moved.promote("summary/1", "staging", require=["rougeL >= base"]).moved
    assert moved.restore("summary/3").number == 3
    new = moved.register("summary", make.prompt(tmp_path / "n", seed=9), base="tiny")
    assert new.version.number == 4
    again = moved.register(
        "labels",
        make.lora(tmp_path / "again"),
        base="tiny",
        input_template="Label: {text}",
        generation_config={"max_new_tokens": 4},
    )
    assert not again.created
    assert moved.broken_history() is None


def test_the_history_says_who_imported_what(moved, rich):
    """One event per adapter and base model, after theirs, which keep their time and actor."""
    imports = [event for event in moved.history() if event.action == "import"]
    assert [(event.name, event.actor) for event in imports] == [
        (None, "importer"),
        ("labels", "importer"),
        ("summary", "importer"),
    ]
    assert imports[2].details["versions"] == [1, 2, 3]
    assert imports[2].details["aliases"] == {"production": 2, "staging": 2}
    home = {event.hash for event in rich.history()}
    assert {event.origin for event in moved.history()} - {None} == home
    assert {event.actor for event in moved.history() if event.origin} == {"tester"}


# Doing it again


@pytest.mark.backends("sqlite+local", "postgresql+radosgw")
def test_importing_again_adds_nothing(rich, places, tmp_path):
    """No row, no event and no file."""
    goal = places.make(tmp_path / "target")
    rich.export(None, tmp_path / "b.zip")
    with goal.open() as target:
        target.import_bundle(tmp_path / "b.zip")
        before = goal.state()
        done = target.import_bundle(tmp_path / "b.zip")
        assert goal.state() == before
    assert (done.adapters, done.base_models) == ((), ())
    assert done.unchanged == ("labels", "summary")


def test_the_same_registry_gives_the_same_bytes(rich, tmp_path):
    """So a bundle can be compared by its hash."""
    rich.export(None, tmp_path / "one.zip")
    rich.export(None, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_a_dry_run_checks_and_changes_nothing(rich, places, tmp_path):
    """It says what would be added."""
    rich.export(None, tmp_path / "b.zip")
    goal = places.make(tmp_path / "target")
    with goal.open() as target:
        before = goal.state()
        dry = target.import_bundle(tmp_path / "b.zip", dry_run=True)
        assert goal.state() == before
        done = target.import_bundle(tmp_path / "b.zip")
    assert dry.dry_run
    assert not done.dry_run
    assert (dry.adapters, dry.base_models) == (done.adapters, done.base_models)


@pytest.mark.backends("sqlite+local", "postgresql+local")
def test_a_newer_export_adds_what_is_new(moved, rich, measure, make, tmp_path):
    """Versions, evaluations, moved aliases, deletions and their history."""
    rich.register("summary", make.prompt(tmp_path / "n", seed=9), base="tiny", tags={"new": "yes"})
    measure("summary/4", [0.9] * 12)
    rich.promote("summary/4", "production", reason="better")
    rich.restore("summary/3")
    rich.delete("summary/1")
    rich.require("summary", "production", ["rougeL >= 0.6"])
    rich.export(["summary"], tmp_path / "newer.zip")
    done = moved.import_bundle(tmp_path / "newer.zip")
    assert seen(moved) == seen(rich)
    (added,) = done.adapters
    assert (added.versions, added.evaluations, added.aliases) == ((4,), 1, {"production": 4})
    assert moved.rollback("summary", "production").number == 2


def test_an_older_export_leaves_what_went_on(moved, rich, tmp_path):
    """The registry that knows more is right."""
    moved.promote("summary/1", "production")
    moved.restore("summary/3")
    moved.require("summary", "production", [])
    before = moved.history()
    rich.export(None, tmp_path / "older.zip")
    assert moved.import_bundle(tmp_path / "older.zip").adapters == ()
    assert moved.history() == before
    assert moved.adapter("summary").aliases["production"] == 1


def test_what_happened_elsewhere_comes_back_home(moved, rich, tmp_path):
    """Events are known by where they happened, so none comes twice."""
    moved.promote("summary/1", "production", reason="elsewhere")
    moved.export(["summary"], tmp_path / "back.zip")
    rich.import_bundle(tmp_path / "back.zip")
    assert rich.adapter("summary").aliases["production"] == 1
    assert rich.history("summary")[-2].reason == "elsewhere"
    assert told(rich.history("summary")) == told(moved.history("summary"))
    before = rich.history()
    assert rich.import_bundle(tmp_path / "back.zip").adapters == ()
    assert rich.history() == before


def test_an_import_from_a_copy_and_one_from_home_are_the_same(moved, rich, places, tmp_path):
    """Whichever comes first, the second adds only what the first had not."""
    rich.export(None, tmp_path / "home.zip")
    moved.export(None, tmp_path / "copy.zip")
    with places.make(tmp_path / "third").open() as third:
        third.import_bundle(tmp_path / "copy.zip")
        before = third.history()
        assert third.import_bundle(tmp_path / "home.zip").adapters == ()
        assert third.history() == before
        assert seen(third) == seen(rich)


def test_an_import_that_stopped_goes_on(rich, places, tmp_path):
    """What one adapter's transaction added stays, the others are added by the next run."""
    rich.export(["labels"], tmp_path / "first.zip")
    rich.export(None, tmp_path / "all.zip")
    with places.make(tmp_path / "target").open() as target:
        target.import_bundle(tmp_path / "first.zip")
        done = target.import_bundle(tmp_path / "all.zip")
        assert [each.name for each in done.adapters] == ["summary"]
        assert seen(target) == seen(rich)


@pytest.mark.backends("sqlite+local", "postgresql+radosgw")
def test_imports_at_once_add_everything_once(rich, places, children, tmp_path):
    """Of one bundle by several processes, beside somebody who promotes and requires."""
    rich.export(None, tmp_path / "b.zip")
    wanted = seen(rich)
    rich.close()
    goal = places.make(tmp_path / "target")
    goal.open().close()

    def work():
        with goal.open() as registry:
            registry.import_bundle(tmp_path / "b.zip")

    done = children.run_all([work] * 4)
    assert [child.code for child in done] == [0] * 4, done
    with goal.open() as target:
        assert seen(target) == wanted
        assert target.broken_history() is None
        assert [e.action for e in target.history()].count("import") == 3
        assert target.verify().sound


@pytest.mark.backends("sqlite+local", "postgresql+local")
def test_imports_beside_promoters_are_whole_or_refused(rich, places, children, tmp_path):
    """Whoever comes second meets a conflict or adds to it; the history stays one chain."""
    rich.export(None, tmp_path / "old.zip")
    rich.promote("summary/1", "production")
    rich.require("summary", "production", [])
    rich.export(None, tmp_path / "new.zip")
    rich.close()
    goal = places.make(tmp_path / "target")
    with goal.open() as target:
        target.import_bundle(tmp_path / "old.zip")

    def bring():
        with goal.open() as registry:
            try:
                registry.import_bundle(tmp_path / "new.zip")
            except ConflictError as error:
                return str(error)

    def live():
        with goal.open() as registry:
            for _ in range(10):
                try:
                    registry.require("summary", "production", ["rougeL >= 0.1"])
                    registry.promote("summary/2", "canary")
                    registry.promote("summary/1", "canary")
                except ConflictError:
                    pass

    done = children.run_all([bring, live, bring])
    assert [child.code for child in done] == [0] * 3, done
    with goal.open() as target:
        assert target.broken_history() is None
        moves = [
            event
            for event in target.history("summary")
            if event.action in MOVES and event.alias == "production"
        ]
        assert target.resolve("summary@production").number == moves[-1].number


# Parts


def test_a_name_takes_all_versions_and_a_number_those_up_to_it(rich, target, tmp_path):
    """Numbers have no gaps in the other registry, either."""
    assert rich.export(["summary/2", "summary/1"], tmp_path / "a.zip").versions == {"summary": 2}
    assert rich.export(["summary/1", "summary"], tmp_path / "b.zip").versions == {"summary": 3}
    assert rich.export(["summary@production"], tmp_path / "c.zip").versions == {"summary": 2}
    assert rich.export(["summary/3"], tmp_path / "d.zip").versions == {"summary": 3}
    target.import_bundle(tmp_path / "a.zip")
    assert [v.number for v in target.versions("summary", deleted=True)] == [2, 1]
    assert target.adapter("summary").aliases == {"production": 2, "staging": 2}
    target.import_bundle(tmp_path / "b.zip")
    assert seen(target, {"summary"})["versions"] == seen(rich, {"summary"})["versions"]


def test_an_alias_with_a_later_past_is_left_out(rich, target, tmp_path):
    """Its way would have gaps; the whole adapter brings it."""
    done = rich.export(["summary/1"], tmp_path / "a.zip")
    assert done.left_out == ("summary@production", "summary@staging")
    target.import_bundle(tmp_path / "a.zip")
    assert target.adapter("summary").aliases == {}
    rich.export(["summary"], tmp_path / "b.zip")
    target.import_bundle(tmp_path / "b.zip")
    assert target.adapter("summary").aliases == {"production": 2, "staging": 2}
    assert target.rollback("summary", "production").number == 1


def test_a_base_model_without_adapters_goes_along_with_everything(rich, make, target, tmp_path):
    """And is left out otherwise."""
    rich.register_base(make.base(tmp_path / "second", seed=9), name="second")
    rich.export(["summary"], tmp_path / "a.zip")
    rich.export(None, tmp_path / "b.zip")
    assert target.import_bundle(tmp_path / "a.zip").base_models == ("tiny",)
    assert target.import_bundle(tmp_path / "b.zip").base_models == ("second",)


@pytest.mark.parametrize(
    ("references", "error"),
    [
        ([], InvalidInput),
        (["nobody"], AdapterNotFound),
        (["summary/9"], VersionNotFound),
        (["a b"], InvalidReference),
    ],
)
def test_what_is_not_there_cannot_be_exported(summary, tmp_path, references, error):
    """And nothing is left behind."""
    with pytest.raises(error):
        summary.export(references, tmp_path / "b.zip")
    with pytest.raises(error):
        summary.export(references, tmp_path / "b")
    assert not list(tmp_path.glob("*b.zip*"))
    assert not (tmp_path / "b").exists()


# Writing the bundle


def test_a_place_that_is_taken_is_refused(summary, bundle, tmp_path):
    """A bundle that is whole, or something else."""
    summary.export(None, bundle)
    before = seen(summary)
    with pytest.raises(ConflictError, match="exists already"):
        summary.export(None, bundle)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError, match="exists already"):
        summary.export(None, tmp_path / "other")
    assert seen(summary) == before


def test_a_directory_that_was_not_finished_is_gone_on_with(summary, target, tmp_path):
    """Good blobs stay, damaged ones are written anew, and only then there is a manifest."""
    summary.export(None, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    (tmp_path / "part" / "dovetail-export.json").unlink()
    kept, lost, damaged, *_ = LocalObjectStore(tmp_path / "part" / "blobs").blobs()
    store = LocalObjectStore(tmp_path / "part" / "blobs")
    store.delete(lost.digest)
    store.path(damaged.digest).chmod(0o644)
    store.path(damaged.digest).write_bytes(b"half")
    stamp = store.path(kept.digest).stat()
    with pytest.raises(InvalidInput, match="was not finished"):
        target.import_bundle(tmp_path / "part")
    summary.export(None, tmp_path / "part")
    assert store.path(kept.digest).stat() == stamp
    target.import_bundle(tmp_path / "part")
    assert seen(target) == seen(summary)


def test_what_a_killed_export_left_of_a_file_is_written_over(summary, target, tmp_path):
    """Until it is whole the file has another name."""
    (tmp_path / ".b.zip.partial").write_bytes(b"half a file")
    summary.export(None, tmp_path / "b.zip")
    assert not list(tmp_path.glob(".b.zip*"))
    target.import_bundle(tmp_path / "b.zip")
    assert seen(target) == seen(summary)


def test_two_exports_to_one_file_do_not_mix(summary, tmp_path):
    """The second is told to wait."""
    import fcntl

    with (tmp_path / ".b.zip.partial").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="another process"):
            summary.export(None, tmp_path / "b.zip")


def test_a_corrupt_file_is_not_exported(place, summary, bundle):
    """The error says whose it is; no bundle is left that looks whole."""
    file = summary.resolve("summary/2").files[1]
    path = LocalObjectStore(place.objects).path(file.digest)
    path.chmod(0o644)
    path.write_bytes(b"x" * file.size)
    with pytest.raises(DigestMismatch, match=f"{file.path} of summary/2 is corrupt"):
        summary.export(None, bundle)
    assert not bundle.is_file()
    assert not (bundle / "dovetail-export.json").exists()


def test_a_history_that_was_changed_is_not_exported(place, summary, tmp_path):
    """It would be believed elsewhere."""
    place.execute("UPDATE events SET actor = 'nobody' WHERE position = 2")
    with pytest.raises(DigestMismatch, match="event 2"):
        summary.export(None, tmp_path / "b.zip")


def test_progress_goes_to_the_end(rich, target, bundle):
    """Of the export, and of the import: once to check, once to store."""
    calls = []
    done = rich.export(None, bundle, progress=lambda *call: calls.append(call))
    assert calls[-1] == (done.bytes, done.bytes)
    calls.clear()
    target.import_bundle(bundle, progress=lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1]
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)


# Conflicts


@pytest.fixture
def apart(rich, target, make, tmp_path, tiny_base):
    """Import what the first registry exports now, and return the conflicts."""

    def conflicts():
        rich.export(None, tmp_path / "apart.zip")
        before = target.history(), seen(target)
        with pytest.raises(ConflictError, match="gone apart") as caught:
            target.import_bundle(tmp_path / "apart.zip")
        assert (target.history(), seen(target)) == before
        return caught.value.conflicts

    return conflicts


def test_another_version_under_the_same_number_is_a_conflict(
    moved, rich, apart, make, tmp_path, tiny_base
):
    """As is the same version under another number; all are named at once, and nothing is added."""
    one, other = make.prompt(tmp_path / "one", seed=8), make.prompt(tmp_path / "other", seed=9)
    for registry, order in ((moved, (one, other)), (rich, (other, one))):
        for directory in order:
            registry.register("summary", directory, base="tiny")
    rich.register("brand-new", one, base="tiny")
    assert apart() == (
        "summary/4 has other content here than there",
        "summary/5 has other content here than there",
    )


def test_the_same_version_under_another_number_is_a_conflict(
    rich, target, apart, make, tmp_path, tiny_base
):
    """Content has one number."""
    target.register("summary", make.prompt(tmp_path / "p", seed=2), base=tiny_base)
    found = apart()
    assert "summary/1 has other content here than there" in found
    assert "summary/2 there is summary/1 here" in found


def test_another_task_is_a_conflict(rich, target, apart, make, tmp_path, tiny_base):
    """An adapter has one task for ever."""
    target.register(
        "summary", make.prompt(tmp_path / "p", seed=1), base=tiny_base, task="translation"
    )
    assert apart() == ("summary is for the task 'translation' here and 'summarization' there",)


def test_an_alias_that_was_moved_on_both_sides_is_a_conflict(moved, rich, apart):
    """Nobody can say which is right."""
    moved.promote("summary/1", "production")
    rich.promote("summary/2", "other")
    rich.rollback("summary", "production")
    rich.promote("summary/2", "production", force=True, reason="x")
    assert apart() == ("summary@production was moved to 1 here and moved to 2 there",)


def test_requirements_that_differ_on_both_sides_are_a_conflict(moved, rich, apart):
    """They guard what is promoted."""
    moved.require("summary", "production", [])
    rich.require("summary", "production", ["rougeL >= 0.1"])
    assert apart() == ("summary@production requires nothing here and 'rougeL >= 0.1' there",)


def test_a_deletion_and_a_restoration_are_a_conflict(moved, rich, apart):
    """One side deleted anew what the other brought back."""
    moved.restore("summary/3")
    rich.restore("summary/3")
    rich.delete("summary/3")
    assert apart() == ("summary/3 is alive here and deleted there",)


def test_an_alias_to_a_version_that_was_deleted_there_is_a_conflict(moved, rich, apart):
    """No alias ever points to a deleted version."""
    moved.promote("summary/1", "canary")
    rich.delete("summary/1")
    assert apart() == ("summary@canary would point to 1, which was deleted there",)


def test_an_alias_to_a_version_that_was_deleted_here_is_a_conflict(moved, rich, apart):
    """Likewise the other way round."""
    moved.delete("summary/1")
    rich.promote("summary/1", "canary")
    assert apart() == ("summary@canary would point to 1, which was deleted here",)


def test_equal_moves_on_both_sides_are_no_conflict(moved, rich, tmp_path):
    """Both histories are kept."""
    for registry in (moved, rich):
        registry.promote("summary/1", "production", force=True, reason="same")
    rich.export(None, tmp_path / "b.zip")
    moved.import_bundle(tmp_path / "b.zip")
    assert moved.adapter("summary").aliases["production"] == 1
    assert [event.reason for event in moved.history("summary")].count("same") == 2


def test_adapters_that_were_registered_twice_meet(rich, target, make, tmp_path, tiny_base):
    """The same content under the same number is one version, whoever registered it."""
    target.register(
        "labels",
        make.lora(tmp_path / "l"),
        base=tiny_base,
        input_template="Label: {text}",
        generation_config={"max_new_tokens": 4},
        description="ours",
    )
    rich.export(["labels"], tmp_path / "b.zip")
    done = target.import_bundle(tmp_path / "b.zip")
    (added,) = done.adapters
    assert (added.versions, added.evaluations, added.events) == ((), 1, 1)
    assert target.adapter("labels").description == "ours"
    assert target.adapter("labels").task == "text-classification"
    assert json.loads(json.dumps(target.history("labels")[-1].details))["versions"] == []
