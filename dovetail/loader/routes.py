"""The ways in which PEFT runs a batch of token ids: with wrapped layers, or by its own generation.

Every route takes rows of token ids without padding and returns a tensor of new tokens, one line
per row, the prompt already cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from transformers import PreTrainedModel

from dovetail.loader.quiet import peft_quiet
from dovetail.loader.tree import Snapshot, TreeChange

Batching = Literal["any", "equal", "single"]
"""Which rows may share a batch: any, those with equally many tokens, or none."""

Rows = Sequence[Sequence[int]]
Options = Mapping[str, Any]


class Route(Protocol):
    """One way to run a batch."""

    @property
    def name(self) -> Literal["modules", "peft"]:
        """What the way is called in results."""

    @property
    def virtual_tokens(self) -> int:
        """Positions that the adapter takes from the model's maximum length."""

    @property
    def batching(self) -> Batching:
        """Which rows may share a batch."""

    def run(self, model: Any, rows: Rows, options: Options) -> torch.Tensor:
        """Generate new tokens for each row."""


def run_plain(model: Any, rows: Rows, options: Options) -> torch.Tensor:
    """Run rows through the model as it stands."""
    ids, mask = pad_rows(model, rows, options)
    output = model.generate(input_ids=ids, attention_mask=mask, **options)
    return new_tokens(model, output, ids)


def pad_rows(model: Any, rows: Rows, options: Options) -> tuple[torch.Tensor, torch.Tensor]:
    """Make rectangles of ids and mask; decoder-only models are padded on the left."""
    width = max(len(row) for row in rows)
    pad = options["pad_token_id"] or 0
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        if model.config.is_encoder_decoder:
            ids.append([*row, *[pad] * gap])
            mask.append([1] * len(row) + [0] * gap)
        else:
            ids.append([*[pad] * gap, *row])
            mask.append([0] * gap + [1] * len(row))
    return torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)


def new_tokens(model: Any, output: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Cut off what was there before generation: the input, or the decoder's start token."""
    return output[:, 1 if model.config.is_encoder_decoder else ids.shape[1] :]


class ModulesRoute:
    """Layers of the base are wrapped while a batch runs, and bare again afterwards.

    Args:
        change: What the adapter does to the module tree.
        batching: Which rows may share a batch.
    """

    name: Literal["modules"] = "modules"
    virtual_tokens = 0

    def __init__(self, change: TreeChange, *, batching: Batching) -> None:
        self._change = change
        self.batching = batching

    def run(self, model: PreTrainedModel, rows: Rows, options: Options) -> torch.Tensor:
        """Generate new tokens for each row."""
        with self._change.applied():
            return run_plain(model, rows, options)


class PeftRoute:
    """PEFT's own generation, for kinds that are neither a prompt nor wrapped layers.

    PEFT is right for rows without padding only, so rows of a batch have equal length. It patches
    the model while it generates; the patches are taken out after each batch.

    Args:
        peft_model: The ``PeftModel`` around the base.
        change: What making it did to the module tree.
        virtual_tokens: Positions that the adapter takes.
    """

    name: Literal["peft"] = "peft"
    batching: Batching = "equal"

    def __init__(self, peft_model: Any, change: TreeChange, virtual_tokens: int) -> None:
        self._peft_model = peft_model
        self._change = change
        self.virtual_tokens = virtual_tokens

    def run(self, model: PreTrainedModel, rows: Rows, options: Options) -> torch.Tensor:
        """Generate new tokens for each row."""
        ids, mask = pad_rows(model, rows, options)
        snapshot = Snapshot(model)
        try:
            with self._change.applied(), peft_quiet():
                output: torch.Tensor = self._peft_model.generate(
                    input_ids=ids, attention_mask=mask, **options
                )
        finally:
            snapshot.restore()
        return new_tokens(model, output, ids)
