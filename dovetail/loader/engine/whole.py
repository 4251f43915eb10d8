"""Batches that stay together to their end, in the loop of transformers' ``generate``.

Beam search, penalties on repeated tokens and the like live there. The rows' adapters are applied
as in any other batch; transformers repeats each row for its beams, and the hooks follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dovetail.loader.engine.task import Task
from dovetail.loader.native.hooks import Mix, ModuleHooks


def run_whole(
    model: Any,
    tasks: Sequence[Task],
    options: Mapping[str, Any],
    *,
    hooks: ModuleHooks,
) -> torch.Tensor:
    """Generate for rows that may use different adapters, none with given keys and values.

    Decoder-only models see ``padding | virtual tokens | input``, so that the prompt touches its
    input in every row; encoder-decoder models see ``virtual tokens | input | padding``.

    Returns:
        New tokens, ``[rows, tokens]``.
    """
    with hooks.rows(Mix([task.lane.modules for task in tasks])):
        inputs = _inputs(model, tasks, pad=options.get("pad_token_id") or 0)
        output: torch.Tensor = model.generate(**inputs, **options)
    start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    return output[:, start:]


def _inputs(model: Any, tasks: Sequence[Task], *, pad: int) -> dict[str, torch.Tensor]:
    two_parts = model.config.is_encoder_decoder
    width = max(len(task.ids) for task in tasks)
    ids, mask = [], []
    for task in tasks:
        gap, own = width - len(task.ids), list(task.ids)
        ids.append(own + [pad] * gap if two_parts else [pad] * gap + own)
        mask.append([1] * len(own) + [0] * gap if two_parts else [0] * gap + [1] * len(own))
    inputs = {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }
    prompts = [task.lane.soft.prompt if task.lane.soft else None for task in tasks]
    if all(prompt is None for prompt in prompts):
        return inputs
    part = model.get_encoder() if two_parts else model
    embedded = part.get_input_embeddings()(inputs["input_ids"])
    longest = max(len(prompt) for prompt in prompts if prompt is not None)
    joined = embedded.new_zeros(len(tasks), longest + width, embedded.shape[2])
    seen = inputs["attention_mask"].new_zeros(len(tasks), longest + width)
    for row, (task, prompt) in enumerate(zip(tasks, prompts, strict=True)):
        own = embedded[row, : len(task.ids)] if two_parts else embedded[row, -len(task.ids) :]
        whole = own if prompt is None else torch.cat([prompt, own])
        place = slice(0, len(whole)) if two_parts else slice(longest + width - len(whole), None)
        joined[row, place] = whole
        seen[row, place] = 1
    inputs |= {"inputs_embeds": joined, "attention_mask": seen}
    if two_parts:
        del inputs["input_ids"]
    return inputs
