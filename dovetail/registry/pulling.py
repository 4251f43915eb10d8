"""Reading payloads back: every byte is hashed before anyone uses it.

What is in the cache is not fetched again. A shared copy in the cache is read-only; a directory of
one's own holds real copies, which one may write to. A store on this machine is copied from without
the cache between, which would only take the room twice.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from dovetail.errors import ConflictError, DigestMismatch, StorageError
from dovetail.registry.cache import PayloadCache, Wanted
from dovetail.registry.digests import copy_hashed, require_digest
from dovetail.registry.objects import ObjectStore, check_digest
from dovetail.registry.objects.transfer import fetch_all
from dovetail.registry.payload import PayloadFile, check_file_path, payload_digest
from dovetail.registry.progress import Progress
from dovetail.registry.records import AdapterVersion
from dovetail.registry.verified import files_in

_ON_THIS_MACHINE = ("file", "memory")


def pull_to_cache(
    objects: ObjectStore,
    cache: PayloadCache,
    versions: Sequence[AdapterVersion],
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """Return the shared read-only copies of versions; what the cache lacks is fetched at once.

    Raises:
        DigestMismatch: A blob is corrupt, or the list of a version's files.
        StorageError: The cache or a blob cannot be reached.
    """
    for version in versions:
        _check_files(version)
    with _storage_errors(versions, cache.directory):
        found = {version.payload_digest: cache.find(version.payload_digest) for version in versions}
        lacking = [version for version in versions if found[version.payload_digest] is None]
        if lacking:
            found |= cache.fill(
                {version.payload_digest: version.files for version in lacking},
                lambda wanted: _fetch(objects, lacking, wanted, progress),
            )
    return [cache.place(version.payload_digest) for version in versions]


def pull_to(
    objects: ObjectStore,
    cache: PayloadCache,
    versions: Sequence[AdapterVersion],
    directories: Sequence[Path],
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """Write versions' files to a directory each, which does not exist yet or is empty.

    Raises:
        ConflictError: A directory has something in it.
        DigestMismatch: A blob is corrupt, or a list of files; that directory is as it was.
        StorageError: A directory or a blob cannot be reached.
    """
    for version, directory in zip(versions, directories, strict=True):
        _check_files(version)
        _check_free(directory, version)
    lacking = [
        version for version in versions if find_cached(cache, version.payload_digest) is None
    ]
    filled = _filled(objects, cache, lacking, progress)
    for version, directory in zip(versions, directories, strict=True):
        with _storage_errors([version], directory), _new_directory(directory) as whole:
            if version.payload_digest in filled:
                # Hashed just now, on its way into the cache.
                source = filled[version.payload_digest]
                shutil.copytree(source, whole, copy_function=shutil.copyfile, dirs_exist_ok=True)
            elif not _copied(cache, version.payload_digest, whole):
                wanted = [(file.digest, file.size, whole / file.path) for file in version.files]
                for _, _, target in wanted:
                    target.parent.mkdir(parents=True, exist_ok=True)
                _fetch(objects, [version], wanted, progress)
    return [directory.absolute() for directory in directories]


def find_cached(cache: PayloadCache, digest: str) -> Path | None:
    """Return the shared copy in the cache if there is one; a cache out of reach has none."""
    with contextlib.suppress(OSError):
        return cache.find(digest)
    return None


def copy_from_cache(cache: PayloadCache, digest: str, directory: Path) -> Path | None:
    """Write a payload that is in the cache to a directory; return None if it is not there."""
    _check_free(directory)
    if find_cached(cache, digest) is None:
        return None
    with _storage_errors([], directory), _new_directory(directory) as whole:
        if not _copied(cache, digest, whole):
            raise DigestMismatch(
                f"the copy of {digest} in the cache at {str(cache.directory)!r} is corrupt; pull "
                "it again when the registry can be reached",
                expected=digest,
            )
    return directory.absolute()


def _filled(
    objects: ObjectStore,
    cache: PayloadCache,
    versions: Sequence[AdapterVersion],
    progress: Progress | None,
) -> Mapping[str, Path]:
    """Return copies in the cache, made now, where some are to be kept and can be."""
    if versions and urlsplit(objects.url).scheme not in _ON_THIS_MACHINE:
        with contextlib.suppress(OSError):
            return cache.fill(
                {version.payload_digest: version.files for version in versions},
                lambda wanted: _fetch(objects, versions, wanted, progress),
            )
    return {}


def _copied(cache: PayloadCache, digest: str, target: Path) -> bool:
    """Copy what the cache has, and hash it on the way; if it is damaged, leave nothing."""
    source = find_cached(cache, digest)
    if source is None:
        return False
    files = []
    for path in files_in(source):
        name = path.relative_to(source).as_posix()
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as reader, copy.open("xb") as writer:
            found = copy_hashed(reader, writer)
        files.append(PayloadFile(name, copy.stat().st_size, found))
    if payload_digest(files) == digest:
        return True
    # It rotted on the disk since it was hashed. The cache finds that out, too, if it is asked.
    cache.distrust(digest)
    for file in files:
        (target / file.path).unlink()
    return False


def _check_free(directory: Path, *versions: AdapterVersion) -> None:
    with _storage_errors(versions, directory):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConflictError(
                f"{str(directory)!r} exists and is not empty; pull to another place or remove it",
                path=str(directory),
            )


@contextlib.contextmanager
def _new_directory(directory: Path) -> Iterator[Path]:
    """Give a folder to fill, which gets its name when it is whole."""
    target = directory.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pull-") as scratch:
        whole = Path(scratch) / "payload"
        whole.mkdir()
        yield whole
        whole.rename(target)


def _fetch(
    objects: ObjectStore,
    versions: Sequence[AdapterVersion],
    wanted: Wanted,
    progress: Progress | None,
) -> None:
    try:
        fetch_all(objects, wanted, progress=progress)
    except StorageError as error:
        if "path" in error.data and isinstance(error.__cause__, OSError):
            raise error.__cause__ from error  # our side's, not the store's
        raise
    except DigestMismatch as error:
        expected, found = error.data.get("expected"), error.data.get("found")
        for version in versions:
            for file in version.files:
                if file.digest == expected:
                    what = f"{file.path} of {version.reference}"
                    require_digest(str(found), expected=file.digest, what=what)
        raise


def _check_files(version: AdapterVersion) -> None:
    """Check that a version's list of files is the one that was registered, and leads nowhere."""
    check_digest(version.payload_digest)
    found = payload_digest(
        PayloadFile(check_file_path(file.path), file.size, file.digest) for file in version.files
    )
    if found != version.payload_digest:
        raise DigestMismatch(
            f"the list of {version.reference}'s files is corrupt: it makes up the payload {found}, "
            f"registered is {version.payload_digest}; restore the database from a copy",
            expected=version.payload_digest,
            found=found,
        )


@contextlib.contextmanager
def _storage_errors(versions: Sequence[AdapterVersion], target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        first = str(versions[0].reference) if versions else "files"
        more = f" and {len(versions) - 1} more" if len(versions) > 1 else ""
        raise StorageError(
            f"cannot write {first}{more} to {str(target)!r}: {error.strerror or error}; check the "
            "disk's free space and the folder's permissions",
            path=str(target),
        ) from error
