"""Open a base model: find its files, know them by their hash, load and freeze them."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from dovetail.loader.base import FrozenBase
from dovetail.loader.locate import locate_base
from dovetail.loader.model import load_model, load_tokenizer
from dovetail.loader.verify import check_tokenizer, check_weights
from dovetail.registry.fingerprint import BaseCheckpoint, read_base
from dovetail.registry.progress import Progress
from dovetail.settings import Settings

if TYPE_CHECKING:
    import torch

    from dovetail.registry.store import Registry

logger = logging.getLogger(__name__)


def open_base(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    registry: Registry | None = None,
    device: str = "cpu",
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    expected: str | None = None,
    allow_base_mismatch: bool = False,
    online: bool = False,
    progress: Progress | None = None,
    adapter_memory: int | None = None,
) -> FrozenBase:
    """Load a base model, freeze it, and know it by the hash of its weights.

    Args:
        name_or_path: A directory, or a hub name that is in the local hub cache.
        revision: Commit, tag or branch of the hub snapshot.
        registry: Where ``attach`` looks references up.
        device: Where the model runs, such as ``cuda``.
        dtype: Type to compute in, such as ``bfloat16``; the checkpoint's own if None.
        attn_implementation: As in transformers, such as ``eager`` or ``sdpa``.
        expected: Fingerprint that the weights must have.
        allow_base_mismatch: Open weights that differ from ``expected`` all the same.
        online: Allow the download of a hub model.
        progress: Called with the bytes hashed and the bytes in all.
        adapter_memory: Bytes that the weights of attached adapters may take; the least recently
            used are let go of and read again when a row needs them. Without a limit if None; on
            CPUs weights in the model's own type are mapped files, which take none.

    Raises:
        BaseModelNotFound: The files are not on this machine.
        IncompatibleBaseModel: The weights are not those that are expected, or the loaded model is
            not what its files say.
        InvalidInput: ``dtype`` names no type, or the tokenizer cannot be loaded.
    """
    directory = locate_base(name_or_path, revision=revision, online=online)
    settings = Settings.from_env() if registry is None else registry.settings
    checkpoint = read_base(directory, cache_dir=settings.cache_dir, progress=progress)
    if expected is not None:
        _check_expected(checkpoint, expected, registry=registry, allow=allow_base_mismatch)
    model = load_model(
        checkpoint, device=device, dtype=dtype, attn_implementation=attn_implementation
    )
    return FrozenBase(
        checkpoint=checkpoint,
        model=model,
        tokenizer=load_tokenizer(directory),
        registry=registry,
        adapter_memory=adapter_memory,
    )


def _check_expected(
    checkpoint: BaseCheckpoint, expected: str, *, registry: Registry | None, allow: bool
) -> None:
    weights = check_weights(
        expected=expected, found=checkpoint, registry=registry, what="expected", allow=allow
    )
    tokenizer = check_tokenizer(
        expected=expected, found=checkpoint, registry=registry, what="expected", allow=allow
    )
    if not (weights and tokenizer):
        logger.warning(
            "opened %s (%s) although %s was expected, as asked for",
            checkpoint.name,
            checkpoint.manifest.fingerprint,
            expected,
        )
