"""The input of the output embedding: contiguous, and only where a next token is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Head:
    """A hook before a model's output embedding.

    transformers hands over a slice of the hidden states. With frozen weights the matrix product of
    a slice takes a path that is many times slower on CPUs, most of all in bfloat16.

    Args:
        model: The model; one without an output embedding is left alone.
    """

    def __init__(self, model: Any) -> None:
        self._wanted: torch.Tensor | None = None
        self.module = model.get_output_embeddings()
        self._handle = (
            self.module.register_forward_pre_hook(self._narrow) if self.module is not None else None
        )

    @contextmanager
    def only(self, tokens: torch.Tensor) -> Iterator[None]:
        """Compute logits for some tokens of a packed row only, while in the block.

        Args:
            tokens: Their places in the row.
        """
        self._wanted = tokens
        try:
            yield
        finally:
            self._wanted = None

    def close(self) -> None:
        """Take the hook off."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _narrow(self, _module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        states = inputs[0]
        if self._wanted is not None:
            states = states[:, self._wanted]
        return (states.contiguous(), *inputs[1:])
