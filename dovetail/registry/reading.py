"""From database rows to records: the queries that everything else shares."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    RowMapping,
    Select,
    bindparam,
    func,
    select,
)

from dovetail.errors import (
    AdapterNotFound,
    AliasNotFound,
    BaseModelNotFound,
    InvalidReference,
    VersionNotFound,
)
from dovetail.registry.conditions import unindexed
from dovetail.registry.dialects import IDS, is_among_ids
from dovetail.registry.records import AdapterVersion, BaseModel, StoredFile
from dovetail.registry.reference import LATEST, Reference
from dovetail.registry.schema import (
    AdapterRow,
    AliasRow,
    BaseModelRow,
    BlobRow,
    FileRow,
    VersionRow,
)

_MAX_VALUES = 10_000
_MIN_FINGERPRINT_PREFIX = len("sha256:") + 8

VERSIONS = (
    select(
        VersionRow.id,
        AdapterRow.name,
        VersionRow.number,
        AdapterRow.task,
        BaseModelRow.fingerprint.label("base_model"),
        BaseModelRow.name.label("base_model_name"),
        VersionRow.peft_type,
        VersionRow.config,
        VersionRow.hyperparameters,
        VersionRow.parameter_count,
        VersionRow.payload_digest,
        VersionRow.input_template,
        VersionRow.generation_config,
        VersionRow.source_run,
        VersionRow.created_by,
        VersionRow.created_at,
        VersionRow.deleted_at,
        VersionRow.description,
        VersionRow.tags,
        VersionRow.updated_at,
        VersionRow.findings,
    )
    .join(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
    .join(BaseModelRow, VersionRow.base_model_id == BaseModelRow.id)
)
"""Selects every version with what its record needs; add conditions and an order."""

_FIELDS = tuple(str(key) for key in VERSIONS.selected_columns.keys())[1:]  # noqa: SIM118 (no dict)

# Building a statement takes longer than running it, so those of every call are built once.
_OF_ADAPTER = VERSIONS.where(AdapterRow.name == bindparam("of_name"))
_BY_NUMBER = _OF_ADAPTER.where(VersionRow.number == bindparam("of_number", type_=BigInteger))
_BY_ALIAS = _OF_ADAPTER.join(
    AliasRow, (AliasRow.adapter_id == AdapterRow.id) & (AliasRow.version_id == VersionRow.id)
).where(AliasRow.alias == bindparam("of_alias"))
_NEWEST = (
    _OF_ADAPTER.where(VersionRow.deleted_at.is_(None)).order_by(VersionRow.number.desc()).limit(1)
)
_BASE_MODELS = select(*BaseModelRow.__table__.columns)
_BASE_MODEL = _BASE_MODELS.where(BaseModelRow.fingerprint == bindparam("of_fingerprint"))
_ADAPTER_ID = select(AdapterRow.id, AdapterRow.deleted_at).where(
    AdapterRow.name == bindparam("of_name")
)
# In order, but not by way of the index that has all of them in order.
_ALIASES = select(AliasRow.version_id, AliasRow.alias).order_by(unindexed(AliasRow.alias))
_FILES = (
    select(FileRow.version_id, FileRow.path, FileRow.blob, BlobRow.size)
    .join(BlobRow, FileRow.blob == BlobRow.digest)
    .order_by(FileRow.path)
)
_ALIASES_OF_ONE = _ALIASES.where(AliasRow.version_id == bindparam("of_version"))
_FILES_OF_ONE = _FILES.where(FileRow.version_id == bindparam("of_version"))
_MANY = VERSIONS.where(is_among_ids(VersionRow.id))
_ALIASES_OF_MANY = _ALIASES.where(is_among_ids(AliasRow.version_id))
_FILES_OF_MANY = _FILES.where(is_among_ids(FileRow.version_id))


def load_versions(connection: Connection, query: Select[Any]) -> list[AdapterVersion]:
    """Run a query made from `VERSIONS` and return its records, aliases and files included."""
    return _with_belongings(connection, connection.execute(query).all())


def load_versions_by_id(connection: Connection, ids: Sequence[int]) -> list[AdapterVersion]:
    """Return the records of versions by row id, in the order of the ids."""
    rows: dict[int, Row[Any]] = {}
    for chunk in chunks(ids):
        for row in connection.execute(_MANY, {IDS: chunk}).all():
            rows[row[0]] = row
    return _with_belongings(connection, [rows[number] for number in ids])


def _with_belongings(connection: Connection, rows: Sequence[Row[Any]]) -> list[AdapterVersion]:
    aliases: defaultdict[int, list[str]] = defaultdict(list)
    files: defaultdict[int, list[StoredFile]] = defaultdict(list)
    for chunk in chunks([row[0] for row in rows]):
        for version_id, alias in connection.execute(_ALIASES_OF_MANY, {IDS: chunk}).all():
            aliases[version_id].append(alias)
        for version_id, path, digest, size in connection.execute(
            _FILES_OF_MANY, {IDS: chunk}
        ).all():
            files[version_id].append(StoredFile(path=path, size=size, digest=digest))
    return [_version(row, aliases[row[0]], files[row[0]]) for row in rows]


def find_version(
    connection: Connection, reference: Reference, *, deleted: bool = False
) -> tuple[int, AdapterVersion]:
    """Return the row id and the record of the version that a reference names.

    Args:
        connection: An open transaction.
        reference: What to look up.
        deleted: Whether a deleted version counts.

    Raises:
        AdapterNotFound: There is no such adapter.
        AliasNotFound: The adapter has no such alias.
        VersionNotFound: The adapter has no such version, or it is deleted.
    """
    if reference.alias == LATEST:
        query = _NEWEST
    else:
        query = _BY_NUMBER if reference.alias is None else _BY_ALIAS
    row = connection.execute(
        query,
        {"of_name": reference.name, "of_number": reference.number, "of_alias": reference.alias},
    ).first()
    if row is None:
        raise _no_version(connection, reference, find_adapter_id(connection, reference.name))
    one = {"of_version": row[0]}
    version = _version(
        row,
        [alias for _, alias in connection.execute(_ALIASES_OF_ONE, one)],
        [
            StoredFile(path=path, size=size, digest=digest)
            for _, path, digest, size in connection.execute(_FILES_OF_ONE, one)
        ],
    )
    if version.deleted_at is not None and not deleted:
        raise VersionNotFound(
            f"{version.reference} was deleted on {version.deleted_at:%Y-%m-%d}; "
            f"bring it back with: dovetail restore {version.reference}",
            name=version.name,
            number=version.number,
        )
    return row[0], version


def find_adapter_id(connection: Connection, name: str, *, deleted: bool = False) -> int:
    """Return the row id of an adapter.

    Args:
        connection: An open transaction.
        name: Its name.
        deleted: Whether a deleted adapter counts.

    Raises:
        AdapterNotFound: There is none with this name, or it is deleted; the message names similar
            ones.
    """
    found = connection.execute(_ADAPTER_ID, {"of_name": name}).first()
    if found is not None and (deleted or found.deleted_at is None):
        return int(found.id)
    if found is not None:
        raise AdapterNotFound(
            f"adapter {name!r} was deleted on {found.deleted_at:%Y-%m-%d}; bring it back with: "
            f"dovetail restore {name}/NUMBER, or by registering a version",
            name=name,
        )
    live = AdapterRow.deleted_at.is_(None)
    names = connection.execute(select(AdapterRow.name).where(live)).scalars().all()
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see them with: dovetail list"
    raise AdapterNotFound(f"there is no adapter {name!r}; {hint}", name=name, similar=tuple(near))


def load_base_models(connection: Connection) -> list[BaseModel]:
    """Return all base models, the oldest first."""
    query = _BASE_MODELS.order_by(BaseModelRow.id)
    return [BaseModel(**without_id(row)) for row in connection.execute(query).mappings()]


def known_base_model(connection: Connection, fingerprint: str) -> tuple[int, BaseModel] | None:
    """Return the row id and record of the base model with this fingerprint, or None."""
    row = connection.execute(_BASE_MODEL, {"of_fingerprint": fingerprint}).mappings().first()
    return (row["id"], BaseModel(**without_id(row))) if row is not None else None


def find_base_model(connection: Connection, wanted: str) -> tuple[int, BaseModel]:
    """Return the row id and record of a base model.

    Args:
        connection: An open transaction.
        wanted: Its fingerprint, the beginning of one (8 digits or more), or its name.

    Raises:
        BaseModelNotFound: There is none.
        InvalidReference: More than one is meant.
    """
    query = _BASE_MODELS.order_by(BaseModelRow.id)
    if wanted.startswith("sha256:") and len(wanted) >= _MIN_FINGERPRINT_PREFIX:
        query = query.where(BaseModelRow.fingerprint.startswith(wanted, autoescape=True))
    else:
        query = query.where(BaseModelRow.name == wanted)
    rows = connection.execute(query).mappings().all()
    if not rows:
        raise BaseModelNotFound(
            f"there is no base model {wanted!r} in the registry; "
            "add it with: dovetail base add DIRECTORY",
            value=wanted,
        )
    if len(rows) > 1:
        prints = ", ".join(row["fingerprint"][:19] for row in rows)
        raise InvalidReference(
            f"{len(rows)} base models are called {wanted!r}; name one by its fingerprint: {prints}",
            value=wanted,
        )
    return rows[0]["id"], BaseModel(**without_id(rows[0]))


def _no_version(connection: Connection, reference: Reference, adapter_id: int) -> Exception:
    name = reference.name
    if reference.alias not in (None, LATEST):
        known = connection.execute(
            select(AliasRow.alias).where(AliasRow.adapter_id == adapter_id).order_by(AliasRow.alias)
        ).scalars()
        listed = ", ".join([LATEST, *known])
        return AliasNotFound(
            f"adapter {name!r} has no alias {reference.alias!r}; it has: {listed}",
            name=name,
            alias=reference.alias,
        )
    latest = connection.execute(
        select(func.max(VersionRow.number)).where(
            VersionRow.adapter_id == adapter_id, VersionRow.deleted_at.is_(None)
        )
    ).scalar()
    state = f"the latest is {latest}" if latest else "all of its versions are deleted"
    wanted = f"version {reference.number}" if reference.number else "version to call latest"
    return VersionNotFound(
        f"adapter {name!r} has no {wanted}; {state}", name=name, number=reference.number
    )


def chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split ids into as many as one statement may name."""
    for start in range(0, len(ids), _MAX_VALUES):
        yield ids[start : start + _MAX_VALUES]


def _version(row: Row[Any], aliases: Iterable[str], files: Iterable[StoredFile]) -> AdapterVersion:
    fields: dict[str, Any] = dict(zip(_FIELDS, row[1:], strict=True))
    fields["findings"] = tuple(fields["findings"])
    return AdapterVersion(**fields, aliases=tuple(aliases), files=tuple(files))


def without_id(row: RowMapping) -> dict[str, Any]:
    """Return a row's fields without the one that never leaves the registry."""
    return {str(key): value for key, value in row.items() if key != "id"}
