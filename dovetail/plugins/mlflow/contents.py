"""Which files a model has, as its MLmodel file says it.

A version's model is made when it is asked for. Who gets it file by file, from a server, needs to
know what there is to get, how large it is, and whether what came is what was made. So the entry of
the flavor lists all files but the MLmodel file itself::

    flavors:
      dovetail:
        files:
        - {path: adapter/adapter_model.safetensors, size: 40136, digest: 'sha256:…'}
        payload_digest: sha256:…

The digest of a payload is one of its files' paths, sizes and digests. So the list is tied to it
before any of the files is here, and the registry says which payload a version has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dovetail.errors import DigestMismatch, InvalidInput, InvalidPayload
from dovetail.plugins.mlflow.saved import ADAPTER_DIRECTORY, MODEL_FILE
from dovetail.registry.digests import digest_file, is_digest
from dovetail.registry.payload import (
    Limits,
    Payload,
    PayloadFile,
    check_file_path,
    payload_digest,
)

FILES = "files"

_PREFIX = f"{ADAPTER_DIRECTORY}/"
_KEYS = {"path", "size", "digest"}


def list_contents(directory: Path, payload: Payload) -> list[PayloadFile]:
    """Return the files of a model, sorted by path.

    Args:
        directory: What was written of it.
        payload: Its adapter; whether it was copied there makes no difference.
    """
    written = (path for path in directory.rglob("*") if path.is_file())
    own = [
        PayloadFile(name, path.stat().st_size, digest_file(path))
        for path in written
        if (name := path.relative_to(directory).as_posix()) != MODEL_FILE
        and not name.startswith(_PREFIX)
    ]
    adapter = [PayloadFile(_PREFIX + file.path, file.size, file.digest) for file in payload.files]
    return sorted([*own, *adapter], key=lambda file: file.path)


def as_entry(files: Iterable[PayloadFile]) -> list[dict[str, Any]]:
    """Return the list as the flavor's entry in the MLmodel file has it."""
    return [asdict(file) for file in files]


def read_contents(flavor: Mapping[str, Any], *, what: str) -> dict[str, PayloadFile]:
    """Read the list of a model's files.

    Args:
        flavor: The flavor's entry in the MLmodel file.
        what: Which model it is, for the error message.

    Returns:
        The files by path: all of them safe to write below a directory, none too large.

    Raises:
        InvalidInput: There is no list, or one that nobody would make.
        DigestMismatch: The adapter's files in it are not those of the payload that is named.
    """
    listed = flavor.get(FILES)
    limits = Limits()
    if not isinstance(listed, list) or not 0 < len(listed) <= limits.entries:
        raise InvalidInput(
            f"the MLmodel file of {what} does not list the model's files; the server's Dovetail is "
            "older than this one: upgrade it",
            what=what,
        )
    files: dict[str, PayloadFile] = {}
    for entry in listed:
        file = _read_entry(entry, limits, what)
        if file.path in files:
            raise InvalidInput(f"the MLmodel file of {what} lists {file.path!r} twice", what=what)
        files[file.path] = file
    adapter = (
        PayloadFile(path.removeprefix(_PREFIX), file.size, file.digest)
        for path, file in files.items()
        if path.startswith(_PREFIX)
    )
    found, expected = payload_digest(adapter), flavor.get("payload_digest")
    if found != expected:
        raise DigestMismatch(
            f"the MLmodel file of {what} is corrupt: the files that it lists have the digest "
            f"{found}, and it names {expected}; try again",
            expected=expected,
            found=found,
        )
    return files


def _read_entry(entry: Any, limits: Limits, what: str) -> PayloadFile:
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        raise InvalidInput(f"the MLmodel file of {what} lists {entry!r:.200}, which is no file")
    path, size, digest = entry["path"], entry["size"], entry["digest"]
    if type(size) is not int or not 0 <= size <= limits.weights_bytes or not is_digest(digest):
        raise InvalidInput(
            f"the MLmodel file of {what} lists a file of size {size!r:.50}, {digest!r:.80}"
        )
    problem = "it is the MLmodel file itself" if path == MODEL_FILE else None
    try:
        check_file_path(path if isinstance(path, str) else "")
    except InvalidPayload as error:
        problem = error.message
    if problem is not None:
        raise InvalidInput(f"the MLmodel file of {what} lists a file at {path!r:.200}: {problem}")
    return PayloadFile(path, size, digest)
