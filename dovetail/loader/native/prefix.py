"""Read prefix tuning: keys and values for every layer, as PEFT's inference lays them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidPayload
from dovetail.loader.native.adapter import NativeAdapter, Prefix
from dovetail.loader.native.prompt import check_prompt_names, read_virtual_tokens
from dovetail.loader.native.tensors import read_tensors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from dovetail.registry.payload import Payload

_NAME = "prompt_embeddings"
# PEFT cuts the prefix to the size of each layer, or leaves layers out.
_UNEVEN = ("gemma2", "gemma3_text", "gemma4")


def read_prefix(model: PreTrainedModel, payload: Payload, config: Any) -> NativeAdapter | None:
    """Read given keys and values, or return None if the model's layers do not all take them.

    A projection, if there was one, has been applied before saving.

    In an encoder-decoder model PEFT puts two copies of the ``2 * layers`` matrices one after the
    other and deals four to each decoder layer: keys and values for its self-attention, and two for
    its cross-attention, which it then throws away. So layer ``i`` has the matrices ``4 * i`` and
    ``4 * i + 1``, counted round the end; the encoder has none.

    Raises:
        InvalidPayload: A tensor is missing, left over, or of a shape that does not fit the config.
    """
    if payload.config.get("modules_to_save"):
        return None
    check_prompt_names(set(payload.tensors), frozenset({_NAME}))
    tokens = read_virtual_tokens(payload)
    sizes = (config.num_layers, config.num_attention_heads, config.token_dim)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    layers, heads, width = sizes
    shape = payload.tensors[_NAME].shape
    if shape != (tokens, 2 * layers * width):
        raise InvalidPayload(
            f"{_NAME} has shape {list(shape)}, but adapter_config.json calls for "
            f"{[tokens, 2 * layers * width]}",
            shape=shape,
        )
    both = bool(model.config.is_encoder_decoder)
    if width % heads or (layers, heads, width // heads) != _attention(model):
        return None
    if (config.num_transformer_submodules or 1) != (2 if both else 1):
        return None
    flat = read_tensors(payload, device=model.device, dtype=model.dtype)[_NAME]
    # [2 * layers, heads, tokens, head size]
    matrices = flat.view(tokens, 2 * layers, heads, width // heads).permute(1, 2, 0, 3)
    prefix = _dealt(matrices, layers, step=4 if both else 2)
    return NativeAdapter(
        digest=payload.digest,
        kind="prefix",
        prefix=prefix,
        virtual_tokens=tokens,
        size=flat.nbytes,
    )


def _dealt(matrices: torch.Tensor, layers: int, *, step: int) -> Prefix:
    count = len(matrices)
    return Prefix(
        keys=tuple(matrices[step * layer % count] for layer in range(layers)),
        values=tuple(matrices[(step * layer + 1) % count] for layer in range(layers)),
    )


def _attention(model: PreTrainedModel) -> tuple[int, int, int] | None:
    """Return layers, key-value heads and head size of the cached self-attention, if all alike."""
    config: Any = model.config
    if not config.is_encoder_decoder:
        config = config.get_text_config()
    if any(kind in config.model_type for kind in _UNEVEN):
        return None
    if getattr(config, "is_heterogeneous", False):  # layers of different sizes
        return None

    def first(*names: str) -> int | None:
        return next(
            (value for name in names if isinstance(value := getattr(config, name, None), int)), None
        )

    layers = first("num_decoder_layers", "decoder_layers", "num_hidden_layers")
    queries = first("decoder_attention_heads", "num_attention_heads")
    heads = first("num_key_value_heads") or queries
    size = first("d_kv", "head_dim")
    if size is None and queries and config.hidden_size % queries == 0:
        size = config.hidden_size // queries
    return None if layers is None or heads is None or size is None else (layers, heads, size)
