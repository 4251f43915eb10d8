"""MLflow: the flavor for adapters, the registry store, artifact URIs, and adapters from runs.

::

    import dovetail.plugins.mlflow

    with mlflow.start_run():
        dovetail.plugins.mlflow.log_model(peft_model, name="adapter", task="summarization")

    model = mlflow.pyfunc.load_model("models:/dialogue-summary@production")
    model.predict(["Amanda: I baked cookies. …"], params={"max_new_tokens": 32})

What is saved is the adapter alone, with the fingerprint of its base model's weights; it is attached
to no others. In a process there is one copy of each base model, whatever number of adapters is
loaded.

MLflow imports this package whenever it is imported itself, so each name is imported when it is
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.plugins.mlflow.bases import release_bases
    from dovetail.plugins.mlflow.loading import _load_pyfunc, load_model
    from dovetail.plugins.mlflow.model import AttachedModel
    from dovetail.plugins.mlflow.requirements import (
        get_default_conda_env,
        get_default_pip_requirements,
    )
    from dovetail.plugins.mlflow.runs import register_run
    from dovetail.plugins.mlflow.saved import FLAVOR_NAME
    from dovetail.plugins.mlflow.saving import log_model, save_model

__all__ = [
    "FLAVOR_NAME",
    "AttachedModel",
    "_load_pyfunc",
    "get_default_conda_env",
    "get_default_pip_requirements",
    "load_model",
    "log_model",
    "register_run",
    "release_bases",
    "save_model",
]

_HOMES = {
    "FLAVOR_NAME": "saved",
    "AttachedModel": "model",
    "_load_pyfunc": "loading",
    "get_default_conda_env": "requirements",
    "get_default_pip_requirements": "requirements",
    "load_model": "loading",
    "log_model": "saving",
    "register_run": "runs",
    "release_bases": "bases",
    "save_model": "saving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
