"""The frozen base model, and what is attached to it.

This is the loader's public interface in one place: what the calls take and raise, while others do
the work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dovetail.errors import InvalidInput
from dovetail.loader.bank import Bank
from dovetail.loader.model import check_generates
from dovetail.loader.options import check_count, check_options
from dovetail.loader.rows import AttachedAdapter, Generation, Row
from dovetail.registry.fingerprint import BaseCheckpoint
from dovetail.registry.reference import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dovetail.loader.heads.embed import Pooling
    from dovetail.loader.heads.results import Classification, Embedding
    from dovetail.registry.payload import Payload
    from dovetail.registry.store import Registry


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
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        payload: Payload | None = None,
    ) -> AttachedAdapter:
        """Attach an adapter from a directory, without a registry.

        Nothing records which weights such an adapter was trained on: only names and shapes are
        compared.

        Args:
            path: Directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
            name: What rows call it; the path as given if None.
            payload: What `dovetail.registry.payload.read_payload` found there a moment ago, to
                spare another look; None to look now.

        Raises:
            InvalidPayload: The directory is damaged or unsafe, or PEFT cannot attach it as it is.
            IncompatibleBaseModel: Its tensors do not fit this base model.
        """
        self._require_open()
        return self._bank.attach_directory(
            Path(path), name=os.fspath(path) if name is None else name, payload=payload
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
        prefill_tokens: int = 256,
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
            InvalidInput: An option is not taken, or a row names an adapter that was trained to
                classify or to embed (in a list of rows, before the first one runs).
            AdapterNotFound: A row names an adapter that is not attached (when it is reached).
        """
        from dovetail.loader.generate import Generator

        check_count(batch_size, name="batch_size")
        check_count(prefill_tokens, name="prefill_tokens")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise InvalidInput(f"seed is {seed!r}; it must be a whole number", value=seed)
        check_generates(self.model, self._checkpoint.name)
        options = {
            **generation_options,
            "max_new_tokens": max_new_tokens,
            "do_sample": do_sample,
        }
        check_options(options, source="the call")
        self._bank.check_rows(rows, verb="generate")
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

    def classify(
        self, rows: Iterable[Row], *, batch_size: int = 16, problem_type: str | None = None
    ) -> Iterator[Classification]:
        """Classify rows, each with the head of its adapter, and yield results in input order.

        Rows run through PEFT's own forward pass on the base's weights (``reference`` route), in
        batches of one adapter each; adapters with different numbers of labels may be mixed. Rows
        are read a window ahead. A row that cannot be classified yields a result with an error.

        Labels are those of the version's hyperparameter ``id2label``, of a ``config.json`` beside
        the adapter (which a registry does not keep), or of the base model's own, the first that
        names as many; else ``LABEL_0`` and so on.

        Args:
            rows: The texts; each names an adapter that was trained for ``SEQ_CLS``.
            batch_size: Rows in one forward pass, at most.
            problem_type: What the head's outputs mean: ``single_label_classification``,
                ``multi_label_classification`` or ``regression``. If None, what such a
                ``config.json`` says; without one, one output is a regression.

        Raises:
            InvalidInput: An option is not taken, or a row names no adapter or one that was trained
                for something else (in a list of rows, before the first one runs).
            AdapterNotFound: A row names an adapter that is not attached (when it is reached).
        """
        from dovetail.loader.heads.classify import Classifier

        classifier = Classifier(
            model=self._require_open(),
            tokenizer=self.tokenizer,
            find=partial(self._bank.find_head, verb="classify"),
            lock=self._lock,
            batch_size=batch_size,
            problem_type=problem_type,
        )
        self._bank.check_rows(rows, verb="classify")
        return classifier.run(rows)

    def embed(
        self, rows: Iterable[Row], *, batch_size: int = 16, pooling: Pooling = "mean"
    ) -> Iterator[Embedding]:
        """Turn rows into vectors and yield them in input order.

        A vector is made of the last hidden states; of an encoder-decoder model, of the encoder's.
        Virtual tokens and padding do not count. Rows without an adapter are embedded by the bare
        base model, those with one through PEFT.

        Args:
            rows: The texts; each names an adapter that was trained for ``FEATURE_EXTRACTION``, or
                none.
            batch_size: Rows in one forward pass, at most.
            pooling: ``mean`` of all tokens, the ``last`` or the first (``cls``).

        Raises:
            InvalidInput: An option is not taken, or a row names an adapter that was trained for
                something else (in a list of rows, before the first one runs).
            AdapterNotFound: A row names an adapter that is not attached (when it is reached).
        """
        from dovetail.loader.heads.embed import Embedder

        embedder = Embedder(
            model=self._require_open(),
            tokenizer=self.tokenizer,
            find=partial(self._bank.find_head, verb="embed"),
            lock=self._lock,
            batch_size=batch_size,
            pooling=pooling,
        )
        self._bank.check_rows(rows, verb="embed")
        return embedder.run(rows)

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
