"""The environment that a saved model needs, written as MLflow writes it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from mlflow.utils.environment import (
    _CONDA_ENV_FILE_NAME,
    _CONSTRAINTS_FILE_NAME,
    _PYTHON_ENV_FILE_NAME,
    _REQUIREMENTS_FILE_NAME,
    _mlflow_conda_env,
    _process_conda_env,
    _process_pip_requirements,
    _PythonEnv,
)

import dovetail

CONDA_FILE, PYTHON_FILE = _CONDA_ENV_FILE_NAME, _PYTHON_ENV_FILE_NAME
_WITH_LOADER = ("torch", "transformers", "peft", "safetensors")

Requirements: TypeAlias = "Sequence[str] | str | None"


def get_default_pip_requirements() -> list[str]:
    """Return what a model of this flavor needs, pinned to what is installed here.

    MLflow adds itself. Nothing is imported to find this out; torchvision, which text models do not
    need, is not among it.
    """
    installed = [name for name in _WITH_LOADER if importlib.util.find_spec(name) is not None]
    pinned = [f"{name}=={_public(importlib.metadata.version(name))}" for name in installed]
    return [f"dovetail[loader]=={dovetail.__version__}", *pinned]


def get_default_conda_env() -> dict[str, Any]:
    """Return the Conda environment that a model of this flavor needs."""
    env: dict[str, Any] = _mlflow_conda_env(additional_pip_deps=get_default_pip_requirements())
    return env


def write_environment(
    directory: Path,
    *,
    conda_env: dict[str, Any] | str | None = None,
    pip_requirements: Requirements = None,
    extra_pip_requirements: Requirements = None,
) -> None:
    """Write the environment files of a model.

    Args:
        directory: The model's directory.
        conda_env: Conda environment, or the path of its file, in place of all else.
        pip_requirements: Requirements in place of the default ones.
        extra_pip_requirements: Requirements beside the default ones.
    """
    if conda_env is None:
        default = get_default_pip_requirements() if pip_requirements is None else None
        env, requirements, constraints = _process_pip_requirements(
            default, pip_requirements, extra_pip_requirements
        )
    else:
        env, requirements, constraints = _process_conda_env(conda_env)
    (directory / CONDA_FILE).write_text(yaml.safe_dump(env, default_flow_style=False))
    (directory / _REQUIREMENTS_FILE_NAME).write_text("\n".join(requirements))
    if constraints:
        (directory / _CONSTRAINTS_FILE_NAME).write_text("\n".join(constraints))
    _PythonEnv.current().to_yaml(str(directory / PYTHON_FILE))


def _public(version: str) -> str:
    """Leave out what tells builds apart: 2.9.0 of 2.9.0+cpu is what package indexes have."""
    return version.partition("+")[0]
