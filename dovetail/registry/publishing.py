"""Registering: check everything, write the blobs, then name them in one transaction.

A process killed before the transaction leaves an intent and blobs that nothing names, for garbage
collection; one killed after it leaves a whole version. There is no state between.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from dovetail.errors import BaseModelNotFound, ConflictError, StorageError
from dovetail.registry.checks import check_text
from dovetail.registry.compatibility import check_against_base
from dovetail.registry.context import Context
from dovetail.registry.digests import digest_bytes, require_digest
from dovetail.registry.directories import is_directory
from dovetail.registry.fingerprint import BaseCheckpoint, parse_manifest, read_base
from dovetail.registry.inserting import (
    find_identical,
    find_numbers,
    insert_base_model,
    insert_version,
)
from dovetail.registry.intents import publish
from dovetail.registry.manifest import Manifest
from dovetail.registry.metadata import Metadata
from dovetail.registry.owners import lock_adapter, update_adapter
from dovetail.registry.payload import read_payload
from dovetail.registry.progress import Progress
from dovetail.registry.reading import find_base_model, find_version, known_base_model
from dovetail.registry.records import AdapterVersion, BaseModel
from dovetail.registry.reference import Reference, check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What registering gave.

    Attributes:
        version: The version.
        created: False if identical content was registered before.
        left_out: Names in the directory that are no part of an adapter and were not stored.
    """

    version: AdapterVersion
    created: bool
    left_out: tuple[str, ...]


def register_version(
    context: Context,
    name: str,
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | BaseModel,
    metadata: Metadata,
    exclude: Sequence[str],
    progress: Progress | None,
    upload_progress: Progress | None,
) -> Registration:
    """Add a version; see `dovetail.registry.store.Registry.register`."""
    check_name(name)
    payload = read_payload(path, exclude=exclude)
    checkpoint = _find_or_read_base(context, base, progress)
    check_against_base(
        payload,
        checkpoint.manifest,
        hidden_size=checkpoint.hidden_size,
        model_type=checkpoint.model_type,
    )
    fingerprint = checkpoint.manifest.fingerprint
    content = metadata.content_digest(payload.digest, fingerprint)
    with context.database.asking() as connection:
        number = find_identical(connection, name=name, content=content)
        known = known_base_model(connection, fingerprint)
    if number is not None:
        with context.database.reading() as connection:
            version = _existing(connection, name, number)
        return Registration(version=version, created=False, left_out=payload.left_out)
    # The manifest of a base model that is known is in place already.
    if known is None or context.objects.size(known[1].manifest_digest) is None:
        known = _publish_base(context, checkpoint)
    base_model = known

    def commit(connection: Connection) -> Registration:
        adapter = lock_adapter(connection, name, metadata)
        number, identical = find_numbers(connection, adapter, content=content)
        if identical is not None:  # somebody registered the same a moment ago
            version = _existing(connection, name, identical)
            return Registration(version=version, created=False, left_out=payload.left_out)
        update_adapter(connection, adapter, name, metadata)
        version = insert_version(
            connection,
            adapter=adapter,
            name=name,
            number=number,
            base=base_model,
            payload=payload,
            metadata=metadata,
            actor=context.actor,
        )
        return Registration(version=version, created=True, left_out=payload.left_out)

    # Hashed again while it is copied: a file may have changed since it was checked.
    sources = {file.digest: Path(payload.directory) / file.path for file in payload.files}
    return publish(
        context, sources, purpose=f"register {name}", commit=commit, progress=upload_progress
    )


def register_base(
    context: Context,
    path: str | os.PathLike[str],
    *,
    name: str | None,
    revision: str | None,
    progress: Progress | None,
) -> BaseModel:
    """Add a base model by its checkpoint's manifest; the weights stay where they are."""
    checkpoint = _storable(
        read_base(
            path, name=name, revision=revision, cache_dir=context.cache_dir, progress=progress
        )
    )
    return _publish_base(context, checkpoint)[1]


def add_base(context: Context, checkpoint: BaseCheckpoint) -> BaseModel:
    """Add a base model by what is known of it, unless it is there."""
    fingerprint = checkpoint.manifest.fingerprint
    with context.database.asking() as connection:
        known = known_base_model(connection, fingerprint)
    return (known or _publish_base(context, checkpoint))[1]


def load_manifest(context: Context, base: BaseModel) -> Manifest:
    """Return the manifest of a registered base model, verified.

    Raises:
        DigestMismatch: The stored manifest is corrupt.
    """
    with contextlib.closing(context.objects.open(base.manifest_digest)) as stream:
        data = stream.read()
    require_digest(
        digest_bytes(data),
        expected=base.manifest_digest,
        what=f"the manifest of base model {base.name!r}",
    )
    return parse_manifest(data)


def _publish_base(context: Context, checkpoint: BaseCheckpoint) -> tuple[int, BaseModel]:
    data = checkpoint.manifest.to_json()
    return publish(
        context,
        {digest_bytes(data): data},
        purpose=f"register base model {checkpoint.name}",
        commit=lambda connection: insert_base_model(connection, checkpoint, actor=context.actor),
    )


def _existing(connection: Connection, name: str, number: int) -> AdapterVersion:
    """Return the version that has the same content already, unless it was deleted."""
    reference = Reference(name=name, number=number)
    version = find_version(connection, reference, deleted=True)[1]
    if version.deleted_at is not None:
        raise ConflictError(
            f"{reference} has the same content and was deleted; bring it back with: "
            f"dovetail restore {reference}",
            name=name,
            number=number,
        )
    return version


def _find_or_read_base(
    context: Context, base: str | os.PathLike[str] | BaseModel, progress: Progress | None
) -> BaseCheckpoint:
    """Take the base model from a directory, or from what the registry knows of it."""
    if isinstance(base, os.PathLike) or (isinstance(base, str) and is_directory(base)):
        return _storable(read_base(base, cache_dir=context.cache_dir, progress=progress))
    known = base if isinstance(base, BaseModel) else _find_base(context, base)
    return BaseCheckpoint(
        directory=Path(known.location) if known.location else None,
        manifest=_known_manifest(context, known),
        name=known.name,
        revision=known.revision,
        architecture=known.architecture,
        model_type=known.model_type,
        hidden_size=known.hidden_size,
        vocab_size=None,
        parameter_count=known.parameter_count,
        dtype=known.dtype,
        tokenizer_digest=known.tokenizer_digest,
    )


def _known_manifest(context: Context, known: BaseModel) -> Manifest:
    try:
        return load_manifest(context, known)
    except StorageError as error:
        with context.database.asking() as connection:
            if known_base_model(connection, known.fingerprint) is not None:
                raise
        raise BaseModelNotFound(
            f"base model {known.name!r} ({known.fingerprint[:19]}…) is known to another registry "
            "and not to this one; add it first: dovetail base add DIRECTORY",
            value=known.fingerprint,
        ) from error


def _find_base(context: Context, base: str) -> BaseModel:
    try:
        with context.database.asking() as connection:
            return find_base_model(connection, base)[1]
    except BaseModelNotFound as error:
        raise BaseModelNotFound(
            f"base model {base!r} is neither a directory nor a registered base model; give the "
            "directory of its checkpoint, or see: dovetail base list",
            value=base,
        ) from error


def _storable(checkpoint: BaseCheckpoint) -> BaseCheckpoint:
    """Check that a database can keep what a base model is called and where it lies."""
    check_text(checkpoint.name, what="the base model's name")
    check_text(checkpoint.revision, what="the base model's revision")
    check_text(str(checkpoint.directory), what="the path of the base model")
    return checkpoint
