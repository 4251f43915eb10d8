"""Read an adapter directory and check it, executing nothing that is in it.

What is kept: the configuration, the weights, the README and the tokenizer's files, byte for byte.
Other plain files are left out and listed. Pickles, links and special files are refused, because a
directory that has them is not what PEFT's ``save_pretrained`` alone would have written.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from dovetail.errors import DigestMismatch, InvalidPayload
from dovetail.registry.folder import WEIGHTS_FILE, choose_files
from dovetail.registry.jsontext import digest_json
from dovetail.registry.peftconfig import CONFIG_FILE, parse_config
from dovetail.registry.structure import check_structure, check_values, does_nothing
from dovetail.registry.tensorfile import TensorFile, TensorInfo, open_tensors, pickle_problem

MAX_PATH_LENGTH = 255

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CHUNK = 2**22
_BUFFER = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes above which a directory is refused.

    Attributes:
        config_bytes: Largest ``adapter_config.json``.
        weights_bytes: Largest ``adapter_model.safetensors``.
        other_bytes: Largest other file that is kept.
        entries: Most entries in the directory.
    """

    config_bytes: int = 2**20
    weights_bytes: int = 10 * 2**30
    other_bytes: int = 64 * 2**20
    entries: int = 10_000


@dataclass(frozen=True, slots=True)
class PayloadFile:
    """A file of a payload.

    Attributes:
        path: Where it stands, from the payload's root, with ``/`` between the parts.
        size: Its size in bytes.
        digest: ``sha256:`` and the hash of its bytes.
    """

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Payload:
    """An adapter directory that was found sound.

    Attributes:
        directory: Where it was read.
        files: What belongs to it, sorted by path.
        config: The parsed ``adapter_config.json``, unknown keys included.
        peft_type: Its ``peft_type``.
        tensors: The tensors in the weights, by name.
        parameter_count: Number of values in them.
        digest: The payload's digest; see `payload_digest`.
        left_out: Entries of the directory that do not belong to it.
        findings: Sentences about what is allowed but hardly meant.
    """

    directory: Path
    files: tuple[PayloadFile, ...]
    config: dict[str, Any]
    peft_type: str
    tensors: dict[str, TensorInfo]
    parameter_count: int
    digest: str
    left_out: tuple[str, ...] = ()
    findings: tuple[str, ...] = field(default=())


def read_payload(
    directory: str | os.PathLike[str],
    *,
    exclude: str | Iterable[str] = (),
    limits: Limits | None = None,
) -> Payload:
    """Read and check an adapter directory.

    Args:
        directory: What PEFT's ``save_pretrained`` wrote.
        exclude: Names, or patterns such as ``*.bin``, of entries to leave out unread.
        limits: Sizes above which it is refused.

    Raises:
        InvalidPayload: It is damaged, unsafe or incomplete; nothing in it was executed.
    """
    root = Path(directory)
    bounds = limits or Limits()
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    kept, left_out = choose_files(root, patterns, most=bounds.entries)
    files: list[PayloadFile] = []
    config = parse_config(_read(root / CONFIG_FILE, bounds.config_bytes, files))
    for name in sorted(kept - {CONFIG_FILE, WEIGHTS_FILE}):
        _read(root / name, bounds.other_bytes, files)
    with _open_weights(root / WEIGHTS_FILE, bounds.weights_bytes, files) as weights:
        check_values(weights)
        check_structure(config, weights.tensors)
        idle = does_nothing(config, weights)
        tensors = weights.tensors
    findings = ("every lora_B (or lora_A) is zero: the adapter does nothing",) if idle else ()
    ordered = tuple(sorted(files, key=lambda file: file.path))
    return Payload(
        directory=root,
        files=ordered,
        config=config,
        peft_type=config["peft_type"],
        tensors=tensors,
        parameter_count=sum(info.elements for info in tensors.values()),
        digest=payload_digest(ordered),
        left_out=left_out,
        findings=findings,
    )


def read_registered(
    directory: str | os.PathLike[str],
    *,
    digest: str,
    what: str,
    advice: str = "remove that directory and try again",
) -> Payload:
    """Read an adapter directory that has to be a registered payload; every byte is hashed.

    Nothing is parsed before the hash is right. After that it is what registration found sound, and
    what depends on its bytes alone is not found out again: that its values are finite, that its
    shapes agree with its configuration, that it does something. So it has no findings.

    Args:
        directory: Where it is.
        digest: The payload's digest as it was registered.
        what: Which version it is, for the error message.
        advice: What to do where it is another; that of a copy which can be fetched again.

    Raises:
        DigestMismatch: It is not what was registered.
        InvalidPayload: A file is missing or is no plain file.
    """
    root = Path(directory)
    bounds = Limits()
    kept, left_out = choose_files(root, (), most=bounds.entries)
    files: list[PayloadFile] = []
    text = _read(root / CONFIG_FILE, bounds.config_bytes, files)
    for name in sorted(kept - {CONFIG_FILE, WEIGHTS_FILE}):
        _read(root / name, bounds.other_bytes, files)
    mapped = _hash_weights(root / WEIGHTS_FILE, bounds.weights_bytes, files)
    ordered = tuple(sorted(files, key=lambda file: file.path))
    found = payload_digest(ordered)
    if found != digest:
        raise DigestMismatch(
            f"the files of {what} at {root} are not what the digest says; {advice}",
            expected=digest,
            found=found,
        )
    config = parse_config(text)
    with TensorFile(root / WEIGHTS_FILE, mapped) as weights:
        tensors = weights.tensors
    count = sum(info.elements for info in tensors.values())
    return Payload(root, ordered, config, config["peft_type"], tensors, count, digest, left_out)


def payload_digest(files: Iterable[PayloadFile]) -> str:
    """Return the digest of a payload: of its paths, sizes and file digests, in order of path."""
    listed = [{"path": file.path, "size": file.size, "sha256": file.digest} for file in files]
    return digest_json(sorted(listed, key=lambda entry: str(entry["path"])))


def check_file_path(path: str) -> str:
    """Return the path if it names a file inside the payload, on every system alike.

    Raises:
        InvalidPayload: It is absolute, climbs out, or has characters that no payload's file has.

    Examples:
        >>> check_file_path("adapter_config.json")
        'adapter_config.json'
        >>> check_file_path("../secret")
        Traceback (most recent call last):
        dovetail.errors.InvalidPayload: '../secret' is no path inside a payload: it has '..' in it
    """
    parts = path.split("/")
    problem = None
    if len(path) > MAX_PATH_LENGTH:
        problem = f"it has {len(path)} characters, over {MAX_PATH_LENGTH}"
    elif _CONTROL.search(path):
        problem = "it has a control character in it"
    elif path.startswith("/") or re.match(r"[A-Za-z]:", path):
        problem = "it is absolute"
    elif "\\" in path:
        problem = "it has a backslash in it"
    elif ".." in parts:
        problem = "it has '..' in it"
    elif "" in parts or "." in parts:
        problem = "it has an empty part"
    if problem is not None:
        _refuse(f"{path[:80]!a} is no path inside a payload: {problem}", path=path)
    return path


def open_plain(path: Path, limit: int) -> tuple[int, os.stat_result]:
    """Open a plain file: a link is not followed, and a pipe put in its place does not block.

    Raises:
        InvalidPayload: It cannot be read, is no plain file, or has more bytes than the limit.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        _refuse(f"{path.name} cannot be read: {error.strerror}", file=path.name)
    status = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "is no plain file; remove it"
    elif status.st_size > limit:
        problem = f"has {status.st_size:,} bytes; at most {limit:,} are accepted"
    if problem is not None:
        os.close(descriptor)
        _refuse(f"{path.name} {problem}", file=path.name, size=status.st_size, limit=limit)
    return descriptor, status


def _read(path: Path, limit: int, files: list[PayloadFile]) -> bytes:
    descriptor, status = open_plain(path, limit)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(limit + 1)
        _check_still(path, status, os.fstat(file.fileno()))
    problem = pickle_problem(data[:2])
    if problem is not None:
        _refuse(f"{path.name} {problem}", file=path.name)
    files.append(_described(path, len(data), hashlib.sha256(data)))
    return data


def _open_weights(path: Path, limit: int, files: list[PayloadFile]) -> TensorFile:
    descriptor, status = open_plain(path, limit)
    try:
        weights = open_tensors(descriptor, path)
        hasher = hashlib.sha256()
        with weights.whole() as view:
            for start in range(0, len(view), _CHUNK):
                hasher.update(view[start : start + _CHUNK])
        _check_still(path, status, os.fstat(descriptor))
    finally:
        os.close(descriptor)
    files.append(_described(path, weights.size, hasher))
    return weights


def _hash_weights(path: Path, limit: int, files: list[PayloadFile]) -> mmap.mmap:
    """Hash a file without a look at what it says; return it mapped."""
    descriptor, status = open_plain(path, limit)
    try:
        if not status.st_size:
            _refuse(f"{path.name} is empty; remove its directory", file=path.name)
        # Read and not mapped: a mapping's pages are made one by one, which takes longer than
        # copying them into one buffer that stays in the processor's cache.
        buffer = bytearray(_BUFFER)
        hasher, size = hashlib.sha256(), 0
        while count := os.preadv(descriptor, [buffer], size):
            hasher.update(memoryview(buffer)[:count])
            size += count
        _check_still(path, status, os.fstat(descriptor))
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    files.append(_described(path, size, hasher))
    return mapped


def _described(path: Path, size: int, hasher: Any) -> PayloadFile:
    return PayloadFile(check_file_path(path.name), size, f"sha256:{hasher.hexdigest()}")


def _check_still(path: Path, before: os.stat_result, after: os.stat_result) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        _refuse(f"{path.name} changed while it was read; try again", file=path.name)


def _refuse(problem: str, **data: Any) -> NoReturn:
    raise InvalidPayload(problem, **data)
