"""The database schema's history, run by Alembic; every call is part of the caller's transaction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Column, Connection, MetaData

__all__ = ["config", "differences", "downgrade", "first_revision", "roles_sql", "upgrade"]

_HERE = Path(__file__).parent


def config(connection: Connection | None) -> Config:
    """Make the Alembic configuration for a connection whose transaction the caller owns."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema up to a revision."""
    from alembic import command

    command.upgrade(config(connection), revision)


def downgrade(connection: Connection, revision: str = "-1") -> None:
    """Bring the schema down to a revision.

    Raises:
        ValueError: Something would be lost.
    """
    from alembic import command

    command.downgrade(config(connection), revision)


def first_revision() -> str | None:
    """Return the revision that every schema began with."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config(None)).get_base()


def differences(connection: Connection, expected: MetaData) -> list[str]:
    """Compare a database with the tables that the code expects; return what differs."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    options = {"compare_type": True, "compare_server_default": _default_differs}
    found = compare_metadata(MigrationContext.configure(connection, opts=options), expected)
    return [str(difference) for difference in found]


def _default_differs(
    _context: Any, _found: Any, column: Column[Any], default: str | None, _expected: Any, told: Any
) -> bool | None:
    """Compare defaults of JSON, which PostgreSQL itself does not; leave all others to Alembic."""
    from sqlalchemy import JSON

    if not isinstance(column.type, JSON):
        return None
    return (default or "").removesuffix("::json") != (told or "")


def roles_sql() -> str:
    """Return the SQL that makes PostgreSQL's roles and says what each may do."""
    return (_HERE / "roles.sql").read_text(encoding="utf-8")
