"""Pulling by reference or digest, with the database or, when it is out of reach, without."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection

from dovetail.errors import NotFoundError, StorageError, VersionNotFound
from dovetail.registry.cache import PayloadCache
from dovetail.registry.context import Context
from dovetail.registry.digests import is_digest
from dovetail.registry.objects import ObjectStore, open_object_store
from dovetail.registry.offline import Answers, is_unreachable
from dovetail.registry.progress import Progress
from dovetail.registry.pulling import copy_from_cache, find_cached, pull_to, pull_to_cache
from dovetail.registry.reading import VERSIONS, find_version, load_versions
from dovetail.registry.records import AdapterVersion
from dovetail.registry.reference import Reference
from dovetail.registry.schema import VersionRow
from dovetail.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """Files that were pulled, and who said that they are what the reference names.

    Attributes:
        path: The directory.
        payload_digest: Identifies the files.
        version: The version; None for a digest that was found in the cache offline, if it is not
            known what version had it.
        offline: Whether the database could not be reached, so that this is what it said before.
        resolved_at: When it said so, in UTC; None if it was asked just now, or not needed.
        because: Why it could not be reached.
    """

    path: Path
    payload_digest: str
    version: AdapterVersion | None
    offline: bool
    resolved_at: datetime | None
    because: str | None = None

    @property
    def how(self) -> str:
        """Say in a sentence where the answer comes from."""
        named = self.version.reference if self.version else self.payload_digest
        if not self.offline:
            return f"{named}, as the database says"
        when = f", as looked up on {self.resolved_at:%Y-%m-%d %H:%M}Z" if self.resolved_at else ""
        why = f": {self.because}" if self.because else ""
        return f"offline, took {named}{when}; the database cannot be reached{why}"


class Puller:
    """Pulls versions of an open registry.

    Args:
        context: The registry.
        cache: Where shared copies are.
    """

    def __init__(self, context: Context, cache: PayloadCache) -> None:
        self._context = context
        self._cache = cache
        url = context.database.url.render_as_string(hide_password=False)
        self._answers = Answers(context.cache_dir, url)

    def pull(
        self,
        references: Sequence[str | Reference],
        to: Sequence[str | os.PathLike[str]] | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[Pulled]:
        """Pull versions, into a directory each or as shared copies; see `Registry.pull`."""
        keys = [_key(reference) for reference in references]
        places = [Path(place) for place in to] if to is not None else None
        try:
            versions = self._resolve(keys)
        except StorageError as error:
            if not is_unreachable(error):
                raise
            offline = _Offline(self._context.objects, self._cache, self._answers, because=error)
            return [
                offline.pull(key, place, progress=progress)
                for key, place in zip(
                    keys, places or itertools.repeat(None, len(keys)), strict=True
                )
            ]
        now = datetime.now(UTC)
        objects, cache = self._context.objects, self._cache
        if places is None:
            paths = pull_to_cache(objects, cache, versions, progress=progress)
        else:
            paths = pull_to(objects, cache, versions, places, progress=progress)
        for key, version in zip(keys, versions, strict=True):
            self._answers.remember(key, version, resolved_at=now)
        return [
            Pulled(
                path=path,
                payload_digest=version.payload_digest,
                version=version,
                offline=False,
                resolved_at=None,
            )
            for version, path in zip(versions, paths, strict=True)
        ]

    def fetch(self, version: AdapterVersion) -> Path:
        """Return the shared copy of a version; see `Registry.fetch`."""
        (path,) = pull_to_cache(self._context.objects, self._cache, [version])
        return path

    def _resolve(self, keys: Sequence[str]) -> list[AdapterVersion]:
        versions = []
        with self._context.database.reading() as connection:
            for key in keys:
                try:
                    versions.append(_find(connection, key))
                except NotFoundError:
                    self._answers.forget(key)
                    raise
        return versions


def pull_offline(
    reference: str | Reference,
    to: str | os.PathLike[str] | None = None,
    *,
    database_url: str | None = None,
    objects_url: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    because: StorageError | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Pull what a reference named when it was last pulled on this machine, without the database.

    For when `Registry.open` says that the database cannot be reached. An alias may have moved
    since: the result says when it was looked up. A payload digest names the same files for ever,
    and needs no more than that they are in the cache.

    Args:
        reference: Which version: a reference, or the digest of a payload.
        to: As for `Registry.pull`. The shared copy in the cache may be removed when other
            processes need the room and it was not used for longest.
        database_url: The database that is meant; None for the environment's.
        objects_url: Where files are fetched from if they are in the cache no longer.
        cache_dir: The cache.
        because: Why the database is not asked. An error that says something else than that it
            could not be reached is raised as it is.
        progress: As for `Registry.pull`.

    Raises:
        InvalidReference: The reference is malformed.
        ConflictError: The directory has something in it.
        StorageError: The reference was not pulled here before, or its files are out of reach.
    """
    if because is not None and not is_unreachable(because):
        raise because
    settings = Settings.from_env(
        database_url=database_url, objects_url=objects_url, cache_dir=cache_dir
    )
    cache = PayloadCache(settings.cache_dir, limit=settings.cache_size)
    offline = _Offline(
        open_object_store(settings.objects_url),
        cache,
        Answers(settings.cache_dir, settings.database_url),
        because=because,
    )
    try:
        return offline.pull(_key(reference), None if to is None else Path(to), progress=progress)
    finally:
        cache.close()


@dataclass(frozen=True, slots=True)
class _Offline:
    """Pulls what the database said before."""

    objects: ObjectStore
    cache: PayloadCache
    answers: Answers
    because: StorageError | None

    def pull(self, key: str, to: Path | None, *, progress: Progress | None) -> Pulled:
        answer = self.answers.recall(key)
        version = answer.version if answer else None
        if version is not None:
            digest = version.payload_digest
            path: Path | None = (
                pull_to_cache(self.objects, self.cache, [version], progress=progress)[0]
                if to is None
                else pull_to(self.objects, self.cache, [version], [to], progress=progress)[0]
            )
        elif is_digest(key):
            digest = key
            path = (
                find_cached(self.cache, key) if to is None else copy_from_cache(self.cache, key, to)
            )
        else:
            path = None
        if path is None:
            raise self._not_here(key) from self.because
        return Pulled(
            path=path,
            payload_digest=digest,
            version=version,
            offline=True,
            resolved_at=answer.resolved_at if answer else None,
            because=str(self.because) if self.because else None,
        )

    def _not_here(self, key: str) -> StorageError:
        why = f"{self.because}; " if self.because else ""
        return StorageError(
            f"{why}{key} cannot be pulled without the database, because it was not pulled on this "
            f"machine before or is in the cache at {str(self.cache.directory)!r} no longer",
            reference=key,
        )


def _key(reference: str | Reference) -> str:
    """Return the one way to write a reference; a digest stays what it is."""
    if isinstance(reference, str) and is_digest(reference):
        return reference
    return str(Reference.parse(str(reference)))


def _find(connection: Connection, key: str) -> AdapterVersion:
    if not is_digest(key):
        return find_version(connection, Reference.parse(key))[1]
    query = VERSIONS.where(VersionRow.payload_digest == key, VersionRow.deleted_at.is_(None))
    found = load_versions(connection, query.order_by(VersionRow.id).limit(1))
    if not found:
        raise VersionNotFound(
            f"no version has the payload {key}; see what there is with: dovetail list",
            payload_digest=key,
        )
    return found[0]
