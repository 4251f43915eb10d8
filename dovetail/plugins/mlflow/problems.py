"""Say what is wrong in MLflow's errors, which its servers and clients understand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from dovetail.errors import DovetailError, NotFoundError, StorageError


@contextmanager
def speaking_mlflow(advice: str = "") -> Iterator[None]:
    """Raise Dovetail's errors as MLflow's, with the same message.

    Args:
        advice: A sentence to put behind the message.

    Raises:
        MlflowException: With a code that stands for status 404, 503, or 400.
    """
    try:
        yield
    except NotFoundError as error:
        raise MlflowException(f"{error}{advice}", RESOURCE_DOES_NOT_EXIST) from error
    except StorageError as error:
        raise MlflowException(f"{error}{advice}", TEMPORARILY_UNAVAILABLE) from error
    except DovetailError as error:
        raise MlflowException(f"{error}{advice}", INVALID_PARAMETER_VALUE) from error
