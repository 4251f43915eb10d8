"""Reach MLflow's tracking server, and say what is wrong in Dovetail's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dovetail.errors import DovetailError, InvalidInput, NotFoundError, StorageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULT_PLACES = ("mlflow.db", "mlruns")
_NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
_REFUSED = frozenset({"INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST"})


def open_tracking(tracking_uri: str | None = None) -> MlflowClient:
    """Return a client of the tracking server that is named, or that MLflow's settings name.

    Raises:
        InvalidInput: Nothing names one, and this directory has no runs; MLflow would make an
            empty database here.
    """
    import mlflow

    named = tracking_uri is not None or mlflow.tracking.is_tracking_uri_set()
    if not named and not any(Path(place).exists() for place in _DEFAULT_PLACES):
        raise InvalidInput(
            "nothing says where the MLflow runs are; set MLFLOW_TRACKING_URI, or give "
            "tracking_uri (--tracking-uri), such as http://127.0.0.1:5000"
        )
    with speaking_of("the tracking server"):
        return mlflow.MlflowClient(tracking_uri=tracking_uri)


@contextmanager
def speaking_of(what: str) -> Iterator[None]:
    """Raise MLflow's errors as Dovetail's.

    Raises:
        NotFoundError: MLflow knows no such thing.
        InvalidInput: MLflow refuses it.
        StorageError: MLflow cannot be reached, or cannot do it.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise _as_ours(error.error_code)(f"{what}: {error.message}") from error
    except OSError as error:  # requests' errors are of this kind, too
        raise StorageError(f"{what}: MLflow cannot be reached: {error}") from error


def _as_ours(code: str) -> type[DovetailError]:
    if code == _NOT_THERE:
        return NotFoundError
    return InvalidInput if code in _REFUSED else StorageError
