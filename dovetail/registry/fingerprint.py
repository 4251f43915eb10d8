"""Read a base model's directory: its manifest, its fingerprint and what its configuration says.

Hashing is done once: the manifest is kept in the cache directory for as long as no weight file's
path, size, times or inode changes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from dovetail.errors import BaseModelNotFound, InvalidInput
from dovetail.registry import statcache
from dovetail.registry.checkpoint import find_checkpoint, open_sources
from dovetail.registry.digests import is_digest
from dovetail.registry.hashing import hash_pieces
from dovetail.registry.jsontext import parse_json
from dovetail.registry.manifest import Manifest, TensorEntry
from dovetail.registry.progress import Progress
from dovetail.registry.tokenizer import tokenizer_digest, tokenizer_files

__all__ = [
    "BaseCheckpoint",
    "Manifest",
    "TensorEntry",
    "parse_manifest",
    "read_base",
    "read_manifest",
]

CONFIG_FILE = "config.json"
_SNAPSHOT = re.compile(r"models--(?P<name>.+)/snapshots/(?P<revision>[^/]+)")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_NESTED = ("text_config", "llm_config", "language_config", "decoder", "text_encoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseCheckpoint:
    """A base model as it lies in a directory, or as another registry told of it.

    Attributes:
        directory: Where it is; None if only what it is like is known.
        manifest: Its tensors.
        name: What it is called: a hub name, or the directory's name.
        revision: Commit of the hub snapshot, if it is one.
        architecture: Class name such as ``GPT2LMHeadModel``.
        model_type: Such as ``gpt2``.
        hidden_size: Width of the hidden states.
        vocab_size: Number of tokens it embeds.
        parameter_count: Number of values in its tensors.
        dtype: The type that most of them have, such as ``F32``.
        tokenizer_digest: Digest of its tokenizer's vocabulary, or None if it has none.
        stamps: What changes when one of its weight files does, as it was when they were hashed.
    """

    directory: Path | None
    manifest: Manifest
    name: str
    revision: str | None
    architecture: str | None
    model_type: str | None
    hidden_size: int | None
    vocab_size: int | None
    parameter_count: int
    dtype: str
    tokenizer_digest: str | None
    stamps: statcache.Stamps = field(default=(), compare=False, repr=False)


def read_manifest(
    directory: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Hash every tensor of a checkpoint, or take the result of the last time.

    Args:
        directory: A directory that ``save_pretrained`` wrote, or a snapshot in the hub's cache.
        cache_dir: Where to keep the result; None keeps nothing.
        progress: Called with the bytes hashed and the bytes in all; from several threads, one
            call at a time.

    Raises:
        BaseModelNotFound: The directory or a weight file is not there.
        InvalidInput: A file is damaged, or changed while it was hashed.
        MissingDependency: The weights are PyTorch files and torch is not installed.
    """
    return _read_stamped(directory, cache_dir, progress)[0]


def _read_stamped(
    directory: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> tuple[Manifest, statcache.Stamps]:
    checkpoint = find_checkpoint(_existing(directory))
    files = statcache.stamps(checkpoint.files)
    cache = Path(cache_dir) / "manifests" if cache_dir is not None else None
    kept = _cached(cache, files)
    if kept is not None:
        return kept, files
    with open_sources(checkpoint) as sources:
        digests = hash_pieces(
            {name: source.piece for name, source in sources.items()}, progress=progress
        )
        manifest = Manifest(
            tuple(
                TensorEntry(name, source.dtype, source.shape, digests[name])
                for name, source in sources.items()
            )
        )
    if statcache.stamps(checkpoint.files) != files:
        raise InvalidInput(
            f"a weight file in {str(directory)!a} changed while it was hashed; wait until nothing "
            "writes to it and try again",
            directory=str(directory),
        )
    if cache is not None:
        statcache.store(cache, files, manifest.to_json())
    return manifest, files


def read_base(
    directory: str | os.PathLike[str],
    *,
    name: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BaseCheckpoint:
    """Read a base model's manifest, configuration and tokenizer digest.

    Args:
        directory: As for `read_manifest`.
        name: What to call it; by default its hub name or the directory's.
        revision: Its revision; by default that of the hub snapshot.
        cache_dir: As for `read_manifest`.
        progress: As for `read_manifest`.

    Raises:
        BaseModelNotFound: The directory, its ``config.json`` or a weight file is not there.
        InvalidInput: A file is damaged, or changed while it was hashed.
        MissingDependency: The weights are PyTorch files and torch is not installed.
    """
    place = _existing(directory)
    config = _config(place)
    manifest, stamps = _read_stamped(place, cache_dir, progress)
    snapshot = _SNAPSHOT.search(Path(os.path.abspath(place)).as_posix())  # noqa: PTH100
    architectures = config.get("architectures")
    return BaseCheckpoint(
        directory=place,
        manifest=manifest,
        name=name or _default_name(place, snapshot),
        revision=revision or (snapshot["revision"] if snapshot else None),
        architecture=_text(architectures[0])
        if isinstance(architectures, list) and architectures
        else None,
        model_type=_text(config.get("model_type")),
        hidden_size=_size(config, _WIDTHS),
        vocab_size=_size(config, ("vocab_size",)),
        parameter_count=manifest.parameter_count,
        dtype=manifest.dtype,
        tokenizer_digest=_tokenizer(place, cache_dir),
        stamps=stamps,
    )


@lru_cache(maxsize=4)
def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest as `Manifest.from_json` does, and keep the last few that were read.

    Raises:
        InvalidInput: It is no manifest.
    """
    return Manifest.from_json(data)


def _existing(directory: str | os.PathLike[str]) -> Path:
    place = Path(directory)
    if not place.is_dir():
        raise BaseModelNotFound(
            f"there is no directory {str(place)!a}; give the local directory of a base model",
            directory=str(place),
        )
    return place


def _cached(cache: Path | None, files: statcache.Stamps) -> Manifest | None:
    data = statcache.load(cache, files) if cache is not None else None
    if data is None:
        return None
    try:
        return parse_manifest(data)
    except InvalidInput:
        return None


def _tokenizer(place: Path, cache_dir: str | os.PathLike[str] | None) -> str | None:
    paths = tokenizer_files(place)
    if not paths:
        return None
    if cache_dir is None:
        return tokenizer_digest(place)
    cache, files = Path(cache_dir) / "tokenizers", statcache.stamps(paths)
    kept = statcache.load(cache, files)
    if kept is not None and is_digest(kept.decode(errors="replace")):
        return kept.decode()
    found = tokenizer_digest(place)
    if found is not None:
        statcache.store(cache, files, found.encode())
    return found


def _config(place: Path) -> dict[str, Any]:
    path = place / CONFIG_FILE
    if not path.is_file():
        raise BaseModelNotFound(
            f"{str(place)!a} has no {CONFIG_FILE}; give the directory that "
            "model.save_pretrained(DIR) wrote",
            directory=str(place),
        )
    # Published configurations of state-space models hold Infinity.
    config = parse_json(path.read_bytes(), what=CONFIG_FILE, allow_nonfinite=True)
    if not isinstance(config, dict):
        raise InvalidInput(f"{CONFIG_FILE} is no JSON object", path=str(path))
    return config


def _default_name(place: Path, snapshot: re.Match[str] | None) -> str:
    if snapshot is not None:
        return snapshot["name"].replace("--", "/")
    return place.resolve().name


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _size(config: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    tables = [config, *(config[key] for key in _NESTED if isinstance(config.get(key), dict))]
    for table in tables:
        for key in keys:
            value = table.get(key)
            if type(value) is int and value > 0:
                return value
    return None
