"""How much memory rows take, and what running out of it looks like."""

from __future__ import annotations

from typing import Any

import psutil
import torch

_USABLE = 0.8  # of what is free: activations need some, too
_CPU_WORDS = ("can't allocate memory", "not enough memory")  # on Linux and macOS; on Windows


def column_size(model: Any) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    width = width or config.hidden_size // heads
    layers = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    return int(2 * layers * kept * width * model.dtype.itemsize)


def affordable_slots(model: Any, columns: int) -> int:
    """Return how many rows of so many tokens fit into the memory that is free; 1 at least."""
    size = column_size(model) * columns
    return max(1, int(_free(model.device) * _USABLE) // max(1, size))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that there was not enough memory.

    On CPUs torch raises a plain RuntimeError, whose words are those of the system.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_WORDS)


def release(device: torch.device) -> None:
    """Give back to the device what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    return int(psutil.virtual_memory().available)
