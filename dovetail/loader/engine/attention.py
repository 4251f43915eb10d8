"""Attention on a CPU where torch's `scaled_dot_product_attention` wastes most of its time.

It is made for many queries that see most columns. In a step every row has a single one, for which
it takes two to five times what plain matrix products take, and most of that in half precision; in a
pack of short prompts it computes the scores of all tokens with all others. A compiled loop, where
there is one, takes half the time of the products, and looks at nothing that is hidden. So a model
that would use SDPA gets this module's attention for its steps and for such packs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dovetail.loader import kernels

_NAME = "dovetail_one_query"
# The public name would set a model's parts, too, which may each have their own.
_CHOSEN = "_attn_implementation_internal"


class OneQuery:
    """Gives a model this module's attention for the length of a pass.

    Args:
        configs: The configurations by which the model's parts find their attention.
    """

    def __init__(self, configs: Sequence[Any] = ()) -> None:
        self._configs = configs

    @classmethod
    def of(cls, model: Any) -> OneQuery:
        """Make one for all parts of a model that use SDPA; on other devices it does nothing."""
        if model.device.type != "cpu":
            return cls()
        parts = (getattr(module, "config", None) for module in model.modules())
        configs = {id(part): part for part in parts if getattr(part, _CHOSEN, None) == "sdpa"}
        return cls(list(configs.values()))

    def __bool__(self) -> bool:
        return bool(self._configs)

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Use it in the block."""
        for config in self._configs:
            setattr(config, _CHOSEN, _NAME)
        try:
            yield
        finally:
            for config in self._configs:
                setattr(config, _CHOSEN, "sdpa")


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from one query of each row and head, or from all of a pack, in float32 at least.

    Args:
        module: The attention module.
        query: ``[rows, heads, 1, width]``, or of one row ``[1, heads, tokens, width]`` with a
            mask; SDPA does all else.
        key: ``[rows, heads of keys, columns, width]``.
        value: Likewise.
        attention_mask: What is added to the scores, or where a query may look,
            ``[rows, 1 or heads, 1, columns]``.
        scaling: What scores are multiplied with, in place of ``width ** -0.5``.
        position_bias: What is added to the scores, too.
        others: What SDPA takes, or refuses, for models that need more.

    Returns:
        ``[rows, tokens, heads, width]``, and no weights.
    """
    plain = _plain(others)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    if plain and kernels.suits(query.device, query.dtype):
        found = _by_loop(query, key, value, attention_mask, position_bias, scale)
        if found is not None:
            return found, None
    if query.shape[2] != 1 or not plain:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            position_bias=position_bias,
            **others,
        )
    rows, heads = query.shape[:2]
    # Heads that share keys and values are the queries of one product.
    grouped = (-1, key.shape[1], heads // key.shape[1], query.shape[3])
    kind = torch.promote_types(query.dtype, torch.float32)
    scores = query.reshape(grouped).to(kind) @ key.to(kind).transpose(2, 3)
    scores *= scale
    for bias in (attention_mask, position_bias):
        if bias is None:
            continue
        own = bias if bias.shape[1] == 1 else bias.reshape(len(bias), *grouped[1:3], -1)
        if bias.dtype == torch.bool:
            scores.masked_fill_(~own, -torch.inf)
        else:
            scores += own
    seen = scores.softmax(dim=-1) @ value.to(kind)
    return seen.to(query.dtype).reshape(rows, 1, heads, -1), None


def _by_loop(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    bias: torch.Tensor | None,
    scale: float,
) -> torch.Tensor | None:
    """Attend by the compiled loop, or return None where it does not go."""
    from dovetail.loader.kernels.one_query import attend

    rows, heads, tokens, _ = query.shape
    if tokens == 1:
        return attend(query, key, value, mask=mask, bias=bias, scale=scale)
    if rows != 1 or mask is None:
        return None
    # Every token of a pack is a row with one query; all have the same keys.
    given = (one if one is None else one.transpose(0, 2) for one in (mask, bias))
    mask, bias = (one if one is None else one.expand(tokens, -1, -1, -1) for one in given)
    key, value = (one.expand(tokens, -1, -1, -1) for one in (key, value))
    found = attend(query.transpose(0, 2), key, value, mask=mask, bias=bias, scale=scale)
    return None if found is None else found.view(1, tokens, heads, -1)


def _plain(others: dict[str, Any]) -> bool:
    """Tell whether nothing is asked for that only SDPA's own function knows."""
    asked = {name for name, value in others.items() if value is not None and value is not False}
    return not asked & {"softcap", "cache", "output_attentions", "s_aux"} and not others.get(
        "dropout"
    )


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
