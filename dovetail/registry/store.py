"""The registry: one object through which adapters are registered, found, promoted and pulled.

This is the public interface and its reference documentation, so it is long; the work is done in
the modules beside it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Connection

from dovetail.registry import deletion, editing, evaluations, promotion, publishing
from dovetail.registry.cache import PayloadCache
from dovetail.registry.collection import DEFAULT_GRACE, Collection, collect_garbage
from dovetail.registry.comparison import Comparison, compare_versions
from dovetail.registry.context import Context
from dovetail.registry.database import Database
from dovetail.registry.editing import Edit
from dovetail.registry.events import append_event, find_broken_link, read_events
from dovetail.registry.intents import LEASE
from dovetail.registry.listing import list_versions, load_adapters
from dovetail.registry.manifest import Manifest
from dovetail.registry.metadata import Metadata
from dovetail.registry.objects import ObjectStore, open_object_store
from dovetail.registry.opening import open_backends
from dovetail.registry.progress import Progress
from dovetail.registry.promotion import Promotion
from dovetail.registry.publishing import Registration
from dovetail.registry.puller import Pulled, Puller
from dovetail.registry.reading import (
    find_adapter_id,
    find_base_model,
    find_version,
    load_base_models,
)
from dovetail.registry.records import (
    Adapter,
    AdapterVersion,
    BaseModel,
    BrokenLink,
    Evaluation,
    Event,
    Score,
)
from dovetail.registry.reference import Reference, check_name
from dovetail.registry.scoreboard import RegistryScoreboard
from dovetail.registry.search import Page, search_versions
from dovetail.settings import Settings

if TYPE_CHECKING:
    from dovetail.registry.notifying import Notifier
    from dovetail.registry.transport.exporting import Export
    from dovetail.registry.transport.importing import Import
    from dovetail.registry.verifying import Verification

logger = logging.getLogger(__name__)


class Registry:
    """A versioned registry of adapters on a SQL database and an object store.

    Use it as a context manager, or call `close`. Safe to use from several processes at once.

    Args:
        database: The database; its schema must be right (see `open`).
        objects: Where blobs are kept.
        settings: The cache directory, and on whose behalf things are done.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     url = f"sqlite:///{place}/registry.db"
        ...     with Registry.open(url, f"file://{place}/objects") as registry:
        ...         registry.adapters()
        []
    """

    def __init__(self, database: Database, objects: ObjectStore, settings: Settings) -> None:
        self.settings = settings
        self._context = Context(
            database=database,
            objects=objects,
            cache_dir=settings.cache_dir,
            actor=settings.actor,
        )
        self._cache = PayloadCache(settings.cache_dir, limit=settings.cache_size)
        self._puller = Puller(self._context, self._cache)

    @classmethod
    def open(
        cls,
        database_url: str | None = None,
        objects_url: str | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        actor: str | None = None,
    ) -> Self:
        """Open a registry; what is not given comes from the environment (`dovetail.settings`).

        A SQLite file that does not exist is made.

        Raises:
            InvalidInput: A URL or the actor's name cannot be used.
            StorageError: The database cannot be opened, or has another schema.
        """
        settings = Settings.from_env(
            database_url=database_url, objects_url=objects_url, cache_dir=cache_dir, actor=actor
        )
        database, objects = open_backends(settings)
        return cls(database, objects, settings)

    def close(self) -> None:
        """Close the database's connections; shared copies from `pull` may go from now on."""
        self._cache.close()
        self._context.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Registering

    def register(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | BaseModel,
        task: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        input_template: str | None = None,
        generation_config: Mapping[str, Any] | None = None,
        scores: Mapping[str, float] | None = None,
        source_run: str | None = None,
        version_description: str | None = None,
        version_tags: Mapping[str, str] | None = None,
        exclude: Sequence[str] = (),
        progress: Progress | None = None,
        upload_progress: Progress | None = None,
    ) -> Registration:
        """Add a version: an adapter directory's files, its base model, and how it came about.

        Identical content under the same name and base gives the version that exists, as it is.
        Under the name of a deleted adapter, the name comes back and its numbers go on.

        Args:
            name: Adapter name; made on first use.
            path: Directory that PEFT's ``save_pretrained`` wrote.
            base: Directory of the base model, or fingerprint, name or record of a registered one.
            task: Pipeline tag such as ``summarization``.
            description: Free text about the adapter.
            tags: Free key-value pairs of the adapter; added to those it has.
            hyperparameters: What the training run used.
            input_template: Template of the training inputs: ``Summarise: {dialogue}``.
            generation_config: Generation defaults: ``{"max_new_tokens": 32}``.
            scores: Scores from the training run, recorded as reported.
            source_run: Identifier of the training run.
            version_description: Free text about this version.
            version_tags: Free key-value pairs of this version.
            exclude: File name patterns in the directory to leave out.
            progress: Called while the base model is hashed.
            upload_progress: Called while the files are written to the object store.

        Raises:
            InvalidReference: The name is not allowed.
            InvalidPayload: The directory is damaged, unsafe or incomplete.
            InvalidInput: A score, tag, template or hyperparameter cannot be kept.
            IncompatibleBaseModel: The adapter does not fit the base model.
            BaseModelNotFound: The base model is neither a directory nor registered.
            ConflictError: The name is for another task, or the same content was deleted.
            StorageError: The registry cannot be written.
        """
        metadata = Metadata.checked(
            task=task,
            description=description,
            tags=tags,
            hyperparameters=hyperparameters,
            input_template=input_template,
            generation_config=generation_config,
            scores=scores,
            source_run=source_run,
            version_description=version_description,
            version_tags=version_tags,
        )
        return publishing.register_version(
            self._context,
            name,
            path,
            base=base,
            metadata=metadata,
            exclude=exclude,
            progress=progress,
            upload_progress=upload_progress,
        )

    def register_base(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        revision: str | None = None,
        progress: Progress | None = None,
    ) -> BaseModel:
        """Add a base model by the checkpoint in a directory; the weights are not copied.

        Raises:
            BaseModelNotFound: There is no checkpoint.
            InvalidPayload: The checkpoint is damaged.
        """
        return publishing.register_base(
            self._context, path, name=name, revision=revision, progress=progress
        )

    def register_base_document(self, document: Mapping[str, Any]) -> BaseModel:
        """Add a base model by what another registry knows of it; no weights are needed.

        One that is known already stays as it is.

        Args:
            document: What `base_document` returned, perhaps read from a file.

        Raises:
            InvalidPayload: It is no such document, or its manifest tells of another model.
        """
        from dovetail.registry.basedocument import read_base_document

        return publishing.add_base(self._context, read_base_document(document))

    # Looking around

    def resolve(self, reference: str | Reference) -> AdapterVersion:
        """Return the version that a reference names now.

        Raises:
            InvalidReference: It is malformed, or a bare name.
            NotFoundError: There is no such adapter, version or alias.
        """
        with self._context.database.reading() as connection:
            return find_version(connection, _parsed(reference))[1]

    def adapter(self, name: str) -> Adapter:
        """Return one adapter.

        Raises:
            AdapterNotFound: There is none with this name.
        """
        with self._context.database.reading() as connection:
            return load_adapters(connection, name=check_name(name))[0]

    def adapters(
        self, *, prefix: str = "", limit: int | None = None, after: str = ""
    ) -> list[Adapter]:
        """Return adapters by name: all, or a page of them.

        Args:
            prefix: Only those whose names begin so.
            limit: Only so many.
            after: Only those after this name, for the next page.

        Raises:
            InvalidInput: The limit is below 1.
        """
        with self._context.database.reading() as connection:
            return load_adapters(connection, prefix=prefix, limit=limit, after=after)

    def versions(
        self,
        name: str,
        *,
        deleted: bool = False,
        limit: int | None = None,
        before: int | None = None,
    ) -> list[AdapterVersion]:
        """Return an adapter's versions from the newest to the oldest: all, or a page of them.

        Args:
            name: The adapter.
            deleted: Whether deleted versions are among them.
            limit: Only so many.
            before: Only those before this number, for the next page.

        Raises:
            AdapterNotFound: There is no adapter with this name.
            InvalidInput: The limit is below 1.
        """
        with self._context.database.reading() as connection:
            return list_versions(
                connection, check_name(name), deleted=deleted, limit=limit, before=before
            )

    def search(
        self,
        query: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        page_token: str | None = None,
    ) -> Page:
        """Find versions with a filter such as ``metrics.rougeL > 0.4 AND params.r = 16``.

        The language is described in `dovetail.registry.filters`.

        Raises:
            InvalidQuery: The filter, order, limit or token cannot be understood.
        """
        with self._context.database.reading() as connection:
            return search_versions(
                connection, query, order_by=order_by, limit=limit, page_token=page_token
            )

    def base_model(self, wanted: str) -> BaseModel:
        """Return a base model by fingerprint, the beginning of one, or name.

        Raises:
            BaseModelNotFound: There is none.
            InvalidReference: Several are meant.
        """
        with self._context.database.asking() as connection:
            return find_base_model(connection, wanted)[1]

    def base_models(self) -> list[BaseModel]:
        """Return all base models, the oldest first."""
        with self._context.database.reading() as connection:
            return load_base_models(connection)

    def base_manifest(self, wanted: str) -> Manifest:
        """Return the manifest of a base model: every tensor's name, type, shape and hash.

        Raises:
            BaseModelNotFound: There is no such base model.
            DigestMismatch: The stored manifest is corrupt.
        """
        return publishing.load_manifest(self._context, self.base_model(wanted))

    def base_document(self, wanted: str) -> dict[str, Any]:
        """Return all there is to know of a base model but its weights, as JSON values.

        Another registry takes it with `register_base_document`.

        Raises:
            BaseModelNotFound: There is no such base model.
            DigestMismatch: The stored manifest is corrupt.
        """
        from dovetail.registry.basedocument import write_base_document

        base = self.base_model(wanted)
        return write_base_document(base, publishing.load_manifest(self._context, base))

    def history(
        self, name: str | None = None, *, limit: int | None = None, before: int | None = None
    ) -> list[Event]:
        """Return what happened, from the oldest to the newest; to one adapter or to all.

        Args:
            name: Only what happened to this adapter.
            limit: Only so many events, the newest.
            before: Only events before this position, for the page before.

        Raises:
            AdapterNotFound: There is no adapter with this name.
            InvalidInput: The limit is below 1.
        """
        with self._context.database.reading() as connection:
            if name is not None:
                find_adapter_id(connection, check_name(name), deleted=True)
            return read_events(connection, name=name, limit=limit, before=before)

    def broken_history(self, *, progress: Progress | None = None) -> BrokenLink | None:
        """Check every event of the history; return the first that was tampered with, or None.

        Args:
            progress: Called with events done and events in all.
        """
        with self._context.database.reading() as connection:
            return find_broken_link(connection, progress=progress)

    # Files

    def pull(
        self,
        reference: str | Reference,
        to: str | os.PathLike[str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> Path:
        """Write a version's files to a directory and return it; every byte is verified.

        Files that are in the cache are not fetched again. When the database cannot be reached,
        what it said when the reference was last pulled on this machine is used, with a warning in
        the log; `pull_many` says so in what it returns, and `dovetail.pull_offline` does the same
        without an open registry.

        Args:
            reference: Which version; or the digest of a payload, for any version that has it.
            to: A directory that does not exist or is empty; None for a shared read-only copy in
                the cache, which stays there at least until this registry is closed.
            progress: Called with bytes done and bytes in all while files are fetched.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: The directory has something in it.
            DigestMismatch: A stored file is corrupt.
            StorageError: The database or the object store cannot be reached, and what is needed
                from it is not in the cache.
        """
        pulled = self._puller.pull([reference], None if to is None else [to], progress=progress)[0]
        if pulled.offline:
            logger.warning("%s: %s", reference, pulled.how)
        return pulled.path

    def pull_many(
        self,
        references: Sequence[str | Reference],
        to: Sequence[str | os.PathLike[str]] | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[Pulled]:
        """Pull several versions at once, and say how each was found; see `pull`.

        Args:
            references: Which versions.
            to: A directory for each, or None for shared copies in the cache.
            progress: Called with bytes done and bytes in all.
        """
        return self._puller.pull(references, to, progress=progress)

    def fetch(self, version: AdapterVersion) -> Path:
        """Return the shared read-only copy of a version that was looked up a moment ago.

        The database is not asked again, and nothing is kept for a time when it is out of reach.

        Args:
            version: What `resolve` returned.

        Raises:
            DigestMismatch: A stored file is corrupt.
            StorageError: The object store or the cache cannot be reached.
        """
        return self._puller.fetch(version)

    def note_base_mismatch(self, reference: str | Reference, *, attached_to: str) -> Event:
        """Write into the history that a version was attached to weights it was not trained on.

        The loader calls it when the caller allowed that by name.

        Args:
            reference: The version.
            attached_to: Fingerprint of the weights.

        Raises:
            NotFoundError: There is no such version.
        """

        def note(connection: Connection) -> Event:
            version = find_version(connection, _parsed(reference))[1]
            return append_event(
                connection,
                actor=self._context.actor,
                action="base-mismatch",
                name=version.name,
                number=version.number,
                details={"trained_on": version.base_model, "attached_to": attached_to},
            )

        return self._context.database.write(note)

    # Scores

    def record_evaluation(
        self,
        *,
        reference: str | Reference | None,
        base_model: str,
        dataset_name: str,
        dataset_digest: str,
        settings: Mapping[str, Any],
        library: str,
        n: int,
        scores: Mapping[str, Score],
        examples: bytes,
    ) -> Evaluation:
        """Write down scores that were measured, with how, and those of each example.

        Args:
            reference: The version, or None for the bare base model.
            base_model: Fingerprint of the weights it ran on.
            dataset_name: What people call the dataset.
            dataset_digest: Hash of the rows.
            settings: All that must be equal for two evaluations to be comparable.
            library: Metric library and version.
            n: Number of examples.
            scores: The metrics, by name.
            examples: Per-example scores, as `dovetail.registry.examples` formats them.

        Raises:
            InvalidInput: A score is NaN or infinite, or the settings are no JSON.
        """
        return evaluations.record_evaluation(
            self._context,
            reference=None if reference is None else _parsed(reference),
            base_model=base_model,
            dataset_name=dataset_name,
            dataset_digest=dataset_digest,
            settings=settings,
            library=library,
            n=n,
            scores=scores,
            examples=examples,
        )

    def evaluations(
        self, reference: str | Reference | None = None, *, base: str | None = None
    ) -> list[Evaluation]:
        """Return the evaluations of a version, of a bare base model, or all; newest first.

        Raises:
            NotFoundError: There is no such version or base model.
        """
        with self._context.database.reading() as connection:
            if reference is not None:
                version_id, _ = find_version(connection, _parsed(reference))
                return evaluations.load_evaluations(connection, version_id=version_id)
            if base is not None:
                _, model = find_base_model(connection, base)
                return evaluations.load_evaluations(connection, bare_base=model.fingerprint)
            return evaluations.load_evaluations(connection)

    def compare(self, first: str | Reference, second: str | Reference) -> Comparison:
        """Compare two versions: scores with the paired interval, hyperparameters, config.

        Raises:
            NotFoundError: There is no such version.
        """
        with self._context.database.reading() as connection:
            return compare_versions(
                find_version(connection, _parsed(first))[1],
                find_version(connection, _parsed(second))[1],
                RegistryScoreboard(connection, self._context.objects),
            )

    # Promotion

    def promote(
        self,
        reference: str | Reference,
        alias: str,
        *,
        require: Sequence[str] = (),
        force: bool = False,
        reason: str | None = None,
        notify: Sequence[str] = (),
    ) -> Promotion:
        """Point an alias to a version if it meets all requirements, stored and given.

        Args:
            reference: The version.
            alias: Such as ``production``.
            require: Requirements for this once: ``rougeL >= production``.
            force: Move the alias even if a requirement fails; needs a reason.
            reason: Why; kept in the history.
            notify: URLs that are told about the move by a request signed with
                ``DOVETAIL_NOTIFY_SECRET`` (`dovetail.registry.notifying`). One that cannot be told
                undoes nothing: ``notifications`` of what is returned says so, and the history.

        Raises:
            GateRefused: A requirement is not met; the attribute ``gates`` has all results.
            ConflictError: The alias moved in between.
            InvalidQuery: A requirement cannot be understood.
            InvalidInput: A URL to notify cannot be used, or there is no secret to sign with.
        """
        return promotion.promote_version(
            self._context,
            _parsed(reference),
            alias,
            require=require,
            force=force,
            reason=reason,
            notifier=self._notifier(notify),
        )

    def rollback(
        self,
        name: str,
        alias: str,
        *,
        reason: str | None = None,
        notify: Sequence[str] = (),
    ) -> Promotion:
        """Move an alias back to where it was before its last promotion; see `promote`.

        Raises:
            AliasNotFound: The alias is not set.
            ConflictError: It was nowhere before.
        """
        notifier = self._notifier(notify)
        return promotion.roll_back(self._context, name, alias, reason=reason, notifier=notifier)

    def _notifier(self, urls: Sequence[str]) -> Notifier | None:
        if not urls:
            return None
        from dovetail.registry.notifying import Notifier

        return Notifier(urls, secret=self.settings.notify_secret)

    def require(
        self, name: str, alias: str, requirements: Sequence[str], *, reason: str | None = None
    ) -> tuple[str, ...]:
        """Replace what an alias requires of every version promoted to it; none clears it.

        Raises:
            AdapterNotFound: There is no adapter with this name.
            InvalidQuery: A requirement cannot be understood.
        """
        return promotion.require(self._context, name, alias, requirements, reason=reason)

    def requirements(self, name: str, alias: str) -> tuple[str, ...]:
        """Return what an alias requires.

        Raises:
            AdapterNotFound: There is no adapter with this name.
        """
        return promotion.requirements_of(self._context, name, alias)

    def drop_alias(self, name: str, alias: str, *, reason: str | None = None) -> Promotion:
        """Take an alias away; what it requires stays stored, for the day it is set again.

        Nobody is notified of it; `promote` and `rollback` alone do that.

        Raises:
            AliasNotFound: The alias is not set.
            ConflictError: It was set at the same moment.
        """
        return promotion.drop_alias(self._context, name, alias, reason=reason)

    # Editing and deleting

    def edit_adapter(
        self,
        name: str,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        remove_tags: Sequence[str] = (),
        reason: str | None = None,
    ) -> Adapter:
        """Change an adapter's description and tags; the history keeps what they were.

        Args:
            name: The adapter.
            description: The new description; None leaves it.
            tags: Tags to add or change.
            remove_tags: Tags to take away, if they are there.
            reason: Why; kept in the history.

        Raises:
            AdapterNotFound: There is no adapter with this name.
            InvalidInput: A text cannot be kept.
        """
        edit = Edit.checked(description=description, tags=tags, remove_tags=remove_tags)
        return editing.edit_adapter(self._context, name, edit, reason=reason)

    def edit_version(
        self,
        reference: str | Reference,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        remove_tags: Sequence[str] = (),
        reason: str | None = None,
    ) -> AdapterVersion:
        """Change a version's own description and tags; see `edit_adapter`.

        Raises:
            NotFoundError: There is no such version.
            InvalidInput: A text cannot be kept.
        """
        edit = Edit.checked(description=description, tags=tags, remove_tags=remove_tags)
        return editing.edit_version(self._context, _parsed(reference), edit, reason=reason)

    def delete(self, reference: str | Reference, *, reason: str | None = None) -> AdapterVersion:
        """Hide a version from everything but `restore`; its number stays taken.

        Raises:
            ConflictError: An alias points to it.
            NotFoundError: There is no such version.
        """
        return deletion.delete_version(self._context, _parsed(reference), reason=reason)

    def delete_adapter(
        self, name: str, *, drop_aliases: bool = True, reason: str | None = None
    ) -> Adapter:
        """Hide an adapter with all of its versions, and drop its aliases; return what it was.

        Numbers stay taken, files and history are kept, and so are the requirements of its
        aliases. Restoring or registering a version brings the name back.

        Args:
            name: The adapter.
            drop_aliases: Whether it goes with aliases that are set; if not, it must have none.
            reason: Why; kept in the history.

        Raises:
            AdapterNotFound: There is no adapter with this name.
            ConflictError: An alias is set, and none is to be dropped.
        """
        return deletion.delete_adapter(
            self._context, name, drop_aliases=drop_aliases, reason=reason
        )

    def restore(self, reference: str | Reference, *, reason: str | None = None) -> AdapterVersion:
        """Bring a deleted version back, and its adapter, if that is deleted.

        Raises:
            NotFoundError: There is no such version.
        """
        return deletion.restore_version(self._context, _parsed(reference), reason=reason)

    # Looking after it

    def collect_garbage(
        self,
        *,
        grace: timedelta = DEFAULT_GRACE,
        unfinished_after: timedelta = LEASE,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Collection:
        """Remove blobs that nothing names, and what killed processes left half done.

        Blobs are marked first, and deleted by a later call, when they have been garbage for the
        grace period. It may run beside publishers, and several times at once. The object store
        must belong to this registry alone.

        Args:
            grace: How long a blob must have been garbage.
            unfinished_after: Age at which a half-written upload counts as abandoned.
            dry_run: Only say what would be done.
            progress: Called with blobs deleted and blobs to delete.

        Raises:
            StorageError: The database or the object store cannot be reached.
        """
        return collect_garbage(
            self._context,
            grace=grace,
            unfinished_after=unfinished_after,
            dry_run=dry_run,
            progress=progress,
        )

    def verify(
        self,
        reference: str | Reference | None = None,
        *,
        sample: float | None = None,
        repair_from: ObjectStore | str | None = None,
        progress: Progress | None = None,
    ) -> Verification:
        """Read stored blobs again, hash them, and say which are missing, corrupt or orphaned.

        Args:
            reference: Only what belongs to this version, deleted or not: its files, its base
                model's manifest and the scores of its examples.
            sample: Only some blobs, chosen at random: a whole number says how many, a fraction
                such as ``0.05`` which part.
            repair_from: Another object store, or its URL, to take good copies from.
            progress: Called while blobs are read.

        Raises:
            NotFoundError: There is no such version.
            InvalidInput: The sample is no number or fraction of blobs.
            StorageError: An object store cannot be reached. A store with nothing in it at all is
                taken for one that is not where it should be.
        """
        from dovetail.registry.verifying import verify_blobs

        return verify_blobs(
            self._context,
            None if reference is None else _parsed(reference),
            sample=sample,
            repair_from=(
                open_object_store(repair_from) if isinstance(repair_from, str) else repair_from
            ),
            progress=progress,
        )

    # Moving house

    def export(
        self,
        references: Sequence[str | Reference] | None,
        to: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
    ) -> Export:
        """Write adapters with all that belongs to them to a file or directory.

        Versions with their files, evaluations, aliases, requirements and history go along, and the
        base models; numbers, digests and times stay what they are.

        Args:
            references: Names of adapters; or references to versions, each of which stands for the
                versions from the first to that one. None for everything.
            to: A new zip file, if it ends in ``.zip``; else a new directory. A directory that was
                not finished is gone on with.
            progress: Called while files are written.

        Raises:
            NotFoundError: There is no such adapter or version.
            ConflictError: There is something at that place.
            DigestMismatch: A file is corrupt, or the history was changed.
            StorageError: Something cannot be read or written.
        """
        from dovetail.registry.transport.exporting import export_bundle

        return export_bundle(self._context, references, to, progress=progress)

    def import_bundle(
        self,
        path: str | os.PathLike[str],
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Import:
        """Add what `export` wrote in another registry; what is there already is left alone.

        Everything is checked as if it were registered, and nothing is written if anything is wrong
        or in the way. An import that was interrupted goes on when it is run again.

        Args:
            path: The file or directory.
            dry_run: Only check, and say what would be added.
            progress: Called while files are read and written.

        Raises:
            ConflictError: The two registries have gone apart; the attribute ``conflicts`` has a
                sentence for each difference.
            InvalidInput: It is no export, or one that no registry can have written.
            IncompatibleBaseModel: An adapter does not fit its base model.
            DigestMismatch: It is damaged.
            StorageError: The registry cannot be written.
        """
        from dovetail.registry.transport.importing import import_bundle

        return import_bundle(self._context, path, dry_run=dry_run, progress=progress)


def _parsed(reference: str | Reference) -> Reference:
    return reference if isinstance(reference, Reference) else Reference.parse(reference)
