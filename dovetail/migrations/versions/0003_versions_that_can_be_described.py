"""Versions have a description and tags of their own; when they and adapters were last changed.

Revision 0003, after 0002, made 2026-11-21 12:40:11.218503.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up to this revision."""
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    for column in (
        sa.Column("description", text, server_default=sa.text("''"), nullable=False),
        sa.Column("tags", sa.JSON(), server_default=sa.text("'{}'"), nullable=False),
        _updated_at(),
    ):
        op.add_column("versions", column)
    op.add_column("adapters", _updated_at())
    op.execute("UPDATE versions SET updated_at = created_at")
    op.execute("UPDATE adapters SET updated_at = created_at")
    for moved in ("created_at", "deleted_at"):
        latest = f"(SELECT max({moved}) FROM versions WHERE adapter_id = adapters.id)"  # noqa: S608 (moved is one of two words of our own)
        op.execute(f"UPDATE adapters SET updated_at = {latest} WHERE updated_at < {latest}")  # noqa: S608 (our own words alone)
    # Before this revision nothing was hidden with its adapter, but it may have been gone back from.
    alive = "(SELECT adapter_id FROM versions WHERE deleted_at IS NULL)"
    op.execute(f"UPDATE adapters SET deleted_at = NULL WHERE id IN {alive}")  # noqa: S608 (our own words alone)
    op.create_index(op.f("ix_versions_updated_at"), "versions", ["updated_at"])


def downgrade() -> None:
    """Go back to the revision before, unless that would lose something."""
    versions = sa.table("versions", sa.column("description"), sa.column("tags", sa.JSON()))
    said = (versions.c.description != "") | (sa.cast(versions.c.tags, sa.Text()) != "{}")
    count = (
        op.get_bind().execute(sa.select(sa.func.count()).select_from(versions).where(said)).scalar()
    )
    if count:
        raise ValueError(
            f"{count} versions have a description or tags of their own, which schema 0002 cannot "
            "say; stay with schema 0003, or take them away with: dovetail edit"
        )
    op.drop_index(op.f("ix_versions_updated_at"), "versions")
    op.drop_column("adapters", "updated_at")
    for column in ("updated_at", "tags", "description"):
        op.drop_column("versions", column)


def _updated_at() -> sa.Column[Any]:
    # SQLite adds a column that is never missing only with a default; every row gets a time of its
    # own above.
    return sa.Column(
        "updated_at",
        sa.DateTime(timezone=True),
        server_default=sa.text("'1970-01-01 00:00:00+00'"),
        nullable=False,
    )
