"""What the outputs of a classification head are called, and how they become scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from dovetail.errors import InvalidInput
from dovetail.registry.jsontext import parse_json

if TYPE_CHECKING:
    import torch

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
_MOST_BYTES = 2**20


def read_model_config(directory: Path) -> Mapping[str, Any]:
    """Return the ``config.json`` that a training run left beside its adapter, or nothing.

    It belongs to no payload: what cannot be read or is no table counts as absent.
    """
    path = directory / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return {}
        found = parse_json(path.read_bytes(), what=str(path))
    except (OSError, InvalidInput):
        return {}
    return found if isinstance(found, dict) else {}


def name_labels(count: int, *configs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels of the first configuration that names this many, else ``LABEL_0`` ...

    Args:
        count: Number of the head's outputs.
        configs: Model configurations with ``id2label``, the most telling first.
    """
    for config in configs:
        table = config.get("id2label")
        if not isinstance(table, Mapping):
            continue
        names = {str(key): name for key, name in table.items()}
        labels = tuple(names.get(str(index)) for index in range(count))
        if len(names) == count == len(set(labels)) and all(
            isinstance(name, str) for name in labels
        ):
            return cast("tuple[str, ...]", labels)
    return tuple(f"LABEL_{index}" for index in range(count))


def recorded_labels(labels: tuple[str, ...], recorded: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a training run called the outputs of a head, if it named as many.

    Args:
        labels: What they are called without that; empty for what is no head.
        recorded: The run's hyperparameters.
    """
    return name_labels(len(labels), recorded, {"id2label": dict(enumerate(labels))})


def recorded_problem(recorded: Mapping[str, Any]) -> ProblemType | None:
    """Return what a training run's hyperparameters say that the outputs mean, if they do."""
    found = recorded.get("problem_type")
    return cast("ProblemType", found) if found in get_args(ProblemType) else None


def choose_problem(count: int, *configs: Mapping[str, Any]) -> ProblemType:
    """Return the first problem type that is recorded; without any, one output is a regression."""
    for config in configs:
        found = recorded_problem(config)
        if found is not None:
            return found
    return "regression" if count == 1 else "single_label_classification"


def check_problem(problem: str | None) -> ProblemType | None:
    """Return the problem type that a call asks for.

    Raises:
        InvalidInput: There is no such type.
    """
    if problem is None or problem in get_args(ProblemType):
        return cast("ProblemType | None", problem)
    raise InvalidInput(
        f"problem_type is {problem!r}; it must be one of {', '.join(get_args(ProblemType))}",
        value=problem,
    )


def as_scores(logits: torch.Tensor, problem: ProblemType) -> torch.Tensor:
    """Turn logits ``[..., labels]`` into probabilities; those of a regression stay as they are."""
    if problem == "single_label_classification":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if problem == "multi_label_classification" else logits
