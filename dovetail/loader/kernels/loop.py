"""A loop in the types of models, compiled when it is first needed.

What was compiled is kept on disk beside the module that the loop is in, until that file changes.
numba does not see changes of what the loop takes from elsewhere, such as `memory`: who edits that
removes ``__pycache__/*.nb?``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from numba import cfunc, types

logger = logging.getLogger(__name__)


class Loop:
    """A loop for each type of numbers, compiled when it is first needed, and kept on disk.

    Args:
        float32: The loop, as a function of the address of its arguments.
        bfloat16: Likewise.
        float16: Likewise.
    """

    def __init__(
        self,
        float32: Callable[[int], None],
        bfloat16: Callable[[int], None],
        float16: Callable[[int], None],
    ) -> None:
        self._functions = {
            torch.float32: float32,
            torch.bfloat16: bfloat16,
            torch.float16: float16,
        }
        # Kept, because what was compiled goes with the object that stands for it.
        self._compiled: dict[torch.dtype, Any] = {}

    def address(self, dtype: torch.dtype) -> int:
        """Return where the loop for a type is."""
        if dtype not in self._compiled:
            self._compiled[dtype] = _compile(self._functions[dtype])
        address: int = self._compiled[dtype].address
        return address


def _compile(function: Callable[[int], None]) -> Any:
    signature = types.void(types.int64)
    try:
        return cfunc(signature, cache=True)(function)
    except (RuntimeError, OSError) as error:  # no folder to keep it in, or no room
        logger.info("compiled loops are not kept for the next process: %s", error)
        return cfunc(signature)(function)
