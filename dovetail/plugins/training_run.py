"""What a Trainer run holds: its adapter, and what it says about itself as plain values."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import numbers
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from dovetail.errors import InvalidInput
from dovetail.registry.checks import check_scores
from dovetail.registry.peftconfig import HYPERPARAMETERS

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

_ARGUMENTS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "seed",
)
_LIBRARIES = ("peft", "torch", "transformers")
_NO_SCORES = frozenset(
    ["runtime", "samples_per_second", "steps_per_second", "model_preparation_time"]
)
# The kinds whose name says the task; a causal model may be trained for any.
_TASKS = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}


def find_peft_model(model: Any) -> PeftModel:
    """Return the model, or what a compiled or parallel wrapper holds, if it is a PeftModel.

    Raises:
        InvalidInput: It is not.
    """
    inner = model
    for attribute in ("_orig_mod", "module"):
        if not isinstance(inner, PeftModel):
            inner = getattr(inner, attribute, inner)
    if isinstance(inner, PeftModel):
        return inner
    raise InvalidInput(
        f"DovetailCallback registers PEFT adapters, but the model is a {type(inner).__name__}; "
        "wrap it with peft.get_peft_model before it goes to the Trainer"
    )


def save_adapter(model: PeftModel, directory: Path) -> Path:
    """Save the active adapter and return the directory that its files are in."""
    name = model.active_adapter
    model.save_pretrained(str(directory), selected_adapters=[name])
    return directory if name == "default" else directory / name


def task_of(config: Any) -> str | None:
    """Return the pipeline tag that follows from PEFT's task type, or None."""
    kind = config.task_type
    return _TASKS.get(str(getattr(kind, "value", kind)))


def hyperparameters_of(args: TrainingArguments, state: TrainerState, config: Any) -> dict[str, Any]:
    """Collect how an adapter was trained, under the names that Trainer and PEFT use."""
    found = {name: _plain(getattr(args, name)) for name in _ARGUMENTS}
    found["train_batch_size"] = (
        args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    )
    found["precision"] = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    found["max_steps"] = state.max_steps
    found["global_step"] = state.global_step
    found["epochs"] = _plain(state.epoch)
    if _best_step(args, state) is not None:
        found["best_step"] = _best_step(args, state)
    for name in HYPERPARAMETERS:
        value = _plain(getattr(config, name, None))
        if value is not None and value is not False:
            found[name] = value
    for name in ("train_loss", "train_runtime"):
        value = _last(state.log_history, name)
        if value is not None:
            found[name] = value
    found["libraries"] = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return found


def scores_of(args: TrainingArguments, state: TrainerState) -> dict[str, float]:
    """Return the scores of the evaluation that was made of the weights as they are now.

    An older evaluation speaks of other weights: its scores are left out, with a warning.
    """
    step = _best_step(args, state)
    step = state.global_step if step is None else step
    logs = [entry for entry in state.log_history if any(key.startswith("eval_") for key in entry)]
    current = [entry for entry in logs if entry.get("step") == step]
    if logs and not current:
        logger.warning(
            "the last evaluation was made at step %s, the adapter is that of step %s: its scores "
            "are not recorded; evaluate at the last step, or measure it with: dovetail evaluate",
            logs[-1].get("step"),
            step,
        )
    scores: dict[str, float] = {}
    for entry in current:
        scores.update(_scores_in(entry))
    return scores


def active_mlflow_run() -> str | None:
    """Return the id of the MLflow run that is active in this thread; mlflow is not imported."""
    mlflow = sys.modules.get("mlflow")
    run = mlflow.active_run() if mlflow is not None and hasattr(mlflow, "active_run") else None
    return None if run is None else str(run.info.run_id)


def _scores_in(entry: Mapping[str, Any]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for key, value in entry.items():
        metric = key.removeprefix("eval_")
        if metric == key or any(metric.endswith(name) for name in _NO_SCORES):
            continue
        try:
            scores.update(check_scores({metric: value}))
        except InvalidInput as error:
            logger.warning("%s; it is not recorded", error)
    return scores


def _best_step(args: TrainingArguments, state: TrainerState) -> int | None:
    """Return the step that ``load_best_model_at_end`` went back to, or None."""
    if not args.load_best_model_at_end or state.best_model_checkpoint is None:
        return None
    best: int | None = state.best_global_step
    return best


def _last(history: Iterable[Mapping[str, Any]], key: str) -> float | None:
    values = [entry[key] for entry in history if key in entry]
    plain = _plain(values[-1]) if values else None
    return plain if isinstance(plain, float) else None


def _plain(value: Any) -> Any:
    """Turn a setting into a JSON value: enums into their values, sets into sorted lists."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(float(value)) else None
    return str(value)
