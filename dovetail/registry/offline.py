"""What references named when they were last pulled, for when the database cannot be asked.

::

    resolved/<database>/<reference>.json   hashes of the database's URL, without its password, and
                                           of the reference

An answer may be out of date: an alias may have moved since. So each says when it was given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dovetail.errors import InvalidInput, StorageError
from dovetail.registry.database import SECRETS
from dovetail.registry.durable import replace_file
from dovetail.registry.jsontext import parse_json
from dovetail.registry.records import AdapterVersion, StoredFile

_FOLDER = "resolved"
_UNREACHABLE = (OperationalError, InterfaceError, PoolTimeoutError, sqlite3.OperationalError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The version that a reference named, and when, in UTC."""

    version: AdapterVersion
    resolved_at: datetime


class Answers:
    """The answers of one database, kept in a cache.

    Args:
        cache_dir: The cache directory.
        database_url: Which database; its password does not matter.
    """

    def __init__(self, cache_dir: Path, database_url: str) -> None:
        self._folder = cache_dir / _FOLDER / _hash(_identity(database_url))

    def remember(self, reference: str, version: AdapterVersion, *, resolved_at: datetime) -> None:
        """Keep an answer, for its number and digest too; failing to is no error."""
        fields = {**dataclasses.asdict(version), "resolved_at": resolved_at}
        text = json.dumps(fields, default=datetime.isoformat)
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            for key in {reference, str(version.reference), version.payload_digest}:
                replace_file(self._place(key), text.encode())

    def recall(self, reference: str) -> Answer | None:
        """Return the last answer for a reference; a damaged one counts as none."""
        return _read(self._place(reference))

    def forget(self, reference: str) -> None:
        """Drop an answer that holds no longer."""
        with contextlib.suppress(OSError):
            self._place(reference).unlink(missing_ok=True)

    def _place(self, reference: str) -> Path:
        return self._folder / f"{_hash(reference)}.json"


def forget_payloads(cache_dir: Path, digests: Collection[str]) -> None:
    """Drop the answers of all databases that name one of these payloads."""
    for place in (cache_dir / _FOLDER).glob("*/*.json"):
        answer = _read(place)
        if answer is None or answer.version.payload_digest in digests:
            place.unlink(missing_ok=True)


def is_unreachable(error: StorageError) -> bool:
    """Tell whether a database could not be asked, rather than gave an answer we cannot use."""
    return isinstance(error.__cause__, _UNREACHABLE)


def _read(place: Path) -> Answer | None:
    try:
        fields = parse_json(place.read_bytes(), what="a kept answer", allow_nonfinite=True)
        resolved_at = datetime.fromisoformat(fields.pop("resolved_at"))
        return Answer(version=_version(fields), resolved_at=resolved_at)
    except (OSError, InvalidInput, AttributeError, KeyError, TypeError, ValueError):
        return None


def _version(fields: dict[str, Any]) -> AdapterVersion:
    deleted_at = fields.pop("deleted_at")
    created_at = fields.pop("created_at")
    return AdapterVersion(
        created_at=datetime.fromisoformat(created_at),
        # Answers that were kept before schema 0003 have none.
        updated_at=datetime.fromisoformat(fields.pop("updated_at", created_at)),
        deleted_at=datetime.fromisoformat(deleted_at) if deleted_at else None,
        aliases=tuple(fields.pop("aliases")),
        files=tuple(StoredFile(**file) for file in fields.pop("files")),
        findings=tuple(fields.pop("findings")),
        **fields,
    )


def _identity(database_url: str) -> str:
    url = make_url(database_url)
    name = url.database
    if url.get_backend_name() == "sqlite" and name:
        name = str(Path(name).absolute())
    return (
        URL.create(
            url.drivername,
            url.username,
            host=url.host,
            port=url.port,
            database=name,
            query=url.query,
        )
        .difference_update_query(SECRETS)
        .render_as_string()
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
