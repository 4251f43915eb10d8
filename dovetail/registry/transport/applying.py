"""Write a plan into the database, within a caller's transaction; events come last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from dovetail.registry.aliases import store_requirements
from dovetail.registry.events import append_event
from dovetail.registry.jsontext import digest_json
from dovetail.registry.reading import known_base_model
from dovetail.registry.records import AdapterVersion, BaseModel, Evaluation, Event
from dovetail.registry.schema import (
    AdapterRow,
    AliasRow,
    BaseModelRow,
    EvaluationRow,
    EventRow,
    FileRow,
    ScoreRow,
    VersionRow,
    insert_or_ignore,
    table_of,
)
from dovetail.registry.transport.documents import AdapterDocument, content_of, identity
from dovetail.registry.transport.planning import AdapterPlan, BasePlan

_BATCH = 500
_ADD_BASE = insert_or_ignore(BaseModelRow)
_ADD_VERSION = insert(table_of(VersionRow)).returning(VersionRow.id)
_ADD_FILES = insert(table_of(FileRow))
_ADD_EVALUATION = insert(table_of(EvaluationRow)).returning(EvaluationRow.id)
_ADD_SCORES = insert(table_of(ScoreRow))


def known_events(connection: Connection, events: Iterable[Event]) -> set[str]:
    """Return the identities of those events that the history has, its own or imported."""
    wanted = [identity(event) for event in events]
    found: set[str] = set()
    for start in range(0, len(wanted), _BATCH):
        some = wanted[start : start + _BATCH]
        for column in (EventRow.hash, EventRow.origin):
            query = select(column).where(column.in_(some))
            found.update(filter(None, connection.execute(query).scalars()))
    return found


def apply_base(
    connection: Connection, plan: BasePlan, base: BaseModel, *, actor: str, digest: str
) -> None:
    """Add a base model, and what is new of it."""
    if plan.added:
        row = {name: getattr(base, name) for name in BaseModel.__slots__}
        connection.execute(_ADD_BASE, row)
    _add_evaluations(connection, plan.evaluations, {})
    _append(connection, plan.events)
    append_event(
        connection,
        actor=actor,
        action="import",
        details={
            "export": digest,
            "base_model": base.fingerprint,
            "base_model_name": base.name,
            "evaluations": len(plan.evaluations),
            "events": len(plan.events),
        },
    )


def apply_adapter(
    connection: Connection,
    plan: AdapterPlan,
    document: AdapterDocument,
    *,
    adapter_id: int,
    actor: str,
    digest: str,
) -> None:
    """Add what is new of an adapter, whose row and versions the caller has locked."""
    _update_adapter(connection, plan, document, adapter_id)
    for version in plan.versions:
        _add_version(connection, adapter_id, version)
    for number, deleted_at in plan.deletions.items():
        _update_version(connection, adapter_id, number, deleted_at=deleted_at)
    for version in plan.edits:
        said = {name: getattr(version, name) for name in ("description", "tags", "updated_at")}
        _update_version(connection, adapter_id, version.number, **said)
    numbers = select(VersionRow.number, VersionRow.id).where(VersionRow.adapter_id == adapter_id)
    ids = {row.number: row.id for row in connection.execute(numbers)}
    _add_evaluations(connection, plan.evaluations, ids)
    gone = [*plan.dropped, *(pointer.alias for pointer in plan.aliases)]
    connection.execute(
        delete(AliasRow).where(AliasRow.adapter_id == adapter_id, AliasRow.alias.in_(gone))
    )
    for pointer in plan.aliases:
        key = {"adapter_id": adapter_id, "alias": pointer.alias}
        moved = {"moved_at": pointer.moved_at, "moved_by": pointer.moved_by}
        connection.execute(
            insert(table_of(AliasRow)).values(version_id=ids[pointer.number], **key, **moved)
        )
    for alias, requirements in plan.requirements.items():
        store_requirements(connection, document.name, alias, requirements)
    _append(connection, plan.events)
    append_event(
        connection,
        actor=actor,
        action="import",
        name=document.name,
        details={
            "export": digest,
            "versions": [version.number for version in plan.versions],
            "evaluations": len(plan.evaluations),
            "aliases": {pointer.alias: pointer.number for pointer in plan.aliases},
            "dropped": list(plan.dropped),
            "events": len(plan.events),
        },
    )


def _update_adapter(
    connection: Connection, plan: AdapterPlan, document: AdapterDocument, adapter_id: int
) -> None:
    values: dict[str, Any] = {
        "task": plan.task,
        "deleted_at": plan.deleted_at,
        "updated_at": plan.updated_at,
    }
    if plan.about:
        values |= {
            "description": document.description,
            "tags": dict(document.tags),
            "created_at": document.created_at,
        }
    connection.execute(update(AdapterRow).where(AdapterRow.id == adapter_id).values(**values))


def _update_version(connection: Connection, adapter_id: int, number: int, **values: Any) -> None:
    own = (VersionRow.adapter_id == adapter_id, VersionRow.number == number)
    connection.execute(update(VersionRow).where(*own).values(**values))


def _add_version(connection: Connection, adapter_id: int, version: AdapterVersion) -> None:
    row = {
        "adapter_id": adapter_id,
        "number": version.number,
        "base_model_id": _base_id(connection, version.base_model),
        "content_digest": content_of(version),
        "payload_digest": version.payload_digest,
        "peft_type": version.peft_type,
        "config": dict(version.config),
        "hyperparameters": dict(version.hyperparameters),
        "parameter_count": version.parameter_count,
        "input_template": version.input_template,
        "generation_config": dict(version.generation_config),
        "source_run": version.source_run,
        "findings": list(version.findings),
        "created_by": version.created_by,
        "created_at": version.created_at,
        "deleted_at": version.deleted_at,
        "description": version.description,
        "tags": dict(version.tags),
        "updated_at": version.updated_at,
    }
    version_id = connection.execute(_ADD_VERSION, row).scalar_one()
    files = [{"version_id": version_id, "path": f.path, "blob": f.digest} for f in version.files]
    connection.execute(_ADD_FILES, files)


def _add_evaluations(
    connection: Connection, evaluations: Sequence[Evaluation], version_ids: Mapping[int, int]
) -> None:
    for each in evaluations:
        row = {
            "version_id": None if each.number is None else version_ids[each.number],
            "base_model_id": _base_id(connection, each.base_model),
            "kind": each.kind,
            "dataset_name": each.dataset_name,
            "dataset_digest": each.dataset_digest,
            "settings": dict(each.settings),
            "settings_digest": digest_json(each.settings) if each.kind == "measured" else None,
            "library": each.library,
            "n": each.n,
            "examples": each.examples_digest,
            "created_by": each.created_by,
            "created_at": each.created_at,
        }
        evaluation_id = connection.execute(_ADD_EVALUATION, row).scalar_one()
        scores = [
            {
                "evaluation_id": evaluation_id,
                "metric": metric,
                "value": score.value,
                "ci_low": score.ci_low,
                "ci_high": score.ci_high,
            }
            for metric, score in each.scores.items()
        ]
        if scores:
            connection.execute(_ADD_SCORES, scores)


def _base_id(connection: Connection, fingerprint: str) -> int:
    known = known_base_model(connection, fingerprint)
    assert known is not None  # noqa: S101 (base models are imported before what is trained on them)
    return known[0]


def _append(connection: Connection, events: Sequence[Event]) -> None:
    for event in events:
        append_event(
            connection,
            actor=event.actor,
            action=event.action,
            name=event.name,
            number=event.number,
            alias=event.alias,
            previous=event.previous,
            reason=event.reason,
            details=event.details,
            time=event.time,
            origin=identity(event),
        )
