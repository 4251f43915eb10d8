"""Publishing intents, garbage marks, and where imported events came from.

Revision 0002, after 0001, made 2026-11-21 04:24:20.700939.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up to this revision."""
    op.create_table(
        "garbage",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("marked_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("size >= 0", name=op.f("ck_garbage_size_not_negative")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_garbage")),
    )
    op.create_table(
        "intents",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intents")),
    )
    op.create_index(op.f("ix_intents_expires_at"), "intents", ["expires_at"])
    op.create_table(
        "intent_blobs",
        sa.Column("intent_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(
            ["intent_id"],
            ["intents.id"],
            name=op.f("fk_intent_blobs_intent_id_intents"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("intent_id", "digest", name=op.f("pk_intent_blobs")),
    )
    op.create_index(op.f("ix_intent_blobs_digest"), "intent_blobs", ["digest"])
    op.add_column("events", sa.Column("origin", sa.String(length=71), nullable=True))
    op.create_index("uq_events_origin", "events", ["origin"], unique=True)
    _index_for_size()
    _collate("C")


def downgrade() -> None:
    """Go back to the revision before, unless that would lose something."""
    imported = sa.text("SELECT count(*) FROM events WHERE origin IS NOT NULL")
    count = op.get_bind().execute(imported).scalar()
    if count:
        raise ValueError(
            f"{count} events of the history were imported from another registry, which schema "
            "0001 cannot say; stay with schema 0002"
        )
    _collate("default")
    _drop_indices_for_size()
    op.drop_index("uq_events_origin", "events")
    op.drop_column("events", "origin")
    op.drop_table("intent_blobs")
    op.drop_table("intents")
    op.drop_table("garbage")


def _index_for_size() -> None:
    """Add the indices that make a page of anything quick among a million versions."""
    live = sa.text("deleted_at IS NULL")
    op.create_index(
        "ix_versions_live",
        "versions",
        ["adapter_id", "number"],
        sqlite_where=live,
        postgresql_where=live,
    )
    op.create_index(op.f("ix_versions_source_run"), "versions", ["source_run"])
    op.create_index("ix_aliases_alias", "aliases", ["alias", "version_id"])
    op.drop_index("ix_events_name_alias", "events")
    op.create_index("ix_events_name_alias", "events", ["name", "alias", "position"])
    op.create_index("ix_events_name", "events", ["name", "position"])


def _drop_indices_for_size() -> None:
    op.drop_index("ix_events_name", "events")
    op.drop_index("ix_events_name_alias", "events")
    op.create_index("ix_events_name_alias", "events", ["name", "alias"])
    op.drop_index("ix_aliases_alias", "aliases")
    op.drop_index(op.f("ix_versions_source_run"), "versions")
    op.drop_index("ix_versions_live", "versions")


def _collate(collation: str) -> None:
    """Let PostgreSQL compare and sort text in another way; SQLite goes by the bytes as it is."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    tables = sa.inspect(connection)
    for table in tables.get_table_names():
        for column in tables.get_columns(table) if table != "alembic_version" else ():
            kind = column["type"]
            if isinstance(kind, sa.String):
                sorted_so = type(kind)(kind.length, collation=collation)
                op.alter_column(table, column["name"], type_=sorted_so)
