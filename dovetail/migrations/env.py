"""Alembic's entry point: run migrations on the connection that the caller hands over."""

from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from dovetail.registry.schema import Table, UtcDateTime


def _render_item(kind: str, item: object, _context: AutogenContext) -> str | Literal[False]:
    """Write our own column type as the plain one: a migration must not change with the code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
    render_item=_render_item,
    transactional_ddl=False,  # the caller's transaction holds it all
)
context.run_migrations()
