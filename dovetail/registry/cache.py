"""Payloads on this machine: bounded, shared between processes, whole however one of them ends.

::

    payloads/<digest>/   a payload's files, read-only; whole from the moment it has its name
    blobs/ab/cdef…       further names of the same files, so that payloads share what they have
                         in common
    tmp/<lease>-…/       what is being filled or thrown away
    leases/<lease>       a locked file of each open cache: the payloads it has handed out
    verified/<digest>/   what a payload's files looked like when they were hashed
    locks/<digest>       held by whoever fills a payload, so that nobody else downloads it too
    lock                 held alone to add and remove payloads; shared to take out a lease
    size                 how many bytes there are, or were before some went
    resolved/            what references named when they were pulled (`dovetail.registry.offline`)

A payload's time of change says when it was used last; the ones that were not used for longest go
when there are more bytes than allowed. One that has been handed out stays until the cache that
handed it out is closed (with its `Registry`) or its process ends, however much room that takes.
A process that is killed leaves a folder under ``tmp`` at most, which the next fill removes.

A payload is hashed when it is used for the first time and whenever one of its files has another
inode, size or time than when it was hashed. So bytes that rot on the disk under unchanged times
are not found here; the loader finds them, because it hashes what it reads, and so does a pull
into a directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from dovetail.registry.digests import digest_file
from dovetail.registry.eviction import make_room
from dovetail.registry.leases import Lease, living, locked
from dovetail.registry.objects import check_digest
from dovetail.registry.offline import forget_payloads
from dovetail.registry.records import StoredFile
from dovetail.registry.verified import Verified, settle

Wanted: TypeAlias = list[tuple[str, int, Path]]
"""Blobs to fetch: digest, size, and the new file to write."""

_FOLDERS = ("payloads", "blobs", "tmp", "leases", "verified", "locks")
# Beyond so many, double work is cheaper than open files. The locks only save work.
_MAX_LOCKS = 64
# Hashing less than this again takes no longer than waiting for the clock.
_LARGE = 16 * 2**20


class PayloadCache:
    """The payloads in one folder.

    Args:
        directory: The folder; made on first use.
        limit: How many bytes of payloads may lie there.
    """

    def __init__(self, directory: Path, *, limit: int) -> None:
        self.directory = directory.absolute()
        self.limit = limit
        self._verified = Verified(self.directory / "verified")
        self._leased: set[str] = set()
        self._lease: Lease | None = None
        self._mutex = threading.Lock()

    def close(self) -> None:
        """Give back what was handed out."""
        with self._mutex:
            self._give_back()

    def place(self, digest: str) -> Path:
        """Return where a payload is, or would be."""
        return self.directory / "payloads" / check_digest(digest)

    def find(self, digest: str) -> Path | None:
        """Return a payload's folder if it is there and whole; it then stays until `close`."""
        place = self.place(digest)
        if not place.is_dir():
            return None
        # A cache that may only be read is used without a lease, and without leaving a trace.
        with contextlib.suppress(OSError):
            self._use(place.name)
        if not self._verified.check(place, digest):
            return None
        with contextlib.suppress(OSError):
            os.utime(place)
        return place

    def distrust(self, digest: str) -> None:
        """Hash a payload again when it is used next."""
        self._verified.forget(self.place(digest))

    def fill(
        self,
        payloads: Mapping[str, Sequence[StoredFile]],
        fetch: Callable[[Wanted], None],
    ) -> dict[str, Path]:
        """Return the folders of payloads, made now where they are not there yet.

        Args:
            payloads: The files of each, by the payload's digest; checked, as to their paths too.
            fetch: Writes verified blobs; only called for those that are not here.

        Raises:
            OSError: The folder cannot be written.
        """
        self._prepare()
        with contextlib.ExitStack() as stack:
            for digest in sorted(payloads)[:_MAX_LOCKS]:
                name = check_digest(digest)
                stack.enter_context(locked(self.directory / "locks" / name))
            found = {digest: self.find(digest) for digest in payloads}
            lacking = {digest: payloads[digest] for digest in payloads if not found[digest]}
            if lacking:
                self._make(lacking, fetch)
        return {digest: self.place(digest) for digest in payloads}

    def _make(
        self,
        payloads: Mapping[str, Sequence[StoredFile]],
        fetch: Callable[[Wanted], None],
    ) -> None:
        for digest in payloads:
            self._use(check_digest(digest))
        with self._scratch() as scratch:
            wanted, copies = self._lay_out(payloads, scratch)
            if wanted:
                fetch(wanted)
            for source, target in copies:
                _link_or_copy(source, target)
            for digest, _, path in wanted:
                path.chmod(0o444)
                self._share(digest, path)
            # Copies take room, too, where they are not links; counting too much does no harm.
            made = [*(path for _, _, path in wanted), *(path for _, path in copies)]
            new = sum(path.lstat().st_size for path in made)
            self._put_in_place(scratch, payloads, new=new)

    def _lay_out(
        self, payloads: Mapping[str, Sequence[StoredFile]], scratch: Path
    ) -> tuple[Wanted, list[tuple[Path, Path]]]:
        """Link the blobs that are here; return those to fetch, and files to copy after that."""
        wanted: dict[str, tuple[str, int, Path]] = {}
        copies: list[tuple[Path, Path]] = []
        for payload, files in payloads.items():
            for file in files:
                target = scratch / check_digest(payload) / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.digest in wanted:
                    copies.append((wanted[file.digest][2], target))
                elif not self._take(file.digest, target):
                    wanted[file.digest] = (file.digest, file.size, target)
        return list(wanted.values()), copies

    def _take(self, digest: str, target: Path) -> bool:
        """Link a blob that is here; tell whether it was, and was good."""
        blob = self._blob(digest)
        try:
            # First the link, then the hash: from here on nobody can take it away.
            _link_or_copy(blob, target)
        except FileNotFoundError:
            return False
        if digest_file(target) == digest:
            return True
        target.unlink()
        blob.unlink(missing_ok=True)
        return False

    def _share(self, digest: str, path: Path) -> None:
        """Give a file its blob's name, where the file system has hard links."""
        blob = self._blob(digest)
        blob.parent.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            os.link(path, blob)

    def _blob(self, digest: str) -> Path:
        digits = check_digest(digest)
        return self.directory / "blobs" / digits[:2] / digits[2:]

    def _put_in_place(
        self, scratch: Path, payloads: Mapping[str, Sequence[StoredFile]], *, new: int
    ) -> None:
        """Name what was made, and make room for it."""
        settled = new >= _LARGE and settle(scratch)
        with locked(self.directory / "lock"):
            leases = living(self.directory / "leases")
            self._clean(leases)
            total = self._size() + new
            self._write_size(total)
            for digest in payloads:
                self._name(scratch / check_digest(digest), digest, settled=settled)
            if total > self.limit:
                self._make_room(set().union(*leases.values()))

    def _name(self, made: Path, digest: str, *, settled: bool) -> None:
        """Move a payload to its place, unless a good one is there by now."""
        place = self.place(digest)
        if os.path.lexists(place):
            if self._verified.check(place, digest):
                return
            self._discard(place)
        made.rename(place)
        if settled:
            self._verified.add(place, digest)

    def _make_room(self, used: set[str]) -> None:
        payloads = self.directory / "payloads"
        before = set(payloads.iterdir())
        total = make_room(
            payloads,
            self.directory / "blobs",
            limit=self.limit,
            keep=used,
            discard=self._discard,
        )
        self._write_size(total)
        gone = before - set(payloads.iterdir())
        if gone:
            forget_payloads(self.directory, {f"sha256:{place.name}" for place in gone})

    def _discard(self, place: Path) -> None:
        """Remove a payload in one step, as everybody else sees it."""
        with self._scratch() as scratch:
            place.rename(scratch / "old")
        self._verified.forget(place)
        (self.directory / "locks" / place.name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Make a folder that is removed in the end; if we are killed, by whoever comes next."""
        owner = self._lease.id if self._lease else ""
        place = self.directory / "tmp"
        with tempfile.TemporaryDirectory(dir=place, prefix=f"{owner}-") as folder:
            yield Path(folder)

    def _clean(self, leases: Collection[str]) -> None:
        """Remove what processes left that were killed."""
        for folder in (self.directory / "tmp").iterdir():
            if folder.name.partition("-")[0] not in leases:
                shutil.rmtree(folder, ignore_errors=True)

    def _use(self, name: str) -> None:
        """Take a payload out on lease: from here on nobody removes it."""
        with self._mutex:
            if self._lease is not None and self._lease.is_lost:
                self._give_back()
            if name in self._leased:
                return
            if self._lease is None:
                self._prepare()
            with locked(self.directory / "lock", shared=True):
                if self._lease is None:
                    self._lease = Lease(self.directory / "leases")
                self._lease.add(name)
            self._leased.add(name)

    def _give_back(self) -> None:
        if self._lease is not None:
            self._lease.end()
        self._lease = None
        self._leased.clear()

    def _prepare(self) -> None:
        for name in _FOLDERS:
            (self.directory / name).mkdir(parents=True, exist_ok=True)

    def _size(self) -> int:
        """Return how many bytes there are at most; too many where that is not known."""
        with contextlib.suppress(OSError, ValueError):
            text = (self.directory / "size").read_text("ascii")
            if text.isdigit():
                return int(text)
        return self.limit + 1

    def _write_size(self, size: int) -> None:
        (self.directory / "size").write_text(str(size))


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file another name; where the file system does not, copy it."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(0o444)
