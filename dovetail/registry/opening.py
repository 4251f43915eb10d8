"""From settings to an open database and object store."""

from __future__ import annotations

from dovetail.registry.checks import check_text
from dovetail.registry.database import Database
from dovetail.registry.objects import ObjectStore, open_object_store
from dovetail.settings import Settings


def open_backends(settings: Settings) -> tuple[Database, ObjectStore]:
    """Open the database, making a SQLite file that does not exist, and the object store.

    Raises:
        InvalidInput: A URL or the actor's name cannot be used.
        StorageError: The database cannot be opened, or has another schema.
    """
    check_text(settings.actor, what="the actor's name")
    objects = open_object_store(settings.objects_url)
    database = Database(
        settings.database_url,
        pool_size=settings.database_pool_size,
        timeout_s=settings.database_timeout_s,
    )
    try:
        database.prepare()
    except BaseException:  # an interrupt, too, leaves no connection
        database.close()
        raise
    return database, objects
