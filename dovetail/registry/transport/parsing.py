"""Read documents that a stranger wrote: every value is checked as if people had handed it in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from dovetail.errors import InvalidPayload
from dovetail.registry.checks import check_scores, check_tags, check_task
from dovetail.registry.events import event_hash
from dovetail.registry.folder import OTHER_FILES, WEIGHTS_FILE
from dovetail.registry.jsontext import parse_json
from dovetail.registry.peftconfig import CONFIG_FILE
from dovetail.registry.records import (
    AdapterVersion,
    BaseModel,
    Evaluation,
    Event,
    Score,
    StoredFile,
)
from dovetail.registry.reference import check_alias, check_name
from dovetail.registry.requirements import Requirement
from dovetail.registry.transport.documents import (
    MOVES,
    AdapterDocument,
    BaseDocument,
    Pointer,
    content_of,
    identity,
)
from dovetail.registry.transport.fields import MAX_BIG, Fields, refuse

MAX_DOCUMENT_BYTES = 2**30
MAX_DEPTH = 300

_ACTION = re.compile(r"[a-z]+(-[a-z]+)*")
_MAX_ACTION_LENGTH = 32
_FILES = OTHER_FILES | {CONFIG_FILE, WEIGHTS_FILE}
_VERSION = {field.name for field in fields(AdapterVersion)} - {
    "name",
    "task",
    "base_model_name",
    "aliases",
}
_VALUES = ("value", "ci_low", "ci_high")
_EVALUATION = {field.name for field in fields(Evaluation)} - {"name"}


def parse_adapter(data: bytes, *, bases: Mapping[str, BaseModel]) -> AdapterDocument:
    """Read an adapter's document.

    Args:
        data: Its bytes.
        bases: The base models of the bundle, by fingerprint.

    Raises:
        InvalidPayload: It contradicts itself, or has what no registry would have written.
        InvalidInput: It holds something that a registry cannot keep.
    """
    value = _parsed(data, "an adapter's document")
    read = Fields(value, "an adapter", (field.name for field in fields(AdapterDocument)))
    name = check_name(read.text("name"))
    read.what = f"adapter {name!r}"
    task = check_task(read.maybe(read.text, "task"))
    versions = tuple(
        _version(item, name=name, number=number, task=task, bases=bases)
        for number, item in enumerate(read.items("versions"), start=1)
    )
    if len({content_of(version) for version in versions}) != len(versions) or not versions:
        refuse(f"adapter {name!r} has no versions, or two of the same content")
    document = AdapterDocument(
        name=name,
        task=task,
        description=read.text("description"),
        tags=check_tags(read.table("tags")),
        created_at=read.time("created_at"),
        deleted_at=read.maybe(read.time, "deleted_at"),
        versions=versions,
        evaluations=tuple(
            _evaluation(item, name=name, count=len(versions), bases=bases)
            for item in read.items("evaluations")
        ),
        aliases=tuple(_pointer(item, name) for item in read.items("aliases")),
        requirements=_requirements(read.table("requirements"), name),
        events=_events(read, name),
    )
    _check_aliases(document)
    return document


def parse_base(data: bytes) -> BaseDocument:
    """Read a base model's document.

    Raises:
        InvalidPayload: It contradicts itself, or has what no registry would have written.
        InvalidInput: It holds something that a registry cannot keep.
    """
    value = _parsed(data, "a base model's document")
    read = Fields(value, "a base model", (field.name for field in fields(BaseDocument)))
    base = _base(read.raw("base"))
    return BaseDocument(
        base=base,
        evaluations=tuple(
            _evaluation(item, name=None, count=0, bases={base.fingerprint: base})
            for item in read.items("evaluations")
        ),
        events=_events(read, None),
    )


def _parsed(data: bytes, what: str) -> Any:
    return parse_json(data, what=what, max_bytes=MAX_DOCUMENT_BYTES, max_depth=MAX_DEPTH)


def _base(value: Any) -> BaseModel:
    read = Fields(value, "a base model", (field.name for field in fields(BaseModel)))
    return BaseModel(
        fingerprint=read.digest("fingerprint"),
        name=read.text("name"),
        location=read.maybe(read.text, "location"),
        revision=read.maybe(read.text, "revision"),
        architecture=read.maybe(read.text, "architecture"),
        model_type=read.maybe(read.text, "model_type"),
        hidden_size=read.maybe(read.number, "hidden_size"),
        parameter_count=read.number("parameter_count", most=MAX_BIG),
        dtype=read.text("dtype"),
        tokenizer_digest=read.maybe(read.digest, "tokenizer_digest"),
        manifest_digest=read.digest("manifest_digest"),
        created_at=read.time("created_at"),
    )


def _version(
    value: Any, *, name: str, number: int, task: str | None, bases: Mapping[str, BaseModel]
) -> AdapterVersion:
    read = Fields(value, f"{name}/{number}", _VERSION)
    if read.number("number") != number:
        refuse(f"the versions of {name!r} are not numbered from 1 without gaps")
    base = bases.get(read.digest("base_model"))
    if base is None:
        refuse(f"the base model of {name}/{number} is not in it")
    files = tuple(_file(item, f"{name}/{number}") for item in read.items("files"))
    if len({file.path for file in files}) != len(files):
        refuse(f"{name}/{number} has a file twice")
    return AdapterVersion(
        name=name,
        number=number,
        task=task,
        base_model=base.fingerprint,
        base_model_name=base.name,
        peft_type=read.text("peft_type"),
        config=read.table("config"),
        hyperparameters=read.json("hyperparameters"),
        parameter_count=read.number("parameter_count", most=MAX_BIG),
        payload_digest=read.digest("payload_digest"),
        input_template=read.maybe(read.text, "input_template"),
        generation_config=read.json("generation_config"),
        source_run=read.maybe(read.text, "source_run"),
        created_by=read.text("created_by"),
        created_at=read.time("created_at"),
        deleted_at=read.maybe(read.time, "deleted_at"),
        files=files,
        findings=read.texts("findings"),
    )


def _file(value: Any, version: str) -> StoredFile:
    read = Fields(value, f"a file of {version}", ("path", "size", "digest"))
    path = read.text("path")
    if path not in _FILES:  # so it is no path that leads anywhere, either
        refuse(f"{version} has a file {ascii(path)[:80]}, which no adapter has")
    return StoredFile(
        path=path, size=read.number("size", most=MAX_BIG), digest=read.digest("digest")
    )


def _evaluation(
    value: Any, *, name: str | None, count: int, bases: Mapping[str, BaseModel]
) -> Evaluation:
    read = Fields(value, f"an evaluation of {name or 'a base model'}", _EVALUATION)
    number = None if name is None else read.number("number", least=1, most=count)
    if name is None and read.raw("number") is not None:
        refuse(f"{read.what} is one of a version")
    kind = read.text("kind")
    if kind not in ("measured", "reported"):
        refuse(f"{read.what} is neither measured nor reported")
    if read.digest("base_model") not in bases:
        refuse(f"the base model of {read.what} is not in it")
    evaluation = Evaluation(
        name=name,
        number=number,
        base_model=read.digest("base_model"),
        kind=cast("Any", kind),
        dataset_name=read.maybe(read.text, "dataset_name"),
        dataset_digest=read.maybe(read.digest, "dataset_digest"),
        settings=read.json("settings"),
        library=read.maybe(read.text, "library"),
        n=read.maybe(lambda field: read.number(field, least=1), "n"),
        scores=_scores(read),
        examples_digest=read.maybe(read.digest, "examples_digest"),
        created_by=read.text("created_by"),
        created_at=read.time("created_at"),
    )
    how = (evaluation.dataset_digest, evaluation.library, evaluation.n, evaluation.examples_digest)
    if (None in how) == (kind == "measured") or (kind == "reported" and any(how)):
        refuse(f"{read.what} does not say how it was measured")
    return evaluation


def _scores(read: Fields) -> dict[str, Score]:
    scores = {}
    for metric, value in read.table("scores").items():
        score = Fields(value, f"a score of {read.what}", ("metric", *_VALUES))
        values = {name: score.raw(name) for name in _VALUES if score.raw(name) is not None}
        if any(type(number) is not float for number in values.values()):
            refuse(f"a score of {read.what} is not written as a real number")
        if score.raw("metric") != metric or "value" not in values:
            refuse(f"a score of {read.what} has no value, or two names")
        check_scores({metric: values["value"]})
        scores[metric] = Score(metric=metric, **values)
    return scores


def _pointer(value: Any, name: str) -> Pointer:
    read = Fields(value, f"an alias of {name!r}", (field.name for field in fields(Pointer)))
    return Pointer(
        alias=check_alias(read.text("alias")),
        number=read.number("number", least=1),
        moved_at=read.time("moved_at"),
        moved_by=read.text("moved_by"),
    )


def _requirements(value: dict[str, Any], name: str) -> dict[str, tuple[str, ...]]:
    read = Fields(value, f"the requirements of {name!r}", value)
    return {
        check_alias(alias): tuple(Requirement.parse(text).text for text in read.texts(alias))
        for alias in value
    }


def _events(read: Fields, name: str | None) -> tuple[Event, ...]:
    events = tuple(_event(item, name) for item in read.items("events"))
    positions = [event.position for event in events]
    if sorted(set(positions)) != positions:
        refuse(f"the history of {read.what} is not in order")
    if len({identity(event) for event in events}) != len(events):
        refuse(f"the history of {read.what} has an event twice")
    return events


def _event(value: Any, name: str | None) -> Event:
    read = Fields(value, f"an event of {name or 'a base model'}", (f.name for f in fields(Event)))
    action = read.text("action")
    if len(action) > _MAX_ACTION_LENGTH or not _ACTION.fullmatch(action):
        refuse(f"{read.what} is called {ascii(action)[:80]}")
    if read.raw("name") != name:
        refuse(f"{read.what} is about another adapter")
    values: dict[str, Any] = {
        "position": read.number("position", least=1, most=MAX_BIG),
        "time": read.time("time"),
        "actor": read.text("actor"),
        "action": action,
        "name": name,
        "number": read.maybe(read.number, "number"),
        "alias": read.maybe(lambda field: check_alias(read.text(field)), "alias"),
        "previous": read.maybe(read.number, "previous"),
        "reason": read.maybe(read.text, "reason"),
        "details": read.json("details"),
        "origin": read.maybe(read.digest, "origin"),
        "previous_hash": read.digest("previous_hash"),
    }
    if event_hash(values) != read.digest("hash"):
        refuse(f"event {values['position']} of {name or 'a base model'} was changed")
    return Event(**values, hash=read.digest("hash"))


def _check_aliases(document: AdapterDocument) -> None:
    """See that each alias is where its history says, and at a version that is there."""
    moved = {event.alias: event.number for event in document.events if event.action in MOVES}
    live = {version.number for version in document.versions if version.deleted_at is None}
    if len({pointer.alias for pointer in document.aliases}) != len(document.aliases):
        refuse(f"adapter {document.name!r} has an alias twice")
    for pointer in document.aliases:
        if pointer.number not in live or moved.get(pointer.alias) != pointer.number:
            raise InvalidPayload(
                f"{document.name}@{pointer.alias} points to {pointer.number} in the export, but "
                f"its history says {moved.get(pointer.alias)}, or that version is deleted",
                name=document.name,
                alias=pointer.alias,
            )
