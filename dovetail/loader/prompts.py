"""Read the virtual tokens of prompt tuning, P-tuning and multitask prompt tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from dovetail.errors import IncompatibleBaseModel, InvalidPayload

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.registry.payload import Payload

_PLAIN = frozenset({"prompt_embeddings"})
_MULTITASK = frozenset({"prompt_embeddings", "prefix_task_cols", "prefix_task_rows"})


def load_prompt(payload: Payload, model: PreTrainedModel) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return the prompt's embeddings, ``[virtual tokens, hidden size]``, and notes.

    P-tuning saves what its encoder made of the virtual tokens, so it is read like a plain prompt.
    For encoder-decoder models PEFT saves twice the rows and uses the first half. A multitask
    prompt is ``prompt_embeddings * (prefix_task_cols[t] @ prefix_task_rows[t])`` with task t = 0
    (https://huggingface.co/papers/2303.02861).

    Raises:
        InvalidPayload: A tensor is missing, left over, or of a shape that does not fit the config.
        IncompatibleBaseModel: The prompt is not as wide as the base model's embeddings.
    """
    tensors = load_file(
        Path(payload.directory) / "adapter_model.safetensors", device=str(model.device)
    )
    multitask = payload.peft_type == "MULTITASK_PROMPT_TUNING"
    _check_names(set(tensors), _MULTITASK if multitask else _PLAIN)
    prompt = tensors["prompt_embeddings"]
    notes: tuple[str, ...] = ()
    if multitask:
        cols, rows = tensors["prefix_task_cols"], tensors["prefix_task_rows"]
        prompt = prompt * (cols[0] @ rows[0])
        if len(cols) > 1:
            notes = (f"a multitask prompt of {len(cols)} tasks: task 0 is used",)
    wanted = _virtual_tokens(payload)
    allowed = {wanted, 2 * wanted} if model.config.is_encoder_decoder else {wanted}
    if prompt.ndim != 2 or prompt.shape[0] not in allowed:  # noqa: PLR2004 (a matrix)
        raise InvalidPayload(
            f"prompt_embeddings has shape {list(prompt.shape)}, but adapter_config.json says "
            f"num_virtual_tokens={wanted}",
            shape=tuple(prompt.shape),
        )
    width = model.get_input_embeddings().embedding_dim
    if prompt.shape[1] != width:
        raise IncompatibleBaseModel(
            f"the prompt is {prompt.shape[1]} wide, the base model's embeddings are {width}",
            expected=width,
            found=prompt.shape[1],
        )
    return prompt[:wanted].clone(), notes


def _virtual_tokens(payload: Payload) -> int:
    value = payload.config.get("num_virtual_tokens")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidPayload(
            f"num_virtual_tokens in adapter_config.json is {value!r}; it must be a whole number "
            "from 1",
            value=value,
        )
    return value


def _check_names(found: set[str], wanted: frozenset[str]) -> None:
    missing, unused = sorted(wanted - found), sorted(found - wanted)
    if missing:
        raise InvalidPayload(f"the payload lacks {', '.join(missing)}", tensors=tuple(missing))
    if unused:
        raise InvalidPayload(
            f"{', '.join(unused)} of the payload would stay unused: a soft prompt has only "
            f"{', '.join(sorted(wanted))}",
            tensors=tuple(unused),
        )
