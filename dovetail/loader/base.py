"""The frozen base model, and what is attached to it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dovetail.errors import InvalidInput
from dovetail.loader.bank import Bank
from dovetail.loader.locate import locate_base
from dovetail.loader.model import check_generates, load_model, load_tokenizer
from dovetail.loader.options import check_options
from dovetail.loader.rows import AttachedAdapter, Generation, Row
from dovetail.loader.verify import check_tokenizer, check_weights
from dovetail.registry.fingerprint import BaseCheckpoint, read_base
from dovetail.registry.progress import Progress
from dovetail.registry.reference import Reference
from dovetail.settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


class FrozenBase:
    """A frozen base model with adapters attached to it; made by ``open_base``.

    It is a context manager. One job runs at a time; adapters can be attached and detached from
    other threads while it does.

    Args:
        checkpoint: What was read from the model's files.
        model: The transformers model.
        tokenizer: Its tokenizer, or None if its directory has none.
        registry: Where ``attach`` looks references up.
        adapter_memory: Bytes that the weights of attached adapters may take.
    """

    def __init__(
        self,
        *,
        checkpoint: BaseCheckpoint,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        registry: Registry | None = None,
        adapter_memory: int | None = None,
    ) -> None:
        from dovetail.loader.engine.core import Core

        self._checkpoint = checkpoint
        self._model: PreTrainedModel | None = model
        self._tokenizer = tokenizer
        self._registry = registry
        self._lock = threading.RLock()
        self._core = Core(model)
        self._bank = Bank(self._core, checkpoint, budget=adapter_memory, lock=self._lock)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, as in the registry."""
        return self._checkpoint.manifest.fingerprint

    @property
    def checkpoint(self) -> BaseCheckpoint:
        """What was read from the model's files."""
        return self._checkpoint

    @property
    def model(self) -> PreTrainedModel:
        """The frozen transformers model; not to be changed.

        Raises:
            InvalidInput: The base is closed.
        """
        return self._require_open()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that came with the weights.

        Raises:
            InvalidInput: The model's directory has none.
        """
        if self._tokenizer is None:
            raise InvalidInput(
                f"base model {self._checkpoint.name!r} has no tokenizer in "
                f"{self._checkpoint.directory}; put its tokenizer files there"
            )
        return self._tokenizer

    @property
    def attached(self) -> tuple[AttachedAdapter, ...]:
        """The adapters that are attached, in the order in which they came."""
        return self._bank.attached

    def attach(
        self,
        reference: str | Reference,
        *,
        registry: Registry | None = None,
        allow_base_mismatch: bool = False,
    ) -> AttachedAdapter:
        """Attach a version from the registry; attaching it again changes nothing.

        Args:
            reference: ``name@alias``, ``name/7`` or ``name@latest``; an alias is looked up now.
            registry: Registry to use instead of that of ``open_base``.
            allow_base_mismatch: Attach to other weights or another tokenizer all the same.

        Raises:
            NotFoundError: No such version.
            IncompatibleBaseModel: It was trained on other weights or with another tokenizer.
            InvalidPayload: The installed PEFT cannot attach it as it is.
            DigestMismatch: What was read back is not what was registered.
        """
        registry = registry or self._registry
        if registry is None:
            raise InvalidInput(
                f"attaching {str(reference)!r} needs a registry: give one here or to open_base"
            )
        self._require_open()
        return self._bank.attach(
            str(reference), registry=registry, allow_base_mismatch=allow_base_mismatch
        )

    def attach_directory(
        self, path: str | os.PathLike[str], *, name: str | None = None
    ) -> AttachedAdapter:
        """Attach an adapter from a directory, without a registry.

        Nothing records which weights such an adapter was trained on: only names and shapes are
        compared.

        Args:
            path: Directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
            name: What rows call it; the path as given if None.

        Raises:
            InvalidPayload: The directory is damaged or unsafe, or PEFT cannot attach it as it is.
            IncompatibleBaseModel: Its tensors do not fit this base model.
        """
        self._require_open()
        return self._bank.attach_directory(
            Path(path), name=os.fspath(path) if name is None else name
        )

    def detach(self, reference: str | Reference) -> None:
        """Take an adapter off; the base model is then as if it had never been there.

        Raises:
            AdapterNotFound: Nothing is attached under this reference.
        """
        self._bank.detach(str(reference))

    def generate(
        self,
        rows: Iterable[Row],
        *,
        batch_size: int = 16,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        seed: int | None = None,
        ordered: bool = True,
        prefill_tokens: int = 512,
        on_done: Callable[[Generation], None] | None = None,
        **generation_options: Any,
    ) -> Iterator[Generation]:
        """Complete rows, any mixture of adapters, and yield results.

        Rows are read as they are needed, a window ahead. Each row's tokens are those that it would
        get alone. A row that is finished leaves its batch and the next enters. A row that cannot
        be scored yields a generation with an error and does not disturb the others.

        Beam search, penalties on repeated tokens and other options of transformers' own loop run
        there, in batches that stay together, with the same adapters. What the bank cannot apply
        itself runs through PEFT; ``Generation.route`` says so.

        Args:
            rows: The prompts.
            batch_size: Rows in one forward pass, at most.
            max_new_tokens: Limit for rows that set none; else the version's default; else 64.
            do_sample: Draw tokens; off unless asked for here or by the version.
            seed: Makes sampling repeatable whatever the batch: row ``i`` draws with ``seed + i``.
            ordered: Yield in input order; else as rows finish.
            prefill_tokens: Tokens in one pass of rows that enter, at most; longer inputs enter in
                pieces.
            on_done: Called for each row as soon as it is finished, in any order; for progress.
            generation_options: As for transformers' ``generate``; they go before the defaults of
                the version, which go before those of the model.

        Raises:
            InvalidInput: An option is not taken.
            AdapterNotFound: A row names an adapter that is not attached (when it is reached).
        """
        from dovetail.loader.generate import Generator

        for name, value in (("batch_size", batch_size), ("prefill_tokens", prefill_tokens)):
            if value < 1:
                raise InvalidInput(f"{name} is {value!r}; it must be a whole number from 1")
        check_generates(self.model, self._checkpoint.name)
        options = {
            **generation_options,
            "max_new_tokens": max_new_tokens,
            "do_sample": do_sample,
        }
        check_options(options, source="the call")
        return Generator(
            core=self._core,
            tokenizer=self.tokenizer,
            find=self._bank.mount,
            batch_size=batch_size,
            seed=seed,
            ordered=ordered,
            on_done=on_done,
            options=options,
            prefill_tokens=prefill_tokens,
            lock=self._lock,
        ).run(rows)

    def close(self) -> None:
        """Take all adapters and hooks off and let the model go; closing twice does no harm."""
        self._bank.clear()
        self._core.close()
        self._model = None

    def _require_open(self) -> PreTrainedModel:
        if self._model is None:
            raise InvalidInput(f"base model {self._checkpoint.name!r} is closed; open it again")
        return self._model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
