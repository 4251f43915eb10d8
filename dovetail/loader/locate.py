"""Find a base model's files on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from dovetail.errors import BaseModelNotFound, MissingDependency
from dovetail.registry.directories import is_directory

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
_WEIGHTS = ("*.safetensors", "*.bin")


def locate_base(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None, online: bool = False
) -> Path:
    """Return the directory that holds a base model.

    A directory is taken as it is; anything else is a hub name, looked up in the local hub cache.
    The network is used only with ``online=True``.

    Raises:
        BaseModelNotFound: No such directory, or the hub name is not in the cache.
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    # The methods of Path raise for a name that is too long; these only say no.
    if name and is_directory(path):
        return path.resolve()
    if name and os.path.exists(path):  # noqa: PTH110 (likewise)
        raise BaseModelNotFound(
            f"base model {name!r} is a file; give the directory that holds its config.json",
            name=name,
        )
    if not _is_hub_name(name):
        raise BaseModelNotFound(f"base model {name!r}: there is no such directory", name=name)
    directory = _from_hub(name, revision=revision, online=online)
    if not any(any(directory.glob(pattern)) for pattern in _WEIGHTS):
        raise BaseModelNotFound(
            f"base model {name!r} is in the hub cache without its weights ({directory}); "
            "allow the download with online=True",
            name=name,
        )
    return directory


def _is_hub_name(name: str) -> bool:
    return bool(name) and not name.startswith((".", "/", "~")) and name.count("/") <= 1


def _from_hub(name: str, *, revision: str | None, online: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise MissingDependency(
            f"base model {name!r} is no directory, and looking in the hub cache needs "
            "huggingface_hub: pip install 'dovetail[loader]'",
            name=name,
        ) from error

    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                name, revision=revision, local_files_only=not online, allow_patterns=patterns
            )
        )

    at = f" at revision {revision!r}" if revision else ""
    try:
        directory = fetch(_FILES)
        if online and not any(directory.glob("*.safetensors")):
            directory = fetch([*_FILES, "*.bin"])
    except LocalEntryNotFoundError as error:
        advice = (
            "check the network"
            if online
            else "download it first, give a directory, or allow it with online=True in Python"
        )
        raise BaseModelNotFound(
            f"base model {name!r}{at} is not a directory and not in the local hub cache; {advice}",
            name=name,
            revision=revision,
        ) from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise BaseModelNotFound(
            f"base model {name!r}{at} cannot be had from the hub: {error}",
            name=name,
            revision=revision,
        ) from error
    return directory
