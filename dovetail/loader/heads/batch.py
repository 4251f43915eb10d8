"""Rectangles of token ids for models with a head, padded so that no row notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of token ids, padded on the right.

    On the right, because there no token of a causal model sees the padding, positions count from
    each row's start in every architecture, and encoders mask it.

    Attributes:
        ids: ``[rows, width]``.
        mask: 1 for a row's own tokens, ``[rows, width]``.
        lengths: Number of each row's tokens.
        pad: The token that the rows are filled up with.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    lengths: tuple[int, ...]
    pad: int


def make_batch(model: Any, rows: Sequence[Sequence[int]]) -> Batch:
    """Pad rows for a model; see `padding_token`."""
    pad = padding_token(model.config, rows)
    width = max(len(row) for row in rows)
    ids = [[*row, *[pad] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return Batch(
        ids=torch.tensor(ids, device=model.device),
        mask=torch.tensor(mask, device=model.device),
        lengths=tuple(map(len, rows)),
        pad=pad,
    )


def padding_token(config: Any, rows: Sequence[Sequence[int]]) -> int:
    """Choose a padding token that a head cannot take for the end of a row.

    Heads find the end by token: a decoder's takes the last token that is not the padding token,
    an encoder-decoder's the last end-of-sequence token. The configured padding token does what it
    would do for the row alone. Where there is none, or it ends sequences, too, any token will do
    that ends no row.
    """
    pad = config.get_text_config().pad_token_id
    taken = {row[-1] for row in rows}
    if config.is_encoder_decoder:
        taken |= end_tokens(config)
    elif pad is not None and pad >= 0:
        return int(pad)
    if pad is not None and pad >= 0 and pad not in taken:
        return int(pad)
    return next(token for token in range(len(taken) + 1) if token not in taken)


def end_tokens(config: Any) -> set[int]:
    """Return the tokens that end a sequence."""
    found = config.eos_token_id
    return set(found) if isinstance(found, list) else {found} - {None}


def positions(model: Any) -> int | None:
    """Return how many tokens a row may have, or None where nothing limits it.

    Where a model counts positions from its padding token on, as RoBERTa does, its first positions
    are never used.
    """
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("embeddings.position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            if padding is not None:
                return int(module.num_embeddings) - int(padding) - 1
    return room
