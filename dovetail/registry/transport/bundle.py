"""Read a bundle, a directory or a zip file, trusting nothing in it.

Nothing is extracted: a blob is read from the place where it lies, by its digest, and what has
another name than blobs have is not looked at, or refused.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from dovetail.errors import DigestMismatch, InvalidInput, InvalidPayload
from dovetail.registry.digests import CHUNK_BYTES, digest_bytes, is_digest, require_digest
from dovetail.registry.jsontext import digest_json, parse_json
from dovetail.registry.objects import LocalObjectStore
from dovetail.registry.payload import open_plain
from dovetail.registry.transport.fields import MAX_BIG, Fields, refuse

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MANIFEST = "dovetail-export.json"
BLOBS = "blobs"
FORMAT = "dovetail-export"
FORMAT_VERSION = 2
"""Versions have a description and tags of their own since 2."""
MAX_MANIFEST_BYTES = 256 * 2**20

_BLOB = re.compile(rf"{BLOBS}/(sha256)/([0-9a-f]{{2}})/([0-9a-f]{{62}})")
_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes from one place in a file on."""

    path: Path
    offset: int
    size: int

    def open(self) -> BinaryIO:
        """Open them for reading; the caller closes it."""
        descriptor, _ = open_plain(self.path, MAX_BIG)
        file = os.fdopen(descriptor, "rb", buffering=0)
        file.seek(self.offset)
        return cast("BinaryIO", io.BufferedReader(_Section(file, self.size), CHUNK_BYTES))

    def read(self, limit: int, what: str) -> bytes:
        """Return them, if they are not too many."""
        if self.size > limit:
            raise InvalidPayload(f"{what} has {self.size:,} bytes; at most {limit:,} are read")
        with self.open() as stream:
            return stream.read(limit)


class _Section(io.RawIOBase):
    """A file that ends after so many bytes."""

    def __init__(self, file: io.FileIO, size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")[: self._left]
        count = self._file.readinto(view) or 0
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of a document: of what it is, and its digest."""

    subject: str
    digest: str


@dataclass(frozen=True, slots=True)
class Contents:
    """The manifest: the format, the documents of base models and adapters, the digest of it all."""

    version: int
    digest: str
    base_models: tuple[Entry, ...]
    adapters: tuple[Entry, ...]


class Bundle:
    """A bundle that was opened.

    Args:
        path: Where it is.
        manifest: Its manifest.
        blobs: Where its blobs are, by digest; None if each lies in a file of its own.
    """

    def __init__(self, path: Path, manifest: Part, blobs: Mapping[str, Part] | None) -> None:
        self.path = path
        self._manifest = manifest
        self._blobs = blobs
        self._store = LocalObjectStore(path / BLOBS)

    def contents(self) -> Contents:
        """Read the manifest.

        Raises:
            InvalidPayload: It is malformed, or of a newer format.
            DigestMismatch: It was changed.
        """
        return parse_contents(self._manifest.read(MAX_MANIFEST_BYTES, MANIFEST))

    def blob(self, digest: str) -> Part:
        """Return where a blob lies.

        Raises:
            DigestMismatch: It is not in the bundle.
        """
        if self._blobs is None:
            path = self._store.path(digest)
            if path.is_file():
                return Part(path, 0, path.stat().st_size)
        elif digest in self._blobs:
            return self._blobs[digest]
        raise DigestMismatch(
            f"blob {digest} is missing from the export {str(self.path)!r}; export again",
            expected=digest,
        )

    def read(self, digest: str, *, limit: int, what: str) -> bytes:
        """Return a blob's bytes, verified.

        Raises:
            DigestMismatch: They are not those of its name.
            InvalidPayload: They are too many.
        """
        data = self.blob(digest).read(limit, what)
        require_digest(digest_bytes(data), expected=digest, what=what)
        return data


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open what `dovetail export` wrote.

    Raises:
        InvalidInput: There is no such file or directory.
        InvalidPayload: It is no bundle, or one that was tampered with.
    """
    place = Path(path)
    if place.is_dir():
        manifest = place / MANIFEST
        if not manifest.is_file():
            raise InvalidInput(
                f"{str(path)!r} has no {MANIFEST}: it is no export, or one that was not finished; "
                "run the same export again",
                path=str(path),
            )
        return Bundle(place, Part(manifest, 0, manifest.stat().st_size), None)
    if not place.is_file():
        raise InvalidInput(f"there is no export {str(path)!r}", path=str(path))
    parts = _zip_parts(place)
    found = parts.pop(MANIFEST, None)
    if found is None:
        refuse(f"{place.name} has no {MANIFEST}")
    return Bundle(place, found, parts)


def parse_contents(data: bytes) -> Contents:
    """Read a manifest; see `Bundle.contents`."""
    value = parse_json(data, what=MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        refuse(f"{MANIFEST} is not of the format {FORMAT!r}")
    version = value.get("version")
    if type(version) is int and version > FORMAT_VERSION:
        raise InvalidPayload(
            f"the export has format version {version}, this dovetail reads up to {FORMAT_VERSION}; "
            "upgrade it",
            found=version,
            expected=FORMAT_VERSION,
        )
    read = Fields(value, MANIFEST, ("format", "version", "digest", "contents"))
    contents = read.table("contents")
    require_digest(digest_json(contents), expected=read.digest("digest"), what=MANIFEST)
    lists = Fields(contents, "contents", ("base_models", "adapters"))
    found = Contents(
        read.number("version", least=1),
        read.digest("digest"),
        _entries(lists.items("base_models"), "fingerprint"),
        _entries(lists.items("adapters"), "name"),
    )
    for entries in (found.base_models, found.adapters):
        if len({entry.subject for entry in entries}) != len(entries):
            refuse(f"{MANIFEST} lists something twice")
    return found


def format_contents(base_models: Mapping[str, str], adapters: Mapping[str, str]) -> dict[str, Any]:
    """Make a manifest from the digests of the documents."""
    contents = {
        "base_models": [{"fingerprint": key, "digest": base_models[key]} for key in base_models],
        "adapters": [{"name": key, "digest": adapters[key]} for key in adapters],
    }
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "digest": digest_json(contents),
        "contents": contents,
    }


def blob_name(digest: str) -> str:
    """Return a blob's name in a zip file."""
    digits = digest.removeprefix("sha256:")
    return f"{BLOBS}/sha256/{digits[:2]}/{digits[2:]}"


def _entries(items: list[Any], subject: str) -> tuple[Entry, ...]:
    read = [Fields(item, "an entry of the contents", (subject, "digest")) for item in items]
    return tuple(Entry(each.text(subject), each.digest("digest")) for each in read)


def _zip_parts(path: Path) -> dict[str, Part]:
    """Return where each member of a zip file lies, by digest, or by name for the manifest."""
    parts: dict[str, Part] = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            size = path.stat().st_size
            for info in archive.infolist():
                key = _key(info)
                if key in parts:
                    refuse(f"{path.name} has {info.filename!a} twice")
                parts[key] = _part(info, path, file, size)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidPayload):
            raise
        raise InvalidPayload(
            f"{str(path)!r} is no export, or was damaged or cut off: {error}", path=str(path)
        ) from error
    return parts


def _key(info: zipfile.ZipInfo) -> str:
    if info.filename == MANIFEST:
        return MANIFEST
    name = _BLOB.fullmatch(info.filename)
    if name is None:
        refuse(f"the file holds {info.filename[:80]!a}, which no export has")
    digest = f"{name[1]}:{name[2]}{name[3]}"
    assert is_digest(digest)  # noqa: S101 (the pattern says so)
    return digest


def _part(info: zipfile.ZipInfo, path: Path, file: BinaryIO, size: int) -> Part:
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if not stored or info.flag_bits & _ENCRYPTED:
        refuse(f"the file holds {info.filename!a} compressed or encrypted, as no export is")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    # The header's last two numbers are the lengths of the name and of the extra field after it.
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = info.header_offset + _LOCAL_HEADER_BYTES + lengths
    if start + info.file_size > size:
        refuse(f"the file ends within {info.filename!a}")
    return Part(path, start, info.file_size)
