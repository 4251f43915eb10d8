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
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_REVISION = "0001"
"""The Alembic revision that this code works with."""

_DIGEST = String(71)
_NAME = String(128)

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
        if value is None:
            return None
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


class BlobRow(Table):
    """An immutable object that the registry refers to."""

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size_not_negative"),
        CheckConstraint("state IN ('present')", name="state_known"),
    )

    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), default="present")
    created_at: Mapped[datetime]


class BaseModelRow(Table):
    """A frozen base model."""

    __tablename__ = "base_models"
    __table_args__ = (CheckConstraint("parameter_count >= 0", name="parameters_not_negative"),)

    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(_DIGEST, unique=True)
    name: Mapped[str] = mapped_column(Text, index=True)
    location: Mapped[str | None] = mapped_column(Text)
    revision: Mapped[str | None] = mapped_column(Text)
    architecture: Mapped[str | None] = mapped_column(Text)
    model_type: Mapped[str | None] = mapped_column(Text)
    hidden_size: Mapped[int | None] = mapped_column(Integer)
    parameter_count: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str] = mapped_column(String(16))
    tokenizer_digest: Mapped[str | None] = mapped_column(_DIGEST)
    manifest_digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest"))
    created_at: Mapped[datetime]


class AdapterRow(Table):
    """A registered name."""

    __tablename__ = "adapters"

    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    task: Mapped[str | None] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class VersionRow(Table):
    """One immutable artifact under a name."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter_id", "number"),
        UniqueConstraint("adapter_id", "content_digest"),
        UniqueConstraint("id", "adapter_id"),
        CheckConstraint("number >= 1", name="number_positive"),
        CheckConstraint("parameter_count >= 0", name="parameters_not_negative"),
    )

    id: Mapped[int] = mapped_column(_BIG, primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    number: Mapped[int] = mapped_column(Integer)
    base_model_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"), index=True)
    content_digest: Mapped[str] = mapped_column(_DIGEST)
    payload_digest: Mapped[str] = mapped_column(_DIGEST, index=True)
    peft_type: Mapped[str] = mapped_column(String(64))
    config: Mapped[dict[str, Any]]
    hyperparameters: Mapped[dict[str, Any]]
    parameter_count: Mapped[int] = mapped_column(BigInteger)
    input_template: Mapped[str | None] = mapped_column(Text)
    generation_config: Mapped[dict[str, Any]]
    source_run: Mapped[str | None] = mapped_column(Text)
    findings: Mapped[list[str]]
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(index=True)
    deleted_at: Mapped[datetime | None]


class FileRow(Table):
    """One file of a version's payload."""

    __tablename__ = "files"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
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
    kind: Mapped[str] = mapped_column(String(16))
    dataset_name: Mapped[str | None] = mapped_column(Text)
    dataset_digest: Mapped[str | None] = mapped_column(_DIGEST, index=True)
    settings: Mapped[dict[str, Any]]
    settings_digest: Mapped[str | None] = mapped_column(_DIGEST)
    library: Mapped[str | None] = mapped_column(Text)
    n: Mapped[int | None] = mapped_column(Integer)
    examples: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"), index=True)
    created_by: Mapped[str] = mapped_column(Text)
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
    )

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(_NAME, primary_key=True)
    version_id: Mapped[int] = mapped_column(_BIG)
    moved_at: Mapped[datetime]
    moved_by: Mapped[str] = mapped_column(Text)


class RequirementRow(Table):
    """A condition that is checked whenever an alias is about to move."""

    __tablename__ = "requirements"

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(_NAME, primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    requirement: Mapped[str] = mapped_column(Text)


class EventRow(Table):
    """One line of the append-only history; each carries the hash of the one before it."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_name_alias", "name", "alias"),)

    position: Mapped[int] = mapped_column(_BIG, primary_key=True, autoincrement=False)
    time: Mapped[datetime]
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(String(32))
    name: Mapped[str | None] = mapped_column(_NAME)
    number: Mapped[int | None] = mapped_column(Integer)
    alias: Mapped[str | None] = mapped_column(_NAME)
    previous: Mapped[int | None] = mapped_column(Integer)
    reason: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]]
    previous_hash: Mapped[str] = mapped_column(_DIGEST, unique=True)
    hash: Mapped[str] = mapped_column(_DIGEST, unique=True)
