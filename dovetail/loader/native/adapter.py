"""What a native adapter consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

Kind = Literal["lora", "ia3", "prompt", "prefix"]


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """LoRA on one module: ``output += scale * up @ (down @ input)``.

    Attributes:
        down: ``[rank, inputs]``; for an embedding ``[rank, vocabulary]``.
        up: ``[outputs, rank]``.
        scale: The factor, patterns and rank-stabilising included.
        down_t: ``down`` as a product with rows of inputs needs it, a view.
        up_t: ``up`` likewise.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float
    down_t: torch.Tensor = field(init=False, repr=False)
    up_t: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "down_t", self.down.t())
        object.__setattr__(self, "up_t", self.up.t())


@dataclass(frozen=True, slots=True, eq=False)
class Rescale:
    """IA3 on one module: a factor for each feature.

    Attributes:
        vector: ``[features]``.
        on_input: Whether the module's input is scaled, as for feed-forward modules, or its output.
    """

    vector: torch.Tensor
    on_input: bool


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Prefix tuning: keys and values that stand before all others, one tensor per layer.

    In an encoder-decoder model they belong to the decoder's self-attention. PEFT drops those that
    it made for the cross-attention before the first step, so there are none here.

    Attributes:
        keys: Per layer ``[key-value heads, virtual tokens, head size]``.
        values: Likewise.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NativeAdapter:
    """A payload, ready to be applied to rows.

    Attributes:
        digest: The payload's digest.
        kind: ``lora``, ``ia3``, ``prompt`` or ``prefix``.
        low_rank: LoRA by module, named as in ``model.named_modules()``.
        rescale: IA3 by module, likewise.
        prompt: Embeddings of the virtual tokens, ``[virtual tokens, hidden size]``, or None.
        prefix: Given keys and values, or None.
        virtual_tokens: Positions that it takes from the model's maximum length.
        notes: What a person who reads the outputs should know.
        size: Bytes of its tensors, and of what running keeps of them.
    """

    digest: str
    kind: Kind
    low_rank: Mapping[str, LowRank] = field(default_factory=dict)
    rescale: Mapping[str, Rescale] = field(default_factory=dict)
    prompt: torch.Tensor | None = None
    prefix: Prefix | None = None
    virtual_tokens: int = 0
    notes: tuple[str, ...] = ()
    size: int
