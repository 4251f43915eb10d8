"""Where things are: read from the environment, with defaults that need no set-up.

==========================  =======================================  =============================
variable                    default                                  meaning
==========================  =======================================  =============================
``DOVETAIL_DATABASE_URL``   SQLite file in the user data directory   the registry's database
``DOVETAIL_OBJECTS_URL``    ``objects`` folder in the same place     where blobs are kept
``DOVETAIL_CACHE_DIR``      the user cache directory                 pulled payloads, manifests
``DOVETAIL_ACTOR``          the operating-system user                who the history names
==========================  =======================================  =============================
"""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import platformdirs

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the registry is, and on whose behalf it is used.

    Attributes:
        database_url: SQLAlchemy URL of the database.
        objects_url: URL of the object store: ``file:///directory``.
        cache_dir: Directory for what can be made again: pulled payloads and base manifests.
        actor: Who does things, for the history.
    """

    database_url: str
    objects_url: str
    cache_dir: Path
    actor: str

    @classmethod
    def from_env(
        cls,
        *,
        database_url: str | None = None,
        objects_url: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        actor: str | None = None,
    ) -> Self:
        """Read the settings from the environment; what is given here goes first."""
        env = os.environ
        data = Path(platformdirs.user_data_dir("dovetail", appauthor=False))
        return cls(
            database_url=database_url
            or env.get("DOVETAIL_DATABASE_URL")
            or _sqlite_url(data / "registry.db"),
            objects_url=objects_url
            or env.get("DOVETAIL_OBJECTS_URL")
            or (data / "objects").as_uri(),
            cache_dir=Path(
                cache_dir
                or env.get("DOVETAIL_CACHE_DIR")
                or platformdirs.user_cache_dir("dovetail", appauthor=False)
            ),
            actor=actor or env.get("DOVETAIL_ACTOR") or _system_user(),
        )


def _sqlite_url(file: Path) -> str:
    """Write a file's place as a URL, whatever characters it has."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def _system_user() -> str:
    """Name the operating-system user; a container's user id may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
