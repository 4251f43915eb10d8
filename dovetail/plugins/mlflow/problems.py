"""Dovetail's errors in MLflow's words: which code, and so which HTTP status, each one has.

MLflow's client repeats what failed with a status of 5xx for minutes, so only that which may go
away by itself has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_CONFLICT,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from dovetail.errors import (
    AccessDenied,
    AliasNotFound,
    BaseModelNotFound,
    ConflictError,
    DigestMismatch,
    DovetailError,
    NotFoundError,
    StorageError,
)

F = TypeVar("F", bound=Callable[..., Any])

_CODES: tuple[tuple[type[DovetailError], int], ...] = (
    (AliasNotFound, INVALID_PARAMETER_VALUE),  # as in MLflow's own store
    (BaseModelNotFound, INVALID_PARAMETER_VALUE),  # MLflow knows no base models
    (NotFoundError, RESOURCE_DOES_NOT_EXIST),
    (ConflictError, RESOURCE_CONFLICT),
    (DigestMismatch, BAD_REQUEST),  # it is the same the next time
    (AccessDenied, PERMISSION_DENIED),  # it is the same the next time
    (StorageError, TEMPORARILY_UNAVAILABLE),
    (DovetailError, INVALID_PARAMETER_VALUE),
)


def as_mlflow(error: DovetailError, advice: str = "") -> MlflowException:
    """Return the error that MLflow's server and client understand.

    Args:
        error: Dovetail's.
        advice: Words to put behind its message.
    """
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    return MlflowException(f"{error.message}{advice}", error_code=code)


def refusal(message: str) -> MlflowException:
    """Return the error for a call that cannot be done, with status 400."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


def missing(message: str) -> MlflowException:
    """Return the error for something that is not there, with status 404."""
    return MlflowException(message, error_code=RESOURCE_DOES_NOT_EXIST)


@contextmanager
def speaking_mlflow(advice: str = "") -> Iterator[None]:
    """Raise Dovetail's errors as MLflow's, with the same message and ``advice`` behind it."""
    try:
        yield
    except DovetailError as error:
        raise as_mlflow(error, advice) from error


def answers_mlflow(method: F) -> F:
    """Make a method raise MLflow's errors where it would raise Dovetail's."""

    @wraps(method)
    def answering(*arguments: Any, **options: Any) -> Any:
        with speaking_mlflow():
            return method(*arguments, **options)

    return answering  # type: ignore[return-value]  # mypy does not see that wraps keeps it
