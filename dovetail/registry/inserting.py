"""Inserting the rows of base models, adapters and versions, within a caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or_ignore

from dovetail.errors import ConflictError
from dovetail.registry.digests import digest_bytes
from dovetail.registry.events import append_event
from dovetail.registry.fingerprint import BaseCheckpoint
from dovetail.registry.metadata import Metadata
from dovetail.registry.payload import Payload
from dovetail.registry.reading import find_base_model, known_base_model
from dovetail.registry.records import BaseModel
from dovetail.registry.schema import (
    AdapterRow,
    BaseModelRow,
    BlobRow,
    EvaluationRow,
    FileRow,
    ScoreRow,
    VersionRow,
    table_of,
)

# Building a statement takes longer than running it, so those of every registration are built once.
_ADAPTER = select(AdapterRow.id, AdapterRow.task, AdapterRow.description, AdapterRow.tags).where(
    AdapterRow.name == bindparam("of_name")
)
_IDENTICAL = (
    select(VersionRow.number)
    .join(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
    .where(
        AdapterRow.name == bindparam("of_name"),
        VersionRow.content_digest == bindparam("of_content"),
    )
)
_HIGHEST = select(func.max(VersionRow.number)).where(
    VersionRow.adapter_id == bindparam("of_adapter")
)
_ADD_VERSION = insert(table_of(VersionRow)).returning(VersionRow.id)
_ADD_BLOB = insert_or_ignore(table_of(BlobRow)).on_conflict_do_nothing()
_ADD_FILE = insert(table_of(FileRow))
_ADD_EVALUATION = insert(table_of(EvaluationRow)).returning(EvaluationRow.id)
_ADD_SCORE = insert(table_of(ScoreRow))


def insert_base_model(
    connection: Connection, checkpoint: BaseCheckpoint, *, actor: str
) -> tuple[int, BaseModel]:
    """Add a base model unless it is there; its manifest's blob must be in place."""
    fingerprint = checkpoint.manifest.fingerprint
    known = known_base_model(connection, fingerprint)
    if known is not None:
        return known
    data = checkpoint.manifest.to_json()
    manifest_digest = digest_bytes(data)
    now = datetime.now(UTC)
    insert_blob(connection, digest=manifest_digest, size=len(data), now=now)
    connection.execute(
        insert(BaseModelRow).values(
            fingerprint=fingerprint,
            name=checkpoint.name,
            location=str(checkpoint.directory),
            revision=checkpoint.revision,
            architecture=checkpoint.architecture,
            model_type=checkpoint.model_type,
            hidden_size=checkpoint.hidden_size,
            parameter_count=checkpoint.parameter_count,
            dtype=checkpoint.dtype,
            tokenizer_digest=checkpoint.tokenizer_digest,
            manifest_digest=manifest_digest,
            created_at=now,
        )
    )
    append_event(
        connection,
        actor=actor,
        action="register-base",
        details={"base_model": fingerprint, "base_model_name": checkpoint.name},
    )
    return find_base_model(connection, fingerprint)


def find_identical(connection: Connection, *, name: str, content: str) -> int | None:
    """Return the number of the version with this content, deleted or not, or None."""
    return connection.execute(_IDENTICAL, {"of_name": name, "of_content": content}).scalar()


def insert_version(
    connection: Connection,
    *,
    name: str,
    base_model_id: int,
    base_model: str,
    payload: Payload,
    metadata: Metadata,
    actor: str,
) -> int:
    """Add a version within the caller's writing transaction and return its number."""
    now = datetime.now(UTC)
    adapter_id = _insert_or_update_adapter(connection, name, metadata, now)
    highest = connection.execute(_HIGHEST, {"of_adapter": adapter_id}).scalar()
    number = (highest or 0) + 1
    version_id = connection.execute(
        _ADD_VERSION,
        {
            "adapter_id": adapter_id,
            "number": number,
            "base_model_id": base_model_id,
            "content_digest": metadata.content_digest(payload.digest, base_model),
            "payload_digest": payload.digest,
            "peft_type": payload.peft_type,
            "config": payload.config,
            "hyperparameters": dict(metadata.hyperparameters),
            "parameter_count": payload.parameter_count,
            "input_template": metadata.input_template,
            "generation_config": dict(metadata.generation_config),
            "source_run": metadata.source_run,
            "findings": list(payload.findings),
            "created_by": actor,
            "created_at": now,
        },
    ).scalar_one()
    connection.execute(
        _ADD_BLOB,
        [
            {"digest": f.digest, "size": f.size, "state": "present", "created_at": now}
            for f in payload.files
        ],
    )
    connection.execute(
        _ADD_FILE,
        [{"version_id": version_id, "path": f.path, "blob": f.digest} for f in payload.files],
    )
    if metadata.scores:
        _insert_reported(connection, version_id, base_model_id, metadata.scores, actor, now)
    append_event(
        connection,
        actor=actor,
        action="register",
        name=name,
        number=number,
        details={
            "payload": payload.digest,
            "base_model": base_model,
            "source_run": metadata.source_run,
            "reported": dict(metadata.scores),
        },
    )
    return number


def insert_blob(connection: Connection, *, digest: str, size: int, now: datetime) -> None:
    """Note a blob unless it is noted already."""
    row = {"digest": digest, "size": size, "state": "present", "created_at": now}
    connection.execute(_ADD_BLOB, row)


def _insert_or_update_adapter(
    connection: Connection, name: str, metadata: Metadata, now: datetime
) -> int:
    """Make the adapter, or add to it what was not said before; a task is never changed."""
    row = connection.execute(_ADAPTER, {"of_name": name}).first()
    if row is None:
        return connection.execute(
            insert(AdapterRow)
            .values(
                name=name,
                task=metadata.task,
                description=metadata.description or "",
                tags=dict(metadata.tags),
                created_at=now,
            )
            .returning(AdapterRow.id)
        ).scalar_one()
    if metadata.task and row.task and metadata.task != row.task:
        raise ConflictError(
            f"adapter {name!r} is for the task {row.task!r}, not {metadata.task!r}; "
            "register under another name",
            name=name,
            task=row.task,
        )
    said = {
        "task": metadata.task or row.task,
        "description": row.description if metadata.description is None else metadata.description,
        "tags": {**row.tags, **metadata.tags},
    }
    if said != {"task": row.task, "description": row.description, "tags": row.tags}:
        connection.execute(update(AdapterRow).where(AdapterRow.id == row.id).values(**said))
    return int(row.id)


def _insert_reported(
    connection: Connection,
    version_id: int,
    base_model_id: int,
    scores: Mapping[str, float],
    actor: str,
    now: datetime,
) -> None:
    evaluation_id = connection.execute(
        _ADD_EVALUATION,
        {
            "version_id": version_id,
            "base_model_id": base_model_id,
            "kind": "reported",
            "settings": {},
            "created_by": actor,
            "created_at": now,
        },
    ).scalar_one()
    connection.execute(
        _ADD_SCORE,
        [
            {"evaluation_id": evaluation_id, "metric": metric, "value": value}
            for metric, value in scores.items()
        ],
    )
