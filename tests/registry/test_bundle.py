"""Bundles that are damaged, or made to do harm: nothing of them is accepted."""

import json
import os
import random
import zipfile
from datetime import datetime

import numpy as np
import pytest

from dovetail.errors import DigestMismatch, IncompatibleBaseModel, InvalidInput, InvalidPayload
from dovetail.registry.digests import digest_bytes
from dovetail.registry.events import event_hash
from dovetail.registry.jsontext import canonical_json, digest_json
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.payload import read_payload
from dovetail.registry.transport.bundle import format_contents

MANIFEST = "dovetail-export.json"
LONG_AGO = "2001-01-01T00:00:00+00:00"


class Forger:
    """Changes a bundle in a directory and makes all of its hashes right again."""

    def __init__(self, directory):
        self.directory = directory
        self.store = LocalObjectStore(directory / "blobs")
        contents = json.loads((directory / MANIFEST).read_text())["contents"]
        self.bases = {e["fingerprint"]: self._load(e["digest"]) for e in contents["base_models"]}
        self.adapters = {e["name"]: self._load(e["digest"]) for e in contents["adapters"]}

    @property
    def summary(self):
        """The document of the adapter ``summary``."""
        return self.adapters["summary"]

    @property
    def base(self):
        """The document of the one base model."""
        (document,) = self.bases.values()
        return document

    def put(self, data):
        """Add a blob; return its digest."""
        self.store.put(digest_bytes(data), data)
        return digest_bytes(data)

    def payload(self, directory, version):
        """Put other files in the place of a version's, with their right digests."""
        version["files"] = sorted(
            (
                {
                    "path": path.name,
                    "size": path.stat().st_size,
                    "digest": self.put(path.read_bytes()),
                }
                for path in directory.iterdir()
            ),
            key=lambda file: file["path"],
        )
        listed = [
            {"path": file["path"], "size": file["size"], "sha256": file["digest"]}
            for file in version["files"]
        ]
        version["payload_digest"] = digest_json(listed)
        version["config"] = json.loads((directory / "adapter_config.json").read_text())

    def sign(self):
        """Make the hashes of all events right."""
        for event in self.summary["events"]:
            fields = {**event, "time": datetime.fromisoformat(event["time"])}
            event["hash"] = event_hash(fields)

    def write(self, **manifest):
        """Write documents and manifest."""
        made = format_contents(
            {name: self.put(canonical_json(d)) for name, d in self.bases.items()},
            {name: self.put(canonical_json(d)) for name, d in self.adapters.items()},
        )
        (self.directory / MANIFEST).write_bytes(canonical_json(made | manifest))

    def _load(self, digest):
        return json.loads(self.store.path(digest).read_bytes())


@pytest.fixture
def source(summary, measure):
    """A registry with an evaluation, an alias and requirements."""
    measure("summary/1", [0.5] * 12)
    summary.promote("summary/1", "production")
    summary.require("summary", "production", ["rougeL >= 0.4"])
    return summary


@pytest.fixture
def directory(source, tmp_path):
    """A bundle in a directory."""
    source.export(None, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def file(source, tmp_path):
    """A bundle in a file."""
    source.export(None, tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


@pytest.fixture
def forger(directory):
    """Forge the bundle in the directory."""
    return Forger(directory)


@pytest.fixture
def refused(places, tmp_path):
    """Import into an empty registry, which must fail and leave it empty; return the error."""
    goal = places.make(tmp_path / "target")

    def attempt(path, error, match=None):
        with goal.open() as target:
            before = goal.state()
            with pytest.raises(error, match=match) as caught:
                target.import_bundle(path)
            assert goal.state() == before
        return caught.value

    return attempt


def test_the_forger_can_write_what_is_accepted(forger, places, directory, tmp_path):
    """So what is refused below is refused for what was changed."""
    forger.summary["description"] = "forged"
    forger.sign()
    forger.write()
    with places.make(tmp_path / "target").open() as target:
        target.import_bundle(directory)
        assert target.adapter("summary").description == "forged"


# Damage


def test_a_flipped_byte_in_any_file_of_a_directory_is_found(directory, refused):
    """In blobs and documents by their hash, in the manifest by its own."""
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        refused(directory, (DigestMismatch, InvalidPayload))
        path.write_bytes(whole)


def test_a_file_that_is_missing_is_named(directory, refused):
    """Whichever it is."""
    for path in sorted(path for path in (directory / "blobs").rglob("*") if path.is_file()):
        path.rename(path.with_suffix(".away"))
        error = refused(directory, DigestMismatch, "is missing from the export")
        assert error.expected.endswith(path.name)
        path.with_suffix(".away").rename(path)


def test_damage_anywhere_in_a_file_is_found_or_does_no_harm(file, places, tmp_path, source):
    """Either it is refused, or what is imported is what was exported."""
    whole = file.read_bytes()
    chosen = random.Random(7)  # noqa: S311 (the same places each time)
    spots = chosen.sample(range(len(whole)), 80)
    # The directory at the end is what a reader of zip files believes.
    spots += chosen.sample(range(len(whole) - 1_000, len(whole)), 80)
    goals = (places.make(tmp_path / f"target-{number}") for number in range(len(spots)))
    goal = next(goals)
    for position in spots:
        data = bytearray(whole)
        data[position] ^= 1 << chosen.randrange(8)
        file.write_bytes(data)
        with goal.open() as target:
            try:
                target.import_bundle(file)
            except (InvalidInput, DigestMismatch):
                assert target.adapters() == []
            else:
                assert target.versions("summary") == source.versions("summary")
                goal = next(goals)


def test_a_file_that_was_cut_off_is_refused(file, refused):
    """At any place."""
    whole = file.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        refused(file, InvalidPayload)


@pytest.mark.parametrize("name", ["nothing", "nothing.zip"])
def test_what_is_not_there_is_told(tmp_path, refused, name):
    """Neither file nor directory."""
    refused(tmp_path / name, InvalidInput, "there is no export")


def test_a_directory_of_something_else_is_told(tmp_path, refused):
    """It has no manifest."""
    refused(tmp_path, InvalidInput, "has no dovetail-export.json")


# Zip files


def rezip(file, *, change=None, extra=(), compress=zipfile.ZIP_STORED, leave_out=()):
    """Write a zip file anew with other names, members or compression."""
    with zipfile.ZipFile(file) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(file, "w", compress) as archive:
        for name, data in [*members, *extra]:
            if name not in leave_out:
                archive.writestr((change or str)(name), data)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/cron.d/evil",
        "/etc/passwd",
        "blobs/sha256/../../../evil",
        "blobs\\sha256\\aa\\evil",
        "blobs/sha256/aa/",
        "notes.txt",
        "dovetail-export.json/x",
    ],
)
def test_a_member_with_another_name_is_refused(file, refused, name, tmp_path):
    """Nothing is ever extracted under a name from the file, so it leads nowhere in any case."""
    rezip(file, extra=[(name, b"evil")])
    refused(file, InvalidPayload)
    assert not list(tmp_path.rglob("evil"))


def test_compressed_members_are_refused(file, refused):
    """A few kilobytes could become terabytes."""
    rezip(file, compress=zipfile.ZIP_DEFLATED)
    refused(file, InvalidPayload, "compressed")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(file, refused):
    """Readers would not agree which of them counts."""
    with zipfile.ZipFile(file) as archive:
        info = archive.infolist()[0]
        data = archive.read(info)
    rezip(file, extra=[(info.filename, data)])
    refused(file, InvalidPayload, "twice")


def test_a_file_without_manifest_is_refused(file, refused):
    """It says nothing."""
    rezip(file, leave_out=[MANIFEST])
    refused(file, InvalidPayload, "has no dovetail-export.json")


@pytest.mark.parametrize("data", [b"PK\x05\x06" + bytes(18), b"not a zip at all" * 100])
def test_another_file_is_refused(tmp_path, refused, data):
    """An empty archive, or none."""
    (tmp_path / "x.zip").write_bytes(data)
    refused(tmp_path / "x.zip", InvalidPayload)


# Directories


def test_links_and_pipes_in_a_directory_are_not_followed(forger, directory, refused, tmp_path):
    """A link could read any file of this machine, a pipe would wait for ever."""
    path = forger.store.path(forger.summary["versions"][0]["files"][0]["digest"])
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refused(directory, InvalidPayload, "cannot be read")
    path.unlink()
    os.mkfifo(path)
    refused(directory, DigestMismatch, "is missing")


# The manifest


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"version": 3}, InvalidPayload, "format version 3.*upgrade"),
        ({"version": "1"}, InvalidPayload, "version"),
        ({"format": "something"}, InvalidPayload, "not of the format"),
        ({"digest": "sha256:" + "0" * 64}, DigestMismatch, "dovetail-export.json is corrupt"),
        ({"digest": 7}, InvalidPayload, "digest"),
        ({"contents": []}, InvalidPayload, "contents"),
        ({"more": 1}, InvalidPayload, "fields"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(forger, directory, refused, change, error, match):
    """A newer format is told from damage."""
    forger.write(**change)
    refused(directory, error, match)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"format": "dovetail-export", "format": "dovetail-export"}',
        b"[" * 100_000,
        b'{"format": NaN}',
        b"\xff\xfe",
    ],
)
def test_a_manifest_that_is_no_json_is_refused(directory, refused, text):
    """Strictly read: no key twice, no depth without end."""
    (directory / MANIFEST).write_bytes(text)
    refused(directory, InvalidPayload)


def test_a_document_under_another_name_is_refused(forger, directory, refused):
    """The contents and the documents must agree."""
    forger.adapters = {"other": forger.summary}
    forger.write()
    refused(directory, InvalidPayload, "another name in the contents")


# Documents


def first(forger):
    """Return the first version."""
    return forger.summary["versions"][0]


def set_in(find, **values):
    """Make a change: set values in a part of the documents."""

    def change(forger):
        find(forger).update(values)

    return change


def evaluation(forger):
    """Return the evaluation."""
    return forger.summary["evaluations"][0]


def adapter(forger):
    """Return the adapter."""
    return forger.summary


def base(forger):
    """Return the base model."""
    return forger.base["base"]


def event(forger):
    """Return the first event."""
    return forger.summary["events"][0]


def alias(forger):
    """Return the alias."""
    return forger.summary["aliases"][0]


def drop(find, key):
    """Make a change: leave a field out."""

    def change(forger):
        del find(forger)[key]

    return change


def swap_versions(forger):
    """Put the versions in another order."""
    forger.summary["versions"].reverse()


def drop_version(forger):
    """Leave a gap."""
    del forger.summary["versions"][1]


def twice(key):
    """Make a change: something stands there twice."""

    def change(forger):
        forger.summary[key].append(forger.summary[key][0])

    return change


def path(name):
    """Make a change: call a file something else."""

    def change(forger):
        first(forger)["files"][0]["path"] = name

    return change


def score(metric, value):
    """Make a change: another score."""
    made = {"metric": metric, "value": value, "ci_low": None, "ci_high": None}
    return set_in(evaluation, scores={metric: made})


def forget_bases(forger):
    """Leave the base models out."""
    forger.bases = {}


WRONG = {
    "gap": (drop_version, "not numbered from 1 without gaps"),
    "order": (swap_versions, "not numbered from 1 without gaps"),
    "no versions": (set_in(adapter, versions=[]), "no versions"),
    "same content twice": (
        lambda forger: forger.summary["versions"].append({**first(forger), "number": 4}),
        "two of the same content",
    ),
    "file twice": (
        lambda forger: first(forger)["files"].append(first(forger)["files"][0]),
        "has a file twice",
    ),
    "file path climbs": (path("../../evil"), "no adapter has"),
    "file path absolute": (path("/etc/passwd"), "no adapter has"),
    "file path pickle": (path("adapter_model.bin"), "no adapter has"),
    "file size": (lambda f: first(f)["files"][0].update(size=1), "recorded"),
    "file lacking": (lambda f: first(f)["files"].pop(), "adapter_model.safetensors"),
    "payload digest": (set_in(first, payload_digest="sha256:" + "0" * 64), "not what its files"),
    "config": (set_in(first, config={}), "not what its files are"),
    "type": (set_in(first, peft_type="LORA"), "not what its files are"),
    "parameters": (set_in(first, parameter_count=1), "not what its files are"),
    "no base": (forget_bases, "is not in it"),
    "unknown base": (set_in(first, base_model="sha256:" + "0" * 64), "is not in it"),
    "field more": (set_in(first, more=1), "fields"),
    "field less": (drop(first, "config"), "fields"),
    "not an object": (set_in(adapter, versions=[7]), "fields"),
    "name": (set_in(adapter, name="../x"), "not allowed"),
    "task": (set_in(adapter, task="No Task"), "pipeline tag"),
    "tags": (set_in(adapter, tags={"a": 1}), "tag"),
    "nul": (set_in(adapter, description="a\0b"), "NUL"),
    "hyperparameters": (set_in(first, hyperparameters={"a": "x" * 2**21}), "limit"),
    "nul inside": (set_in(first, hyperparameters={"a": "\0"}), "NUL"),
    "template": (set_in(first, input_template="{a.b}"), "a.b"),
    "findings": (set_in(first, findings=[1]), "list of texts"),
    "time zone": (set_in(first, created_at="2001-01-01T00:00:00+14:00"), "UTC"),
    "time naive": (set_in(first, created_at="2001-01-01T00:00:00"), "UTC"),
    "time": (set_in(first, created_at="yesterday"), "a time"),
    "time number": (set_in(first, created_at=7), "a time"),
    "alias reserved": (set_in(alias, alias="latest"), "reserved"),
    "alias nowhere": (set_in(alias, number=9), "history says"),
    "alias against history": (set_in(alias, number=2), "history says"),
    "alias to deleted": (set_in(first, deleted_at=LONG_AGO), "deleted"),
    "alias twice": (twice("aliases"), "twice"),
    "requirement": (set_in(adapter, requirements={"production": ["x < 1"]}), "requirement"),
    "requirement alias": (set_in(adapter, requirements={"7": []}), "version number"),
    "evaluation number": (set_in(evaluation, number=4), "number"),
    "evaluation kind": (set_in(evaluation, kind="guessed"), "neither"),
    "evaluation without n": (set_in(evaluation, n=None), "how it was measured"),
    "evaluation reported": (set_in(evaluation, kind="reported"), "how it was measured"),
    "evaluation n": (set_in(evaluation, n=11), "n is 11"),
    "evaluation huge n": (set_in(evaluation, n=2**40), "whole number"),
    "evaluation base": (set_in(evaluation, base_model="sha256:" + "0" * 64), "is not in it"),
    "score text": (score("rougeL", "1"), "real number"),
    "score huge": (score("rougeL", 10**399), "real number"),
    "score name": (score("a b", 1.0), "metric name"),
    "score other": (score("bleu", 1.0), "bleu"),
    "score nothing": (score("rougeL", None), "no value"),
    "event changed": (set_in(event, actor="nobody"), "was changed"),
    "event twice": (twice("events"), "not in order"),
    "event elsewhere": (set_in(event, name="other"), "another adapter"),
    "event action": (set_in(event, action="DROP TABLE"), "is called"),
    "base fingerprint": (
        lambda f: f.bases.update({"sha256:" + "0" * 64: f.base}),
        "another fingerprint",
    ),
    "base parameters": (set_in(base, parameter_count=1), "manifest tells"),
    "base dtype": (set_in(base, dtype="F16"), "manifest tells"),
    "base width": (set_in(base, hidden_size=2**40), "whole number"),
    "base tokenizer": (set_in(base, tokenizer_digest="x"), "digest"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_document_that_no_registry_wrote_is_refused(forger, directory, refused, case):
    """Though all of its hashes are right."""
    change, match = WRONG[case]
    change(forger)
    forger.write()
    refused(directory, InvalidInput, match)


def test_two_events_with_one_origin_are_refused_or_one_is_left_out(forger, directory, refused):
    """An event is in the history once."""
    events = forger.summary["events"]
    for each in events:
        each["origin"] = events[0]["previous_hash"]
    forger.sign()
    forger.write()
    refused(directory, InvalidPayload, "twice")


# Payloads


def test_an_unsafe_payload_is_refused_as_registering_refuses_it(
    forger, directory, refused, make, tmp_path
):
    """An import is no way around the checks."""
    unsafe = make.prompt(tmp_path / "unsafe", seed=1, auto_mapping={"parent_library": "os"})
    forger.payload(unsafe, first(forger))
    forger.write()
    refused(directory, InvalidPayload, r"summary/1 in the export: .*auto_mapping")


def test_weights_that_are_no_numbers_are_refused(forger, directory, refused, make, tmp_path):
    """Likewise."""
    config = json.loads((make.prompt(tmp_path / "p") / "adapter_config.json").read_text())
    weights = {"prompt_embeddings": np.full((3, 8), np.nan, "f4")}
    forger.payload(make.adapter(tmp_path / "nan", config, weights), first(forger))
    forger.write()
    refused(directory, InvalidPayload, "NaN")


def test_an_adapter_that_does_not_fit_its_base_is_refused(
    forger, directory, refused, make, tmp_path
):
    """The base model in the bundle is what it must fit."""
    wide = make.prompt(tmp_path / "wide", width=16)
    forger.payload(wide, first(forger))
    first(forger)["parameter_count"] = read_payload(wide).parameter_count
    forger.write()
    refused(directory, IncompatibleBaseModel, r"summary/1 in the export")


def test_a_file_too_large_for_its_kind_is_not_even_copied(forger, directory, refused):
    """A sparse file takes no room in a bundle, and would fill the disk when copied."""
    digest = "sha256:" + "a" * 64
    target = forger.store.path(digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as sparse:
        sparse.truncate(2**40)
    first(forger)["files"][1].update(digest=digest, size=2**40)
    forger.write()
    refused(directory, InvalidPayload, "at most")


def test_examples_of_another_evaluation_are_refused(forger, directory, refused):
    """They are what gates decide by."""
    evaluation(forger)["examples_digest"] = forger.put(b'{"format": "x"}')
    forger.write()
    refused(directory, InvalidInput, "per-example scores")
