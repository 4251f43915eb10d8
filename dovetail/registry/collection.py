"""Garbage collection: removing what failed, killed and abandoned publishers left behind.

A blob that neither a committed row nor an intent names is *marked*. When it is still so a grace
period later, it is deleted: looked at again and removed while holding the lock that publishers take
to announce what they upload, so nobody can begin to rely on it in between. A blob that a version,
an evaluation or a base model ever named is never garbage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, delete, func, insert, select

from dovetail.registry.context import Context
from dovetail.registry.events import append_event
from dovetail.registry.intents import LEASE
from dovetail.registry.locking import lock_blobs
from dovetail.registry.objects import BlobInfo, Leftover
from dovetail.registry.progress import Progress
from dovetail.registry.schema import BlobRow, GarbageRow, IntentBlobRow, IntentRow, table_of

DEFAULT_GRACE = timedelta(days=1)
"""How long a blob must be garbage before it is deleted."""

T = TypeVar("T")

_MARK = insert(table_of(GarbageRow))
_MARKS = select(GarbageRow.digest, GarbageRow.marked_at)
_BATCH = 500  # blobs that are deleted under one lock, while publishers wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A blob that nothing names.

    Attributes:
        digest: Its digest.
        size: Its size in bytes.
        marked_at: When garbage collection first found it, in UTC.
    """

    digest: str
    size: int
    marked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What garbage collection did, or would do.

    Attributes:
        deleted: Blobs that are gone.
        waiting: Blobs that are garbage, and stay until their grace period is over.
        unfinished: Half-written things of killed processes that are gone.
        expired_intents: How many intents had outlived their lease.
        dry_run: Whether nothing was changed.
    """

    deleted: tuple[Garbage, ...]
    waiting: tuple[Garbage, ...]
    unfinished: tuple[Leftover, ...]
    expired_intents: int
    dry_run: bool

    @property
    def bytes_deleted(self) -> int:
        """Size of all deleted blobs in bytes."""
        return sum(item.size for item in self.deleted)


def collect_garbage(
    context: Context,
    *,
    grace: timedelta = DEFAULT_GRACE,
    unfinished_after: timedelta = LEASE,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Collection:
    """Remove what nothing names; see `dovetail.registry.store.Registry.collect_garbage`."""
    now = datetime.now(UTC)
    expired = _expire_intents(context, now, dry_run=dry_run)
    known = _read_marks(context)  # first: what is deleted meanwhile is then not marked anew
    found = list(_unnamed(context, now))
    marked = _mark(context, found, known, now, dry_run=dry_run)
    due = [item for item in marked if item.marked_at <= now - grace]
    deleted = due if dry_run else _sweep(context, due, progress)
    return Collection(
        deleted=tuple(deleted),
        waiting=tuple(item for item in marked if item.marked_at > now - grace),
        unfinished=tuple(_discard(context, now - unfinished_after, dry_run=dry_run)),
        expired_intents=expired,
        dry_run=dry_run,
    )


def _expire_intents(context: Context, now: datetime, *, dry_run: bool) -> int:
    """Remove intents whose lease ran out: an intent protects as long as its row is there."""
    overdue = IntentRow.expires_at < now
    with context.database.reading() as connection:
        count = connection.execute(select(func.count()).where(overdue)).scalar_one()
    if dry_run or not count:
        return count

    def remove(connection: Connection) -> int:
        lock_blobs(connection, exclusive=True)
        return connection.execute(delete(IntentRow).where(overdue)).rowcount

    return context.database.write(remove)


def _unnamed(context: Context, now: datetime) -> Iterator[BlobInfo]:
    """Go through the stored blobs that nothing names, and no live intent announces."""
    for batch in _batches(context.objects.blobs()):
        with context.database.reading() as connection:
            named = _named(connection, [blob.digest for blob in batch], now)
        yield from (blob for blob in batch if blob.digest not in named)


def _named(connection: Connection, digests: Sequence[str], now: datetime | None) -> set[str]:
    """Return which of the digests are named for good, or announced.

    One statement, so that it sees one state: a publisher's last transaction takes a blob from the
    one table to the other. An intent that has outlived its lease counts until its row is removed,
    unless `now` is given: then it counts no more, as in what would be collected.
    """
    announced = select(IntentBlobRow.digest).where(IntentBlobRow.digest.in_(digests))
    if now is not None:
        announced = announced.join(IntentRow, IntentRow.id == IntentBlobRow.intent_id).where(
            IntentRow.expires_at >= now
        )
    published = select(BlobRow.digest).where(BlobRow.digest.in_(digests))
    return set(connection.execute(published.union(announced)).scalars())


def _read_marks(context: Context) -> dict[str, datetime]:
    with context.database.reading() as connection:
        return {row.digest: row.marked_at for row in connection.execute(_MARKS)}


def _mark(
    context: Context,
    found: Sequence[BlobInfo],
    known: Mapping[str, datetime],
    now: datetime,
    *,
    dry_run: bool,
) -> list[Garbage]:
    """Note what is garbage now, and forget marks of what is not; return all that is marked."""
    marked = [
        Garbage(digest=blob.digest, size=blob.size, marked_at=known.get(blob.digest, now))
        for blob in found
    ]
    digests = {item.digest for item in marked}
    fresh = [item for item in marked if item.digest not in known]
    stale = [digest for digest in known if digest not in digests]

    def note(connection: Connection) -> None:
        # The lock keeps a second garbage collection away, which would mark the same.
        lock_blobs(connection, exclusive=True)
        _forget(connection, [*stale, *(item.digest for item in fresh)])
        if fresh:
            connection.execute(_MARK, [asdict(item) for item in fresh])

    if (fresh or stale) and not dry_run:
        context.database.write(note)
    return marked


def _sweep(context: Context, due: Sequence[Garbage], progress: Progress | None) -> list[Garbage]:
    """Delete what is garbage still; return that."""
    deleted: list[Garbage] = []
    for batch in _batches(due):
        deleted += context.database.write(partial(_delete, context, batch))
        if progress is not None:
            progress(len(deleted), len(due))
    return deleted


def _delete(context: Context, batch: Sequence[Garbage], connection: Connection) -> list[Garbage]:
    lock_blobs(connection, exclusive=True)
    digests = [item.digest for item in batch]
    # Without its mark, another garbage collection was quicker.
    marked = connection.execute(_MARKS.where(GarbageRow.digest.in_(digests))).scalars()
    due = set(marked) - _named(connection, digests, None)
    gone = [item for item in batch if item.digest in due]
    # While the lock is held: whoever announces these blobs next will not find them, and write them.
    context.objects.delete_many([item.digest for item in gone])
    _forget(connection, digests)
    if gone:
        append_event(
            connection,
            actor=context.actor,
            action="gc",
            details={"blobs": len(gone), "bytes": sum(item.size for item in gone)},
        )
    return gone


def _discard(context: Context, before: datetime, *, dry_run: bool) -> Iterator[Leftover]:
    """Remove half-written things that nobody can be writing any more."""
    for leftover in list(context.objects.leftovers()):
        if leftover.modified_at < before:
            if not dry_run:
                context.objects.discard(leftover)
            yield leftover


def _forget(connection: Connection, digests: Sequence[str]) -> None:
    for batch in _batches(digests):
        connection.execute(delete(GarbageRow).where(GarbageRow.digest.in_(batch)))


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
