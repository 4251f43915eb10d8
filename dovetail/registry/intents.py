"""Publishing intents: what somebody is about to upload is spared by garbage collection.

Publishing goes in four steps. An intent row with a lease names the blobs; they are uploaded; they
are seen to be there; and one transaction removes the intent and names the blobs for good. A process
killed on the way leaves an intent, which `dovetail gc` removes when its lease has run out, and
blobs that nothing names. A publisher whose lease ran out while it was uploading finds its intent
gone, and starts again: what it uploaded before is mostly still there.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sqlalchemy import Connection, delete, insert, update

from dovetail.errors import ConflictError, DovetailError
from dovetail.registry.context import Context
from dovetail.registry.locking import lock_blobs
from dovetail.registry.objects.transfer import BlobSource, put_all
from dovetail.registry.progress import Progress
from dovetail.registry.schema import IntentBlobRow, IntentRow, table_of

LEASE = timedelta(hours=6)
"""How long an intent protects its blobs before garbage collection may remove it."""

_ATTEMPTS = 3

T = TypeVar("T")

_ADD = insert(table_of(IntentRow))
_ADD_BLOB = insert(table_of(IntentBlobRow))


def publish(
    context: Context,
    sources: Mapping[str, BlobSource],
    *,
    purpose: str,
    commit: Callable[[Connection], T],
    progress: Progress | None = None,
) -> T:
    """Write blobs, and name them in one transaction; return what that gave.

    Args:
        context: The registry.
        sources: Where each blob's bytes come from, by digest.
        purpose: What for, in words for whoever looks at the intents.
        commit: Names the blobs; may run several times, each after the one before was rolled back.
        progress: Called while blobs are written.

    Raises:
        DigestMismatch: A source has other bytes than its digest says.
        StorageError: The object store or the database failed; nothing was named.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with announced(context, sources, purpose=purpose) as intent:
                put_all(context.objects, sources, progress=intent.renewing(context, progress))
                return context.database.write(lambda c: _closed(intent, c, commit))
        except _IntentLostError:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _closed(intent: Intent, connection: Connection, commit: Callable[[Connection], T]) -> T:
    intent.close(connection)
    return commit(connection)


class _IntentLostError(ConflictError):
    """The lease of an intent ran out, and garbage collection removed it."""


@dataclass(frozen=True, slots=True)
class Intent:
    """Blobs that are protected until the intent is closed."""

    id: str

    def renew(self, context: Context) -> None:
        """Let the lease begin anew."""
        lease = update(IntentRow).where(IntentRow.id == self.id)
        until = datetime.now(UTC) + LEASE
        context.database.write(lambda c: c.execute(lease.values(expires_at=until)), durable=False)

    def renewing(self, context: Context, progress: Progress | None) -> Progress:
        """Wrap a progress callback so that the lease is renewed long before it runs out."""
        due = datetime.now(UTC) + LEASE / 3

        def report(done: int, total: int) -> None:
            nonlocal due
            if datetime.now(UTC) > due:
                self.renew(context)
                due = datetime.now(UTC) + LEASE / 3
            if progress is not None:
                progress(done, total)

        return report

    def close(self, connection: Connection) -> None:
        """Remove the intent, in the transaction that names its blobs.

        Raises:
            _IntentLostError: It is not there any more, so its blobs may not be, either.
        """
        removed = connection.execute(delete(IntentRow).where(IntentRow.id == self.id))
        if removed.rowcount != 1:
            raise _IntentLostError(
                "publishing took longer than its lease and garbage collection came in between; "
                "run the same again",
                lease_s=LEASE.total_seconds(),
            )


@contextlib.contextmanager
def announced(context: Context, digests: Iterable[str], *, purpose: str) -> Iterator[Intent]:
    """Protect blobs that are about to be written.

    The intent is closed by the transaction that names them; if the block raises, it is removed
    here. A killed process leaves it to its lease.
    """
    intent = Intent(uuid.uuid4().hex)
    now = datetime.now(UTC)
    row = {
        "id": intent.id,
        "purpose": purpose,
        "actor": context.actor,
        "created_at": now,
        "expires_at": now + LEASE,
    }
    blobs = [{"intent_id": intent.id, "digest": digest} for digest in sorted(set(digests))]

    def announce(connection: Connection) -> None:
        lock_blobs(connection, exclusive=False)
        connection.execute(_ADD, row)
        connection.execute(_ADD_BLOB, blobs)

    # It only matters as long as this process lives, so it need not outlive a loss of power.
    context.database.write(announce, durable=False)
    try:
        yield intent
    except BaseException:
        # If even that fails, the lease ends it.
        with contextlib.suppress(DovetailError):
            mine = delete(IntentRow).where(IntentRow.id == intent.id)
            context.database.write(lambda c: c.execute(mine), durable=False)
        raise
