"""Export: adapters with versions, evaluations, aliases, history and files, into one bundle."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, select

from dovetail.errors import AdapterNotFound, DigestMismatch, InvalidInput
from dovetail.registry.context import Context
from dovetail.registry.digests import digest_bytes
from dovetail.registry.events import find_broken_link
from dovetail.registry.jsontext import canonical_json
from dovetail.registry.progress import Progress
from dovetail.registry.reading import find_adapter_id, find_version
from dovetail.registry.reference import Reference, check_name
from dovetail.registry.schema import AdapterRow, BaseModelRow, BlobRow
from dovetail.registry.transport.bundle import format_contents
from dovetail.registry.transport.documents import AdapterDocument, BaseDocument, to_json
from dovetail.registry.transport.parsing import MAX_DOCUMENT_BYTES
from dovetail.registry.transport.snapshot import read_adapter, read_base, up_to
from dovetail.registry.transport.writing import Writer, open_writer

_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A bundle that was written.

    Attributes:
        path: Where it is.
        digest: Digest of its contents, to compare with what the import says.
        versions: How many versions of each adapter it holds, from the first on.
        base_models: Names of the base models that they were trained or measured on.
        left_out: Aliases that were not taken along, because their history names later versions.
        blobs: How many files it holds.
        bytes: Their size together.
    """

    path: Path
    digest: str
    versions: Mapping[str, int]
    base_models: tuple[str, ...]
    left_out: tuple[str, ...]
    blobs: int
    bytes: int


@dataclass(slots=True)
class _Selection:
    """What goes into a bundle: documents by subject, and the blobs that they name."""

    base_models: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    blobs: dict[str, str] = field(default_factory=dict)
    """Digest to what needs it, in words."""


def export_bundle(
    context: Context,
    references: Sequence[str | Reference] | None,
    to: str | os.PathLike[str],
    *,
    progress: Progress | None,
) -> Export:
    """Write a bundle; see `dovetail.registry.store.Registry.export`."""
    with open_writer(to) as writer:
        with context.database.reading() as connection:
            _check_history(connection)
        with context.database.reading() as connection:
            chosen = _choose(connection, references)
            selection = _write_documents(connection, chosen, writer, everything=references is None)
            sizes = _sizes(connection, list(selection.blobs))
        _write_blobs(context, selection.blobs, sizes, writer, progress)
        manifest = format_contents(selection.base_models, selection.adapters)
        writer.finish(canonical_json(manifest))
    return Export(
        path=Path(to),
        digest=manifest["digest"],
        versions=selection.versions,
        base_models=tuple(selection.names),
        left_out=tuple(selection.left_out),
        blobs=len(sizes),
        bytes=sum(sizes.values()),
    )


def _check_history(connection: Connection) -> None:
    broken = find_broken_link(connection)
    if broken is not None:
        raise DigestMismatch(
            f"the history was changed: {broken}; nothing was exported. Compare with a backup",
            position=broken.position,
        )


def _choose(
    connection: Connection, references: Sequence[str | Reference] | None
) -> dict[str, int | None]:
    """Return the adapters, each with its last version to take, or None for all of them."""
    if references is None:
        names = connection.execute(select(AdapterRow.name).order_by(AdapterRow.name))
        return dict.fromkeys(names.scalars())
    if not references:
        raise InvalidInput("nothing to export was named; name adapters, or export all")
    chosen: dict[str, int | None] = {}
    for asked in references:
        if isinstance(asked, Reference) or "@" in asked or "/" in asked:
            reference = asked if isinstance(asked, Reference) else Reference.parse(asked)
            version = find_version(connection, reference, deleted=True)[1]
            before = chosen.get(version.name, 0)
            chosen[version.name] = None if before is None else max(before, version.number)
        else:
            find_adapter_id(connection, check_name(asked), deleted=True)
            chosen[asked] = None
    return dict(sorted(chosen.items()))


def _write_documents(
    connection: Connection,
    chosen: Mapping[str, int | None],
    writer: Writer,
    *,
    everything: bool,
) -> _Selection:
    selection = _Selection()
    prints: set[str] = set()
    for name, last in chosen.items():
        document = read_adapter(connection, name)
        if document is None:
            raise AdapterNotFound(f"there is no adapter {name!r}", name=name)
        if last is not None:
            document, lost = up_to(document, last)
            selection.left_out += [f"{name}@{alias}" for alias in lost]
        selection.versions[name] = len(document.versions)
        selection.adapters[name] = _write(writer, document)
        selection.blobs |= _blobs_of(document)
        prints |= {version.base_model for version in document.versions}
        prints |= {evaluation.base_model for evaluation in document.evaluations}
    query = select(BaseModelRow.fingerprint).order_by(BaseModelRow.id)
    for fingerprint in connection.execute(query).scalars().all():
        if everything or fingerprint in prints:
            base = read_base(connection, fingerprint)
            selection.names.append(base.base.name)
            selection.base_models[fingerprint] = _write(writer, base)
            selection.blobs |= _blobs_of(base)
    return selection


def _write(writer: Writer, document: AdapterDocument | BaseDocument) -> str:
    data = to_json(document)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidInput(
            f"what is known of one adapter takes {len(data):,} bytes; at most "
            f"{MAX_DOCUMENT_BYTES:,} can be exported. Export fewer versions: NAME/NUMBER"
        )
    digest = digest_bytes(data)
    if not writer.holds(digest, len(data)):
        writer.add(digest, len(data), io.BytesIO(data))
    return digest


def _blobs_of(document: AdapterDocument | BaseDocument) -> dict[str, str]:
    return dict(_labels(document))


def _labels(document: AdapterDocument | BaseDocument) -> Iterator[tuple[str, str]]:
    if isinstance(document, BaseDocument):
        yield document.base.manifest_digest, f"the manifest of base model {document.base.name!r}"
        subject = f"base model {document.base.name!r}"
    else:
        subject = document.name
        for version in document.versions:
            yield from ((f.digest, f"{f.path} of {version.reference}") for f in version.files)
    for each in document.evaluations:
        if each.examples_digest is not None:
            yield each.examples_digest, f"an evaluation of {subject} on {each.dataset_name}"


def _sizes(connection: Connection, digests: Sequence[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for start in range(0, len(digests), _BATCH):
        some = digests[start : start + _BATCH]
        query = select(BlobRow.digest, BlobRow.size).where(BlobRow.digest.in_(some))
        sizes.update((row.digest, row.size) for row in connection.execute(query))
    return sizes


def _write_blobs(
    context: Context,
    blobs: Mapping[str, str],
    sizes: Mapping[str, int],
    writer: Writer,
    progress: Progress | None,
) -> None:
    done, total = 0, sum(sizes.values())
    for digest, needed_by in blobs.items():
        if not writer.holds(digest, sizes[digest]):
            with contextlib.closing(context.objects.open(digest)) as stream:
                try:
                    writer.add(digest, sizes[digest], stream)
                except DigestMismatch as error:
                    raise DigestMismatch(
                        f"{needed_by} is corrupt in {context.objects.url}; nothing was exported. "
                        "Look at it with: dovetail verify",
                        **error.data,
                    ) from error
        done += sizes[digest]
        if progress is not None:
            progress(done, total)
