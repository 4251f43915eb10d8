"""What the options before the command say about the registry."""

from __future__ import annotations

import gc
import importlib
import sys
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
        if "dovetail.registry.store" not in sys.modules:
            _import_quickly("dovetail.registry.store")
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


def _import_quickly(module: str) -> None:
    """Import a large module without looking for garbage meanwhile, of which importing makes none.

    It spares `dovetail show` a quarter of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module(module)
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


pass_connection = click.make_pass_decorator(Connection)
