"""Import: what a bundle has and the registry has not is checked, then added.

First everything is read and checked, and every conflict found; nothing is written until then. Each
base model and each adapter is added by one transaction, with its history, so an import that was
killed goes on where it stopped when it is run again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from dovetail.errors import ConflictError
from dovetail.registry.context import Context
from dovetail.registry.inserting import insert_blobs
from dovetail.registry.intents import publish
from dovetail.registry.locking import lock_history
from dovetail.registry.metadata import Metadata
from dovetail.registry.owners import lock_adapter, lock_versions
from dovetail.registry.progress import Progress
from dovetail.registry.reading import known_base_model
from dovetail.registry.records import Evaluation
from dovetail.registry.transport.applying import (
    apply_adapter,
    apply_base,
    known_events,
)
from dovetail.registry.transport.bundle import Part, open_bundle
from dovetail.registry.transport.checking import check_base, check_evaluation, check_version
from dovetail.registry.transport.documents import AdapterDocument, BaseDocument
from dovetail.registry.transport.merging import plan_adapter
from dovetail.registry.transport.planning import AdapterPlan, BasePlan, plan_base
from dovetail.registry.transport.reader import Meter, Reader, bytes_of
from dovetail.registry.transport.snapshot import read_adapter, read_base

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedAdapter:
    """What an import added to one adapter.

    Attributes:
        name: The adapter.
        versions: Numbers of the versions that were added.
        evaluations: How many evaluations were added.
        aliases: Aliases that were set or moved, with the number that they point to now.
        events: How many lines were added to the history, besides that of the import.
    """

    name: str
    versions: tuple[int, ...]
    evaluations: int
    aliases: Mapping[str, int]
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What an import did, or would do.

    Attributes:
        path: The bundle.
        digest: Digest of its contents, as the export said.
        adapters: What was added; adapters that had everything are not in it.
        base_models: Names of the base models that were added.
        unchanged: Names of adapters that had everything already.
        dry_run: Whether nothing was changed.
    """

    path: Path
    digest: str
    adapters: tuple[ImportedAdapter, ...]
    base_models: tuple[str, ...]
    unchanged: tuple[str, ...]
    dry_run: bool


def import_bundle(
    context: Context,
    path: str | os.PathLike[str],
    *,
    dry_run: bool,
    progress: Progress | None,
) -> Import:
    """Add what a bundle holds; see `dovetail.registry.store.Registry.import_bundle`."""
    bundle = open_bundle(path)
    contents = bundle.contents()
    reader = Reader(bundle, contents)
    bases, plans = _plan(context, reader)
    meter = Meter(_bytes_ahead(reader, bases, plans, dry_run=dry_run), progress)
    _check(reader, bases, plans, meter)
    if not dry_run:
        for fingerprint, base_plan in bases.items():
            if base_plan.changes:
                _import_base(context, reader, fingerprint, base_plan, meter)
        for name, plan in plans.items():
            if plan.changes:
                _import_adapter(context, reader, name, plan, meter)
    return Import(
        path=Path(path),
        digest=contents.digest,
        adapters=tuple(_told(name, plan) for name, plan in plans.items() if plan.changes),
        base_models=tuple(
            reader.bases[fingerprint].base.name for fingerprint, plan in bases.items() if plan.added
        ),
        unchanged=tuple(name for name, plan in plans.items() if not plan.changes),
        dry_run=dry_run,
    )


def _plan(context: Context, reader: Reader) -> tuple[dict[str, BasePlan], dict[str, AdapterPlan]]:
    with context.database.reading() as connection:
        bases = {
            fingerprint: _plan_base(connection, document)
            for fingerprint, document in reader.bases.items()
        }
        plans = {
            name: _plan_adapter(connection, document) for name, document in reader.adapters.items()
        }
    _refuse_conflicts(conflict for plan in plans.values() for conflict in plan.conflicts)
    return bases, plans


def _plan_base(connection: Connection, document: BaseDocument) -> BasePlan:
    fingerprint = document.base.fingerprint
    known = known_base_model(connection, fingerprint)
    ours = read_base(connection, fingerprint) if known is not None else None
    return plan_base(ours, document, known=known_events(connection, document.events))


def _plan_adapter(connection: Connection, document: AdapterDocument) -> AdapterPlan:
    ours = read_adapter(connection, document.name)
    return plan_adapter(ours, document, known=known_events(connection, document.events))


def _refuse_conflicts(conflicts: Iterable[str]) -> None:
    found = tuple(conflicts)
    if found:
        raise ConflictError(
            f"the export and this registry have gone apart, so nothing was imported: "
            f"{'; '.join(found)}. Import it into another registry, or register these under "
            "another name",
            conflicts=found,
        )


def _check(
    reader: Reader,
    bases: Mapping[str, BasePlan],
    plans: Mapping[str, AdapterPlan],
    meter: Meter,
) -> None:
    """Check everything that is to be added, before anything is."""
    manifests = {}
    for fingerprint, base_plan in bases.items():
        manifests[fingerprint] = check_base(reader.bundle, reader.bases[fingerprint].base)
        _check_evaluations(reader, base_plan.evaluations, meter)
    for plan in plans.values():
        for version in plan.versions:
            base = bases[version.base_model].base
            check_version(reader.bundle, version, manifests[version.base_model], base)
            meter.add(reader.sources([version], []))
        _check_evaluations(reader, plan.evaluations, meter)


def _check_evaluations(reader: Reader, evaluations: Iterable[Evaluation], meter: Meter) -> None:
    for evaluation in evaluations:
        check_evaluation(reader.bundle, evaluation)
        meter.add(reader.sources([], [evaluation]))


def _import_base(
    context: Context, reader: Reader, fingerprint: str, plan: BasePlan, meter: Meter
) -> None:
    document = reader.bases[fingerprint]
    base = document.base
    sources = reader.base_sources(plan)

    def commit(connection: Connection) -> None:
        _name_blobs(connection, sources)
        lock_history(connection)
        plan = _plan_base(connection, document)
        if plan.changes:
            apply_base(connection, plan, base, actor=context.actor, digest=reader.digest)

    _publish(context, sources, f"import base model {base.name}", commit, meter)


def _import_adapter(
    context: Context, reader: Reader, name: str, plan: AdapterPlan, meter: Meter
) -> None:
    document = reader.adapters[name]
    sources = reader.sources(plan.versions, plan.evaluations)
    metadata = Metadata.checked(
        task=document.task,
        description=document.description,
        tags=document.tags,
        hyperparameters=None,
        input_template=None,
        generation_config=None,
        scores=None,
        source_run=None,
    )

    def commit(connection: Connection) -> None:
        adapter_id = lock_adapter(connection, name, metadata).id
        lock_versions(connection, adapter_id)
        _name_blobs(connection, sources)
        # From here on nothing can change that has a history. Whoever waits for it holds no lock
        # that is needed below: those were all taken above.
        lock_history(connection)
        plan = _plan_adapter(connection, document)
        _refuse_conflicts(plan.conflicts)
        if plan.changes:
            apply_adapter(
                connection,
                plan,
                document,
                adapter_id=adapter_id,
                actor=context.actor,
                digest=reader.digest,
            )

    _publish(context, sources, f"import {name}", commit, meter)


def _publish(
    context: Context,
    sources: Mapping[str, Part],
    purpose: str,
    commit: Callable[[Connection], T],
    meter: Meter,
) -> T:
    if not sources:
        return context.database.write(commit)
    done = publish(context, sources, purpose=purpose, commit=commit, progress=meter.within)
    meter.add(sources)
    return done


def _name_blobs(connection: Connection, sources: Mapping[str, Part]) -> None:
    if sources:
        sizes = {digest: part.size for digest, part in sources.items()}
        insert_blobs(connection, sizes, now=datetime.now(UTC))


def _bytes_ahead(
    reader: Reader,
    bases: Mapping[str, BasePlan],
    plans: Mapping[str, AdapterPlan],
    *,
    dry_run: bool,
) -> int:
    """Return how many bytes are to be read: to be checked, and then to be stored."""
    both: list[BasePlan | AdapterPlan] = [*bases.values(), *plans.values()]
    parts = [reader.sources([], [each]) for plan in both for each in plan.evaluations]
    parts += [reader.sources([each], []) for plan in plans.values() for each in plan.versions]
    if not dry_run:
        parts += [reader.base_sources(plan) for plan in bases.values()]
        parts += [reader.sources(plan.versions, plan.evaluations) for plan in plans.values()]
    return sum(map(bytes_of, parts))


def _told(name: str, plan: AdapterPlan) -> ImportedAdapter:
    return ImportedAdapter(
        name=name,
        versions=tuple(version.number for version in plan.versions),
        evaluations=len(plan.evaluations),
        aliases={pointer.alias: pointer.number for pointer in plan.aliases},
        events=len(plan.events),
    )
