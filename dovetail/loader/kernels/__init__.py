"""Compiled loops for what torch's operators are slow at on a CPU: very small products.

numba compiles them when they are first used, and keeps them on disk. Where it is not installed, or
for a model on another device, the same is computed by torch's operators.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import torch

logger = logging.getLogger(__name__)

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def suits(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether tensors like this can be computed by compiled loops."""
    return device.type == "cpu" and dtype in _TYPES and _installed()


@cache
def _installed() -> bool:
    found = find_spec("numba") is not None
    if not found:
        logger.info("numba is not installed; with dovetail[cpu], jobs on a processor are faster")
    return found
