"""From the URI that MLflow is given to an open registry.

========================================  ======================================================
registry store URI                        registry
========================================  ======================================================
``dovetail://``                           that of the environment (`dovetail.settings`)
``dovetail+sqlite:////data/registry.db``  that SQLite file; blobs where the environment says
``dovetail+postgresql://user@host/db``    that PostgreSQL database; also ``+postgresql+psycopg``
``…?objects_url=s3://bucket/prefix``      blobs there, whatever the environment says
========================================  ======================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from dovetail.errors import InvalidInput
from dovetail.plugins.mlflow.whereabouts import SCHEME
from dovetail.registry.database import Database
from dovetail.registry.opening import open_backends
from dovetail.registry.store import Registry
from dovetail.settings import Settings

_OBJECTS = "objects_url"
_DRIVERS = {"postgresql": "postgresql+psycopg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A registry, and its database for reading that goes past `Registry`."""

    registry: Registry
    database: Database

    @classmethod
    def open(cls, store_uri: str | None) -> Self:
        """Open the registry of a store URI.

        Raises:
            InvalidInput: The URI cannot be understood.
            StorageError: The database cannot be opened, or has another schema.
        """
        settings = settings_of(store_uri)
        database, objects = open_backends(settings)
        return cls(registry=Registry(database, objects, settings), database=database)


def settings_of(store_uri: str | None) -> Settings:
    """Read a store URI; what it does not say comes from the environment.

    Raises:
        InvalidInput: It cannot be understood.

    Examples:
        >>> settings_of("dovetail+sqlite:////data/registry.db").database_url
        'sqlite:////data/registry.db'
        >>> settings_of("dovetail+postgresql://ann@db/adapters").database_url
        'postgresql+psycopg://ann@db/adapters'
    """
    scheme, separator, rest = (store_uri or f"{SCHEME}://").partition("://")
    if scheme == SCHEME and not rest:
        return Settings.from_env()
    kind = scheme.removeprefix(f"{SCHEME}+")
    if kind == scheme or not separator:
        raise _not_understood(scheme)
    try:
        url = make_url(f"{_DRIVERS.get(kind, kind)}://{rest}")
    except (ArgumentError, ValueError):
        raise _not_understood(scheme) from None  # it repeats what stands where the port should
    objects = url.query.get(_OBJECTS)
    if isinstance(objects, tuple):
        raise InvalidInput(
            f"registry store URI of scheme {scheme!r} gives {_OBJECTS} {len(objects)} times; "
            "give it once"
        )
    database = url.difference_update_query([_OBJECTS])
    return Settings.from_env(
        database_url=database.render_as_string(hide_password=False),
        objects_url=objects,
    )


def _not_understood(scheme: str) -> InvalidInput:
    """Return the error for a store URI; of that it shows the scheme, as it may have a password."""
    shown = scheme.partition(":")[0]
    return InvalidInput(
        f"registry store URI of scheme {shown!r} cannot be understood; write dovetail://, "
        "dovetail+sqlite:////path/to/registry.db or dovetail+postgresql://USER@HOST:PORT/DATABASE",
        value=shown,
    )
