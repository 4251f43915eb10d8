"""Read documents that a stranger wrote: every value is checked as if people had handed it in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, cast

from dovetail.registry.checks import check_scores, check_tags, check_task
from dovetail.registry.folder import OTHER_FILES, WEIGHTS_FILE
from dovetail.registry.jsontext import parse_json
from dovetail.registry.peftconfig import CONFIG_FILE
from dovetail.registry.records import (
    AdapterVersion,
    BaseModel,
    Evaluation,
    Score,
    StoredFile,
)
from dovetail.registry.reference import check_name
from dovetail.registry.transport.documents import (
    AdapterDocument,
    BaseDocument,
    content_of,
)
from dovetail.registry.transport.fields import MAX_BIG, Fields, refuse
from dovetail.registry.transport.telling import (
    check_aliases,
    parse_events,
    parse_pointer,
    parse_requirements,
)

MAX_DOCUMENT_BYTES = 2**30
MAX_DEPTH = 300

_FILES = OTHER_FILES | {CONFIG_FILE, WEIGHTS_FILE}
_VERSION = {field.name for field in fields(AdapterVersion)} - {
    "name",
    "task",
    "base_model_name",
    "aliases",
}
_DESCRIBING = {"description", "tags", "updated_at"}
_VALUES = ("value", "ci_low", "ci_high")
_EVALUATION = {field.name for field in fields(Evaluation)} - {"name"}


def parse_adapter(data: bytes, *, bases: Mapping[str, BaseModel], version: int) -> AdapterDocument:
    """Read an adapter's document.

    Args:
        data: Its bytes.
        bases: The base models of the bundle, by fingerprint.
        version: The bundle's format version; those before this one's are read, too.

    Raises:
        InvalidPayload: It contradicts itself, or has what no registry would have written.
        InvalidInput: It holds something that a registry cannot keep.
    """
    value = _parsed(data, "an adapter's document")
    names = {field.name for field in fields(AdapterDocument)}
    read = Fields(value, "an adapter", names if version > 1 else names - {"updated_at"})
    name = check_name(read.text("name"))
    read.what = f"adapter {name!r}"
    task = check_task(read.maybe(read.text, "task"))
    versions = tuple(
        _version(item, name=name, number=number, task=task, bases=bases, described=version > 1)
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
        updated_at=read.time("updated_at") if version > 1 else _last_change(versions),
        versions=versions,
        evaluations=tuple(
            _evaluation(item, name=name, count=len(versions), bases=bases)
            for item in read.items("evaluations")
        ),
        aliases=tuple(parse_pointer(item, name) for item in read.items("aliases")),
        requirements=parse_requirements(read.table("requirements"), name),
        events=parse_events(read, name),
    )
    check_aliases(document)
    if document.deleted_at and any(each.deleted_at is None for each in versions):
        refuse(f"adapter {name!r} is deleted, but not all of its versions are")
    return document


def parse_base(data: bytes) -> BaseDocument:
    """Read a base model's document.

    Raises:
        InvalidPayload: It contradicts itself, or has what no registry would have written.
        InvalidInput: It holds something that a registry cannot keep.
    """
    value = _parsed(data, "a base model's document")
    read = Fields(value, "a base model", (field.name for field in fields(BaseDocument)))
    base = parse_base_model(read.raw("base"))
    return BaseDocument(
        base=base,
        evaluations=tuple(
            _evaluation(item, name=None, count=0, bases={base.fingerprint: base})
            for item in read.items("evaluations")
        ),
        events=parse_events(read, None),
    )


def _parsed(data: bytes, what: str) -> Any:
    return parse_json(data, what=what, max_bytes=MAX_DOCUMENT_BYTES, max_depth=MAX_DEPTH)


def parse_base_model(value: Any) -> BaseModel:
    """Read what a document says of a base model; its manifest is yet to be compared with it.

    Raises:
        InvalidPayload: It has not the fields that it should.
    """
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
    value: Any,
    *,
    name: str,
    number: int,
    task: str | None,
    bases: Mapping[str, BaseModel],
    described: bool,
) -> AdapterVersion:
    read = Fields(value, f"{name}/{number}", _VERSION if described else _VERSION - _DESCRIBING)
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
        description=read.text("description") if described else "",
        tags=check_tags(read.table("tags") if described else None),
        updated_at=read.time("updated_at" if described else "created_at"),
        files=files,
        findings=read.texts("findings"),
    )


def _last_change(versions: Iterable[AdapterVersion]) -> datetime:
    """Return when an adapter was last changed, as far as its versions tell."""
    return max(version.deleted_at or version.created_at for version in versions)


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
