"""Read a payload into an adapter that the bank runs by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dovetail.loader.native.ia3 import read_ia3
from dovetail.loader.native.lora import read_lora
from dovetail.loader.native.prefix import read_prefix
from dovetail.loader.native.prompt import read_prompt
from dovetail.loader.native.tensors import readable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.loader.native.adapter import NativeAdapter
    from dovetail.registry.payload import Payload

_PROMPTS = frozenset({"PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING"})


def read_native(model: PreTrainedModel, payload: Payload, config: Any) -> NativeAdapter | None:
    """Read an adapter, leaving the model as it is.

    On the CPU, and where the file is of the model's type, its tensors are the mapped file itself.

    Args:
        model: The frozen model, bare.
        payload: The checked payload.
        config: Its configuration as PEFT's object.

    Returns:
        The adapter, or None for one that only PEFT can run.

    Raises:
        InvalidPayload: Tensors are missing, left over, or do not fit the configuration.
        IncompatibleBaseModel: They do not fit the model.
    """
    kind = payload.peft_type
    if not readable(payload):
        return None
    if kind == "LORA":
        return read_lora(model, payload, config)
    if kind == "IA3":
        return read_ia3(model, payload, config)
    if kind == "PREFIX_TUNING":
        return read_prefix(model, payload, config)
    return read_prompt(model, payload) if kind in _PROMPTS else None
