"""What the options before the command say about the registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dovetail.registry.database import Database
    from dovetail.registry.store import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach the registry; what is None comes from the environment."""

    database_url: str | None
    objects_url: str | None

    def open(self) -> Registry:
        """Open the registry."""
        from dovetail.registry.store import Registry

        return Registry.open(self.database_url, self.objects_url)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Open the database alone, whatever schema it has."""
        from dovetail.registry.database import Database
        from dovetail.settings import Settings

        database = Database(Settings.from_env(database_url=self.database_url).database_url)
        try:
            yield database
        finally:
            database.close()


pass_connection = click.make_pass_decorator(Connection)
