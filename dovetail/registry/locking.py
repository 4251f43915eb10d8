"""Locks that writing transactions take, always in this order, and hold to their end.

1. the *blob lock*: shared by publishers that announce blobs, exclusive for who deletes some;
2. the row of an adapter, for who gives out the next version number;
3. the row of a version, for who points an alias to it or deletes it;
4. the *history lock*, for who appends to the chain of events, or replaces an alias's requirements.

On SQLite a writing transaction is alone from its beginning, so there is nothing to lock.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

_BLOBS, _HISTORY, _SCHEMA = 7_364_001, 7_364_002, 7_364_003
_SHARED = text("SELECT pg_advisory_xact_lock_shared(:key)")
_EXCLUSIVE = text("SELECT pg_advisory_xact_lock(:key)")


def lock_blobs(connection: Connection, *, exclusive: bool) -> None:
    """Keep garbage collection away, or, if exclusive, all publishers."""
    _lock(connection, _BLOBS, exclusive=exclusive)


def lock_history(connection: Connection) -> None:
    """Be the only one who appends to the history."""
    _lock(connection, _HISTORY, exclusive=True)


def lock_schema(connection: Connection) -> None:
    """Be the only one who changes the schema."""
    _lock(connection, _SCHEMA, exclusive=True)


def _lock(connection: Connection, key: int, *, exclusive: bool) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(_EXCLUSIVE if exclusive else _SHARED, {"key": key})
