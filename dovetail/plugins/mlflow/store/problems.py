"""How the store's methods raise MLflow's errors: those of `dovetail.plugins.mlflow.problems`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from dovetail.plugins.mlflow.problems import as_mlflow, missing, refusal, speaking_mlflow

__all__ = ["answers_mlflow", "as_mlflow", "missing", "refusal", "speaking_mlflow"]

F = TypeVar("F", bound=Callable[..., Any])


def answers_mlflow(method: F) -> F:
    """Make a method raise MLflow's errors where it would raise Dovetail's."""

    @wraps(method)
    def answering(*arguments: Any, **options: Any) -> Any:
        with speaking_mlflow():
            return method(*arguments, **options)

    return answering  # type: ignore[return-value]  # wraps keeps the signature
