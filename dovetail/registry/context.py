"""What every step of the registry works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dovetail.registry.database import Database
from dovetail.registry.objects import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """An open database, an object store, a cache directory, and who is acting."""

    database: Database
    objects: ObjectStore
    cache_dir: Path
    actor: str
