"""Verification: stored blobs are read again and hashed; good copies can take the place of bad ones.

What the database names must be in the object store, byte for byte. What is in the object store and
named by nobody is garbage, and harmless.
"""

from __future__ import annotations

import heapq
import math
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection, func, select, union

from dovetail.errors import InvalidInput, StorageError
from dovetail.registry.context import Context
from dovetail.registry.damage import BadBlob, Blob, check_blob, replace_blob
from dovetail.registry.events import append_event
from dovetail.registry.naming import named_by
from dovetail.registry.objects import BlobInfo, ObjectStore
from dovetail.registry.progress import Progress
from dovetail.registry.reading import find_version
from dovetail.registry.reference import Reference
from dovetail.registry.schema import (
    BaseModelRow,
    BlobRow,
    EvaluationRow,
    FileRow,
    IntentBlobRow,
    VersionRow,
)

_THREADS = 8
_PAGE = 1_000  # blobs that are looked up at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What verification found.

    Attributes:
        checked: How many blobs were read.
        bytes_checked: Their size together, in bytes.
        missing: Blobs that are not there; after a repair, those that still are not.
        corrupt: Blobs that are there with other bytes; after a repair, those that still are.
        repaired: Blobs that were missing or corrupt and are good now.
        orphaned: Blobs that nothing names, for garbage collection. Looked for only when all are
            verified.
        announced: Blobs that somebody is about to publish. Likewise.
    """

    checked: int
    bytes_checked: int
    missing: tuple[BadBlob, ...]
    corrupt: tuple[BadBlob, ...]
    repaired: tuple[BadBlob, ...]
    orphaned: tuple[BlobInfo, ...]
    announced: tuple[BlobInfo, ...]

    @property
    def sound(self) -> bool:
        """Whether every blob that was checked is good now."""
        return not (self.missing or self.corrupt)


def verify_blobs(
    context: Context,
    reference: Reference | None,
    *,
    sample: float | None,
    repair_from: ObjectStore | None,
    progress: Progress | None,
) -> Verification:
    """Read blobs back and hash them; see `dovetail.registry.store.Registry.verify`."""
    count, size, blobs = _choose(context, reference, sample)
    whole = reference is None and sample is None
    bad = list(_find_bad(context.objects, blobs, size, progress))
    if repair_from is None and whole and count and len(bad) == count:
        _refuse_empty_store(context.objects, bad)
    good: list[BadBlob] = []
    if repair_from is not None and bad:
        good, bad = _repair(context, bad, repair_from)
    with context.database.reading() as connection:
        names = named_by(connection, [blob.digest for blob in (*bad, *good)])
    told = [replace(blob, named_by=tuple(names[blob.digest])) for blob in bad]
    orphaned, announced = _unnamed(context) if whole else ([], [])
    return Verification(
        checked=count,
        bytes_checked=size,
        missing=tuple(blob for blob in told if blob.problem == "missing"),
        corrupt=tuple(blob for blob in told if blob.problem == "corrupt"),
        repaired=tuple(replace(blob, named_by=tuple(names[blob.digest])) for blob in good),
        orphaned=tuple(orphaned),
        announced=tuple(announced),
    )


def _choose(
    context: Context, reference: Reference | None, sample: float | None
) -> tuple[int, int, Iterable[Blob]]:
    """Return how many blobs are to be checked, their size together, and which they are."""
    if reference is not None:
        if sample is not None:
            raise InvalidInput("a sample is taken of all blobs; leave it out with a reference")
        with context.database.reading() as connection:
            chosen = _blobs_of(connection, reference)
        return len(chosen), sum(size for _, size in chosen), chosen
    with context.database.reading() as connection:
        count, size = connection.execute(
            select(func.count(), func.coalesce(func.sum(BlobRow.size), 0))
        ).one()
    if sample is None:
        return count, int(size), _all_blobs(context)
    if not sample > 0 or (sample > 1 and not isinstance(sample, int)):
        raise InvalidInput(
            f"sample is {sample!r}; give how many blobs, or which part of them from 0.0 to 1.0",
            value=sample,
        )
    wanted = sample if isinstance(sample, int) else math.ceil(count * sample)
    # Each gets a random number; those with the largest are a fair sample.
    chosen = heapq.nlargest(wanted, _all_blobs(context), key=lambda _: random.random())  # noqa: S311
    return len(chosen), sum(size for _, size in chosen), chosen


def _blobs_of(connection: Connection, reference: Reference) -> list[Blob]:
    version_id, _ = find_version(connection, reference, deleted=True)
    digests = union(
        select(FileRow.blob).where(FileRow.version_id == version_id),
        select(BaseModelRow.manifest_digest)
        .join(VersionRow, VersionRow.base_model_id == BaseModelRow.id)
        .where(VersionRow.id == version_id),
        select(EvaluationRow.examples).where(EvaluationRow.version_id == version_id),
    ).subquery()
    query = select(BlobRow.digest, BlobRow.size).where(BlobRow.digest.in_(select(digests)))
    return [(digest, size) for digest, size in connection.execute(query)]


def _all_blobs(context: Context) -> Iterator[Blob]:
    """Go through all blobs page by page: a row is never removed, so none is overlooked."""
    last = ""
    while True:
        query = (
            select(BlobRow.digest, BlobRow.size)
            .where(BlobRow.digest > last)
            .order_by(BlobRow.digest)
            .limit(_PAGE)
        )
        with context.database.reading() as connection:
            page = connection.execute(query).all()
        if not page:
            return
        yield from ((digest, size) for digest, size in page)
        last = page[-1].digest


def _find_bad(
    objects: ObjectStore, blobs: Iterable[Blob], total: int, progress: Progress | None
) -> Iterator[BadBlob]:
    rest, done = iter(blobs), 0
    with ThreadPoolExecutor(_THREADS, "dovetail-verify") as pool:
        while page := list(islice(rest, _PAGE)):
            for (_, size), bad in zip(
                page, pool.map(partial(check_blob, objects), page), strict=True
            ):
                if bad is not None:
                    yield bad
                done += size
                if progress is not None:
                    progress(done, total)


def _refuse_empty_store(objects: ObjectStore, bad: Sequence[BadBlob]) -> None:
    """Tell a store that is not where it should be from one that lost something."""
    if next(iter(objects.blobs()), None) is None:
        raise StorageError(
            f"the object store {objects.url} is empty, but the registry names {len(bad):,} blobs; "
            "check DOVETAIL_OBJECTS_URL and that its disk is mounted, or fill it from a copy with: "
            "dovetail verify --repair-from URL",
            url=objects.url,
        )


def _repair(
    context: Context, bad: Sequence[BadBlob], other: ObjectStore
) -> tuple[list[BadBlob], list[BadBlob]]:
    """Copy good blobs from another store; return which are good now, and which are not."""
    good, left = [], []
    with tempfile.TemporaryDirectory(prefix="dovetail-repair-") as scratch:
        for blob in bad:
            still = replace_blob(context.objects, blob, other, Path(scratch) / "blob")
            if still is None:
                good.append(blob)
            else:
                left.append(still)
    if good:
        details = {
            "blobs": len(good),
            "bytes": sum(blob.size for blob in good),
            "from": other.url,
        }
        context.database.write(
            lambda connection: append_event(
                connection, actor=context.actor, action="repair", details=details
            )
        )
    return good, left


def _unnamed(context: Context) -> tuple[list[BlobInfo], list[BlobInfo]]:
    """Return the blobs that nothing names, and those that are only announced."""
    orphaned: list[BlobInfo] = []
    announced: list[BlobInfo] = []
    found = iter(context.objects.blobs())
    while page := list(islice(found, _PAGE)):
        digests = [blob.digest for blob in page]
        # Both from one snapshot: a publisher takes a blob from the one table to the other.
        with context.database.reading() as connection:
            named = set(_among(connection, digests, BlobRow))
            promised = set(_among(connection, digests, IntentBlobRow))
        for blob in page:
            if blob.digest not in named:
                (announced if blob.digest in promised else orphaned).append(blob)
    return orphaned, announced


def _among(
    connection: Connection, digests: Sequence[str], row: type[BlobRow | IntentBlobRow]
) -> Iterable[str]:
    return connection.execute(select(row.digest).where(row.digest.in_(digests))).scalars()
