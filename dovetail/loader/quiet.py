"""Keep back messages of transformers and PEFT that the person at the keyboard cannot act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PEFT = (
    "Position ids are not supported for parameter efficient tuning",
    "fan_in_fan_out is set to (True|False) but the target module is",
    "`is_gradient_checkpointing` is deprecated",
)
_NO_MASK = "We strongly recommend passing in an `attention_mask`"


@contextmanager
def peft_quiet() -> Iterator[None]:
    """Ignore PEFT's remarks on its own inner workings, for the time of the block."""
    with warnings.catch_warnings():
        for message in _PEFT:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def generation_quiet() -> Iterator[None]:
    """Ignore the remark on missing attention masks, for the time of the block.

    transformers drops a mask without padding itself, and then complains that there is none.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_not_about_masks)
    try:
        yield
    finally:
        logger.removeFilter(_not_about_masks)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch off the bars that transformers draws on standard error while it loads."""
    from transformers.utils import logging as transformers_logging

    bars: Any = transformers_logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _not_about_masks(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NO_MASK)
