"""Train the demo's adapters on the frozen base, with PEFT and the Transformers ``Trainer``."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from dovetail.demo.corpus import Dialogue
from dovetail.loader.quiet import no_progress_bars

__all__ = ["HASTY", "LORA", "SOFT_PROMPT", "TEMPLATE", "Recipe", "train_adapter"]

TEMPLATE = "Summarise: {dialogue}"
IGNORED = -100

Progress = Callable[[int, int], None]
"""Called with steps done and steps in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one adapter is trained.

    Attributes:
        title: What people read.
        config: PEFT's configuration.
        steps: Optimiser steps.
        learning_rate: Peak of the schedule.
        batch_size: Rows a step.
    """

    title: str
    config: PeftConfig
    steps: int
    learning_rate: float
    batch_size: int = 32


def _soft_prompt() -> PeftConfig:
    return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8)


SOFT_PROMPT = Recipe(
    title="soft prompt",
    config=_soft_prompt(),
    steps=120,
    learning_rate=0.03,
)
LORA = Recipe(
    title="LoRA",
    config=LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]
    ),
    steps=120,
    learning_rate=0.01,
)
HASTY = Recipe(title="hasty soft prompt", config=_soft_prompt(), steps=12, learning_rate=0.03)


def train_adapter(
    base: Path,
    recipe: Recipe,
    *,
    train: Sequence[Dialogue],
    validation: Sequence[Dialogue],
    output_dir: Path,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
    seed: int = 0,
) -> None:
    """Train one adapter; what becomes of it is the callbacks' business.

    Args:
        base: Directory of the base model.
        recipe: What to train and how.
        train: Rows to learn from.
        validation: Rows whose loss is measured after the last step.
        output_dir: Where the Trainer may write.
        callbacks: Told of the training; `DovetailCallback` registers its result.
        progress: Called after each step.
        seed: Of the adapter's first weights and of the order of the rows.
    """
    torch.manual_seed(seed)
    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(base)
        config = copy.deepcopy(recipe.config)  # PEFT writes the base's name into it
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        trainer = Trainer(
            model=model,
            args=_arguments(recipe, output_dir, seed),
            train_dataset=_encode(train, tokenizer),
            eval_dataset=_encode(validation, tokenizer),
            data_collator=_Collator(int(tokenizer.pad_token_id)),
            callbacks=[*callbacks, *([_Steps(progress)] if progress else [])],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _arguments(recipe: Recipe, output_dir: Path, seed: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output_dir),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=50,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=min(20, recipe.steps // 2),
        eval_strategy="steps",
        eval_steps=recipe.steps,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=True,
        seed=seed,
    )


def _encode(rows: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase) -> Any:
    """Make token ids and labels, in a list: only the summary and the end are learnt."""
    examples = []
    for row in rows:
        prompt = tokenizer(TEMPLATE.format(dialogue=row.dialogue))["input_ids"]
        answer = [*tokenizer(row.summary)["input_ids"], tokenizer.eos_token_id]
        labels = [IGNORED] * len(prompt) + answer
        examples.append({"input_ids": [*prompt, *answer], "labels": labels})
    return examples


class _Collator:
    """Pads a batch on the right."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(example["input_ids"]) for example in examples)
        batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
        for example in examples:
            length = len(example["input_ids"])
            gap = width - length
            batch["input_ids"].append(example["input_ids"] + [self._pad] * gap)
            batch["labels"].append(example["labels"] + [IGNORED] * gap)
            batch["attention_mask"].append([1] * length + [0] * gap)
        return {name: torch.tensor(lists) for name, lists in batch.items()}


class _Steps(TrainerCallback):
    """Passes the number of steps on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 (Trainer)
        self._progress(state.global_step, state.max_steps)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loading bars and the remarks on defaults off the screen."""
    logger = logging.getLogger("transformers.trainer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with no_progress_bars(), warnings.catch_warnings():
            # PEFT asks a model for a name that transformers has since changed.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        logger.setLevel(level)
