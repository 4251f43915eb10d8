"""The tables, as SQLAlchemy 2 typed classes.

Rules that must hold are constraints here, not only in Python. Python objects of these classes
never leave the registry; `dovetail.registry.records` does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Insert,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy import Table as SqlTable
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

SCHEMA_REVISION = "0003"
"""The Alembic revision that this code works with."""


def _text(length: int | None = None) -> TypeEngine[str]:
    """Return text that every database compares and sorts by its bytes, as SQLite does."""
    kind = Text if length is None else String
    return kind(length).with_variant(kind(length, collation="C"), "postgresql")


_DIGEST = _text(71)
_NAME = _text(128)
# For rows of the schemas before, and for SQLite, which adds no column without a default that may
# not be missing; every insert says when.
_LONG_AGO = text("'1970-01-01 00:00:00+00'")

# SQLite counts up only a column declared exactly INTEGER PRIMARY KEY.
_BIG = BigInteger().with_variant(Integer(), "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC: aware in Python on every database, SQLite included."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC, without the zone where the database has none."""
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 (the signature is SQLAlchemy's)
        """Give the zone back."""
        if value is None or value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it as a class attribute)
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
    }


def table_of(row: type[Table]) -> SqlTable:
    """Return the plain table of a class: an insert into it goes without the ORM's detours."""
    return cast("SqlTable", row.__table__)


class InsertOrIgnore(Insert):
    """An insert of one row that does nothing where it would break a unique constraint.

    Both databases say so in the same words, but SQLAlchemy has a class for each.
    """

    inherit_cache = True


@compiles(InsertOrIgnore)
def _insert_or_ignore(element: InsertOrIgnore, compiler: Any, **options: Any) -> str:
    return f"{compiler.visit_insert(element, **options)} ON CONFLICT DO NOTHING"


def insert_or_ignore(row: type[Table]) -> InsertOrIgnore:
    """Start an insert that leaves a row which is there already as it is; its rowcount tells."""
    # Asking for the new row's key would add a clause after our words.
    return InsertOrIgnore(table_of(row)).inline().execution_options(preserve_rowcount=True)


class BlobRow(Table):
    """An immutable object that the registry refers to."""

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size_not_negative"),
        CheckConstraint("state IN ('present')", name="state_known"),
    )

    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(_text(16), default="present")
    created_at: Mapped[datetime]


class BaseModelRow(Table):
    """A frozen base model."""

    __tablename__ = "base_models"
    __table_args__ = (CheckConstraint("parameter_count >= 0", name="parameters_not_negative"),)

    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(_DIGEST, unique=True)
    name: Mapped[str] = mapped_column(_text(), index=True)
    location: Mapped[str | None] = mapped_column(_text())
    revision: Mapped[str | None] = mapped_column(_text())
    architecture: Mapped[str | None] = mapped_column(_text())
    model_type: Mapped[str | None] = mapped_column(_text())
    hidden_size: Mapped[int | None] = mapped_column(Integer)
    parameter_count: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str] = mapped_column(_text(16))
    tokenizer_digest: Mapped[str | None] = mapped_column(_DIGEST)
    manifest_digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest"))
    created_at: Mapped[datetime]


class AdapterRow(Table):
    """A registered name."""

    __tablename__ = "adapters"

    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    task: Mapped[str | None] = mapped_column(_text(64))
    description: Mapped[str] = mapped_column(_text(), default="")
    tags: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=_LONG_AGO)


class VersionRow(Table):
    """One immutable artifact under a name."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter_id", "number"),
        UniqueConstraint("adapter_id", "content_digest"),
        UniqueConstraint("id", "adapter_id"),
        CheckConstraint("number >= 1", name="number_positive"),
        CheckConstraint("parameter_count >= 0", name="parameters_not_negative"),
        # Those that are not deleted, by number: to count them, and to show the newest first.
        Index(
            "ix_versions_live",
            "adapter_id",
            "number",
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    number: Mapped[int] = mapped_column(Integer)
    base_model_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"), index=True)
    content_digest: Mapped[str] = mapped_column(_DIGEST)
    payload_digest: Mapped[str] = mapped_column(_DIGEST, index=True)
    peft_type: Mapped[str] = mapped_column(_text(64))
    config: Mapped[dict[str, Any]]
    hyperparameters: Mapped[dict[str, Any]]
    parameter_count: Mapped[int] = mapped_column(BigInteger)
    input_template: Mapped[str | None] = mapped_column(_text())
    generation_config: Mapped[dict[str, Any]]
    source_run: Mapped[str | None] = mapped_column(_text(), index=True)
    findings: Mapped[list[str]]
    created_by: Mapped[str] = mapped_column(_text())
    created_at: Mapped[datetime] = mapped_column(index=True)
    deleted_at: Mapped[datetime | None]
    description: Mapped[str] = mapped_column(_text(), default="", server_default=text("''"))
    tags: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))
    updated_at: Mapped[datetime] = mapped_column(index=True, server_default=_LONG_AGO)


class FileRow(Table):
    """One file of a version's payload."""

    __tablename__ = "files"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(_text(255), primary_key=True)
    blob: Mapped[str] = mapped_column(ForeignKey("blobs.digest"), index=True)


class EvaluationRow(Table):
    """Scores of one version, or of the bare base model, on one dataset."""

    __tablename__ = "evaluations"
    __table_args__ = (
        CheckConstraint("kind IN ('measured', 'reported')", name="kind_known"),
        CheckConstraint(
            "kind = 'reported' OR (dataset_digest IS NOT NULL AND settings_digest IS NOT NULL"
            " AND library IS NOT NULL AND n IS NOT NULL AND examples IS NOT NULL)",
            name="measured_says_how",
        ),
        CheckConstraint("n IS NULL OR n >= 1", name="n_positive"),
    )

    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"), index=True)
    base_model_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"), index=True)
    kind: Mapped[str] = mapped_column(_text(16))
    dataset_name: Mapped[str | None] = mapped_column(_text())
    dataset_digest: Mapped[str | None] = mapped_column(_DIGEST, index=True)
    settings: Mapped[dict[str, Any]]
    settings_digest: Mapped[str | None] = mapped_column(_DIGEST)
    library: Mapped[str | None] = mapped_column(_text())
    n: Mapped[int | None] = mapped_column(Integer)
    examples: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"), index=True)
    created_by: Mapped[str] = mapped_column(_text())
    created_at: Mapped[datetime]


class ScoreRow(Table):
    """One metric of one evaluation."""

    __tablename__ = "scores"
    __table_args__ = (
        Index("ix_scores_metric_value", "metric", "value", "evaluation_id"),
        # NaN is the one value that differs from itself; on PostgreSQL it is a value of its own.
        CheckConstraint("value = value AND value <> 'NaN'", name="value_is_a_number"),
    )

    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(_NAME, primary_key=True)
    value: Mapped[float] = mapped_column(Float(53))
    ci_low: Mapped[float | None] = mapped_column(Float(53))
    ci_high: Mapped[float | None] = mapped_column(Float(53))


class AliasRow(Table):
    """A movable name for a version."""

    __tablename__ = "aliases"
    __table_args__ = (
        # The version must be one of the same adapter.
        ForeignKeyConstraint(["version_id", "adapter_id"], ["versions.id", "versions.adapter_id"]),
        Index("ix_aliases_version_id", "version_id"),
        Index("ix_aliases_alias", "alias", "version_id"),
    )

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(_NAME, primary_key=True)
    version_id: Mapped[int] = mapped_column(_BIG)
    moved_at: Mapped[datetime]
    moved_by: Mapped[str] = mapped_column(_text())


class RequirementRow(Table):
    """A condition that is checked whenever an alias is about to move."""

    __tablename__ = "requirements"

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(_NAME, primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    requirement: Mapped[str] = mapped_column(_text())


class EventRow(Table):
    """One line of the append-only history; each carries the hash of the one before it."""

    __tablename__ = "events"
    __table_args__ = (
        # Each ends with the position, so that a page of the newest is read from its end.
        Index("ix_events_name", "name", "position"),
        Index("ix_events_name_alias", "name", "alias", "position"),
        # An index and no constraint: SQLite adds one without writing the table anew.
        Index("uq_events_origin", "origin", unique=True),
    )

    position: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=False)
    time: Mapped[datetime]
    actor: Mapped[str] = mapped_column(_text())
    action: Mapped[str] = mapped_column(_text(32))
    name: Mapped[str | None] = mapped_column(_NAME)
    number: Mapped[int | None] = mapped_column(Integer)
    alias: Mapped[str | None] = mapped_column(_NAME)
    previous: Mapped[int | None] = mapped_column(Integer)
    reason: Mapped[str | None] = mapped_column(_text())
    details: Mapped[dict[str, Any]]
    previous_hash: Mapped[str] = mapped_column(_DIGEST, unique=True)
    hash: Mapped[str] = mapped_column(_DIGEST, unique=True)
    origin: Mapped[str | None] = mapped_column(_DIGEST)
    """The event's hash in the registry that it was imported from."""


class IntentRow(Table):
    """Somebody is about to publish: blobs it names are spared by garbage collection."""

    __tablename__ = "intents"

    id: Mapped[str] = mapped_column(_text(32), primary_key=True)
    purpose: Mapped[str] = mapped_column(_text())
    actor: Mapped[str] = mapped_column(_text())
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class IntentBlobRow(Table):
    """One blob that a publisher is about to write, and then to name."""

    __tablename__ = "intent_blobs"

    intent_id: Mapped[str] = mapped_column(
        ForeignKey("intents.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True, index=True)


class GarbageRow(Table):
    """A blob that nothing named when garbage collection last looked."""

    __tablename__ = "garbage"
    __table_args__ = (CheckConstraint("size >= 0", name="size_not_negative"),)

    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    marked_at: Mapped[datetime]
