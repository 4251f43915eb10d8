"""An untrained adapter for the small base model, for documented examples and trials."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from dovetail.demo import BASE_DIRECTORY

VIRTUAL_TOKENS = 8


def make_example_adapter(directory: str | os.PathLike[str], *, seed: int = 0) -> Path:
    """Write a random soft prompt of 8 tokens, as PEFT's ``save_pretrained`` does.

    Args:
        directory: Where to write it.
        seed: Another seed gives another prompt.
    """
    import torch
    from peft import PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(BASE_DIRECTORY, local_files_only=True)
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=VIRTUAL_TOKENS)
    with warnings.catch_warnings():
        # PEFT asks the model by a name that transformers is about to drop.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        get_peft_model(model, config).save_pretrained(str(directory))
    return Path(directory)
