"""Read the virtual tokens of prompt tuning, P-tuning and multitask prompt tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetail.errors import IncompatibleBaseModel, InvalidPayload
from dovetail.loader.native.adapter import NativeAdapter
from dovetail.loader.native.tensors import read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.registry.payload import Payload

_PLAIN = frozenset({"prompt_embeddings"})
_MULTITASK = frozenset({"prompt_embeddings", "prefix_task_cols", "prefix_task_rows"})
_MATRIX = 2


def read_prompt(model: PreTrainedModel, payload: Payload) -> NativeAdapter | None:
    """Read a soft prompt, or return None if it comes with modules of its own.

    P-tuning saves what its encoder made of the virtual tokens, so it is read like a plain prompt.
    For encoder-decoder models PEFT saves twice the rows and uses the first half. A multitask
    prompt is ``prompt_embeddings * (prefix_task_cols[t] @ prefix_task_rows[t])`` with task t = 0
    (https://huggingface.co/papers/2303.02861).

    Raises:
        InvalidPayload: A tensor is missing, left over, or of a shape that does not fit the config.
        IncompatibleBaseModel: The prompt is not as wide as the base model's embeddings.
    """
    if payload.config.get("modules_to_save"):
        return None
    multitask = payload.peft_type == "MULTITASK_PROMPT_TUNING"
    check_prompt_names(set(payload.tensors), _MULTITASK if multitask else _PLAIN)
    # The factors of a multitask prompt are multiplied in the type that they were trained in.
    tensors = read_tensors(payload, device=model.device, dtype=None if multitask else model.dtype)
    prompt = tensors["prompt_embeddings"]
    wanted = read_virtual_tokens(payload)
    allowed = {wanted, 2 * wanted} if model.config.is_encoder_decoder else {wanted}
    if prompt.ndim != _MATRIX or prompt.shape[0] not in allowed:
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
    prompt = prompt[:wanted]
    notes: tuple[str, ...] = ()
    if multitask:
        cols, rows = tensors["prefix_task_cols"], tensors["prefix_task_rows"]
        prompt = (prompt * (cols[0, :wanted] @ rows[0])).to(model.dtype)
        if len(cols) > 1:
            notes = (f"a multitask prompt of {len(cols)} tasks: task 0 is used",)
    return NativeAdapter(
        digest=payload.digest,
        kind="prompt",
        prompt=prompt,
        virtual_tokens=wanted,
        notes=notes,
        size=prompt.nbytes,
    )


def read_virtual_tokens(payload: Payload) -> int:
    """Return the configured number of virtual tokens.

    Raises:
        InvalidPayload: It is no whole number from 1.
    """
    value = payload.config.get("num_virtual_tokens")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidPayload(
            f"num_virtual_tokens in adapter_config.json is {value!r}; it must be a whole number "
            "from 1",
            value=value,
        )
    return value


def check_prompt_names(found: set[str], wanted: frozenset[str]) -> None:
    """Compare the tensors' names with those that the kind of prompt consists of.

    Raises:
        InvalidPayload: Some are missing or left over.
    """
    missing, unused = sorted(wanted - found), sorted(found - wanted)
    if missing:
        raise InvalidPayload(f"the payload lacks {', '.join(missing)}", tensors=tuple(missing))
    if unused:
        raise InvalidPayload(
            f"{', '.join(unused)} of the payload would stay unused: a soft prompt has only "
            f"{', '.join(sorted(wanted))}",
            tensors=tuple(unused),
        )
