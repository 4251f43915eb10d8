"""Inserting the rows of base models and versions, within a caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select

from dovetail.registry.digests import digest_bytes
from dovetail.registry.events import append_event
from dovetail.registry.fingerprint import BaseCheckpoint
from dovetail.registry.metadata import Metadata
from dovetail.registry.payload import Payload
from dovetail.registry.reading import find_base_model, known_base_model
from dovetail.registry.records import AdapterVersion, BaseModel, StoredFile
from dovetail.registry.schema import (
    AdapterRow,
    BaseModelRow,
    BlobRow,
    EvaluationRow,
    FileRow,
    ScoreRow,
    VersionRow,
    insert_or_ignore,
    table_of,
)

# Building a statement takes longer than running it, so those of every registration are built once.
_IDENTICAL = (
    select(VersionRow.number)
    .join(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
    .where(
        AdapterRow.name == bindparam("of_name"),
        VersionRow.content_digest == bindparam("of_content"),
    )
)
_OF_ADAPTER = VersionRow.adapter_id == bindparam("of_adapter")
_NUMBERS = select(
    select(func.max(VersionRow.number)).where(_OF_ADAPTER).scalar_subquery().label("highest"),
    select(VersionRow.number)
    .where(_OF_ADAPTER, VersionRow.content_digest == bindparam("of_content"))
    .scalar_subquery()
    .label("identical"),
)
# What a version's record has from its row, read back as it was written. Whoever registers holds
# locks that others wait for, so it is not looked up again.
_OF_RECORD = tuple(
    column for column in table_of(VersionRow).columns if column.name in AdapterVersion.__slots__
)
_ADD_VERSION = insert(table_of(VersionRow)).returning(VersionRow.id, *_OF_RECORD)
_ADD_BLOB = insert_or_ignore(BlobRow)
_ADD_BASE_MODEL = insert_or_ignore(BaseModelRow)
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
    insert_blobs(connection, {manifest_digest: len(data)}, now=now)
    added = connection.execute(
        _ADD_BASE_MODEL,
        {
            "fingerprint": fingerprint,
            "name": checkpoint.name,
            "location": None if checkpoint.directory is None else str(checkpoint.directory),
            "revision": checkpoint.revision,
            "architecture": checkpoint.architecture,
            "model_type": checkpoint.model_type,
            "hidden_size": checkpoint.hidden_size,
            "parameter_count": checkpoint.parameter_count,
            "dtype": checkpoint.dtype,
            "tokenizer_digest": checkpoint.tokenizer_digest,
            "manifest_digest": manifest_digest,
            "created_at": now,
        },
    )
    if added.rowcount:  # else somebody added it while this one waited
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


def find_numbers(
    connection: Connection, adapter: Row[Any], *, content: str
) -> tuple[int, int | None]:
    """Return the next number of an adapter that is locked, and that of `find_identical`."""
    wanted = {"of_adapter": adapter.id, "of_content": content}
    highest, identical = connection.execute(_NUMBERS, wanted).one()
    return (highest or 0) + 1, identical


def insert_version(
    connection: Connection,
    *,
    adapter: Row[Any],
    name: str,
    number: int,
    base: tuple[int, BaseModel],
    payload: Payload,
    metadata: Metadata,
    actor: str,
) -> AdapterVersion:
    """Add a version.

    Args:
        connection: A writing transaction.
        adapter: Its adapter, from `dovetail.registry.owners.lock_adapter`.
        name: The adapter's name.
        number: The next one, from `find_numbers`.
        base: Row id and record of its base model.
        payload: Its files, which are in place.
        metadata: What else there is to know.
        actor: Who adds it.
    """
    now = datetime.now(UTC)
    base_model_id, base_model = base
    row = connection.execute(
        _ADD_VERSION,
        {
            "adapter_id": adapter.id,
            "number": number,
            "base_model_id": base_model_id,
            "content_digest": metadata.content_digest(payload.digest, base_model.fingerprint),
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
            "description": metadata.version_description,
            "tags": dict(metadata.version_tags),
            "updated_at": now,
        },
    ).one()
    version_id: int = row.id
    insert_blobs(connection, {file.digest: file.size for file in payload.files}, now=now)
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
            "base_model": base_model.fingerprint,
            "source_run": metadata.source_run,
            "reported": dict(metadata.scores),
        },
    )
    written = {column.name: getattr(row, column.name) for column in _OF_RECORD}
    files = sorted((f.path, f.size, f.digest) for f in payload.files)
    return AdapterVersion(
        **{**written, "findings": tuple(written["findings"])},
        name=name,
        task=metadata.task or adapter.task,
        base_model=base_model.fingerprint,
        base_model_name=base_model.name,
        files=tuple(
            StoredFile(path=path, size=size, digest=digest) for path, size, digest in files
        ),
    )


def insert_blobs(connection: Connection, sizes: Mapping[str, int], *, now: datetime) -> None:
    """Note blobs by digest and size, those that are not noted already."""
    rows = [
        {"digest": digest, "size": size, "state": "present", "created_at": now}
        for digest, size in sorted(sizes.items())  # in one order, so that no two wait in a circle
    ]
    connection.execute(_ADD_BLOB, rows)


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
