"""Save and log an adapter as an MLflow model: the flavor's `save_model` and `log_model`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelInputExample, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.models.utils import _contains_params
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS
from mlflow.tracking._model_registry import DEFAULT_AWAIT_MAX_SLEEP_SECONDS
from mlflow.utils.environment import _validate_env_arguments
from mlflow.utils.model_utils import (
    _validate_and_copy_code_paths,
    _validate_and_get_model_config_from_file,
)

from dovetail.loader.rows import verb_of
from dovetail.plugins.mlflow.options import check_call, complete_config
from dovetail.plugins.mlflow.requirements import Requirements, write_environment
from dovetail.plugins.mlflow.saved import FLAVOR_NAME
from dovetail.plugins.mlflow.sources import Wanted, open_source
from dovetail.plugins.mlflow.writing import write_model


def save_model(
    adapter: Any,
    path: str | os.PathLike[str],
    *,
    base_model: str | os.PathLike[str] | None = None,
    base_revision: str | None = None,
    task: str | None = None,
    input_template: str | None = None,
    generation_config: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    exclude: str | Sequence[str] = (),
    allow_base_mismatch: bool = False,
    conda_env: dict[str, Any] | str | None = None,
    code_paths: list[str] | None = None,
    mlflow_model: Model | None = None,
    signature: ModelSignature | None = None,
    input_example: ModelInputExample | None = None,
    pip_requirements: Requirements = None,
    extra_pip_requirements: Requirements = None,
    metadata: dict[str, Any] | None = None,
    model_config: dict[str, Any] | str | os.PathLike[str] | None = None,
    validate_serving_input: bool = True,  # noqa: ARG001 (`Model.log` hands on what it was given)
) -> None:
    """Save an adapter as an MLflow model on the local file system; the base is never copied.

    Args:
        adapter: A ``PeftModel`` (its active adapter is saved), the directory of an adapter or of a
            model with one, or a reference to a registered version: ``name@production``,
            ``name/7``, ``dovetail://name/7``.
        path: Where to save; a directory that does not exist or is empty.
        base_model: Directory, hub name or registered name of the base model; None for what the
            adapter or the live model says. It has to be on this machine: its fingerprint is
            recorded, and a live model is compared with it. Not for registered versions.
        base_revision: Revision of a hub name.
        task: Pipeline tag such as ``summarization``.
        input_template: Template of the training inputs, such as ``Summarise: {dialogue}``.
        generation_config: Generation defaults such as ``{"max_new_tokens": 32}``.
        hyperparameters: What the training run used; they go before what the adapter's own
            configuration says, such as its rank.
        exclude: File name patterns in an adapter's directory to leave out.
        allow_base_mismatch: Save even if a live model is not what the base model's files say.
        conda_env: As in MLflow's flavors.
        code_paths: As in MLflow's flavors.
        mlflow_model: The model that this flavor is added to.
        signature: As in MLflow's flavors; by default outputs and params, and the inputs of an
            input example that is given.
        input_example: As in MLflow's flavors, with params or without; by default one that shows
            the columns.
        pip_requirements: As in MLflow's flavors.
        extra_pip_requirements: As in MLflow's flavors.
        metadata: As in MLflow's flavors.
        model_config: Defaults for loading, or a file with them: ``base_model``, ``device``,
            ``dtype``, ``batch_size`` and generation options; see `load_model`.
        validate_serving_input: Only `log_model` looks at it.

    Raises:
        InvalidInput: What is given is no adapter, or an argument cannot be used.
        InvalidPayload: The adapter's files are damaged, unsafe or incomplete.
        BaseModelNotFound: Its base model is not on this machine.
        IncompatibleBaseModel: It does not fit its base model, or the live model is another.
        NotFoundError: There is no such version.
    """
    _validate_env_arguments(conda_env, pip_requirements, extra_pip_requirements)
    config = complete_config(_read_config(model_config))
    directory = Path(path)
    _make(directory)
    code = _validate_and_copy_code_paths(code_paths, directory)
    model = Model() if mlflow_model is None else mlflow_model
    if metadata is not None:
        model.metadata = metadata
    if signature is not None:
        model.signature = signature
    wanted = Wanted(
        base_model=base_model,
        base_revision=base_revision,
        allow_base_mismatch=allow_base_mismatch,
        exclude=(exclude,) if isinstance(exclude, str) else tuple(exclude),
        task=task,
        input_template=input_template,
        generation_config=generation_config,
        hyperparameters=hyperparameters,
    )
    with open_source(adapter, wanted) as source:
        verb = verb_of(source.payload.config.get("task_type"))
        check_call(verb, source.saved.generation_config, source="generation_config")
        example: Any = input_example
        if _contains_params(example):
            check_call(verb, example[1], source="the input example's params")
        write_model(source, directory, model=model, example=input_example, config=config, code=code)
    write_environment(
        directory,
        conda_env=conda_env,
        pip_requirements=pip_requirements,
        extra_pip_requirements=extra_pip_requirements,
    )


def log_model(
    adapter: Any,
    artifact_path: str | None = None,
    *,
    base_model: str | os.PathLike[str] | None = None,
    base_revision: str | None = None,
    task: str | None = None,
    input_template: str | None = None,
    generation_config: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    exclude: str | Sequence[str] = (),
    allow_base_mismatch: bool = False,
    conda_env: dict[str, Any] | str | None = None,
    code_paths: list[str] | None = None,
    registered_model_name: str | None = None,
    signature: ModelSignature | None = None,
    input_example: ModelInputExample | None = None,
    await_registration_for: int | None = DEFAULT_AWAIT_MAX_SLEEP_SECONDS,
    pip_requirements: Requirements = None,
    extra_pip_requirements: Requirements = None,
    metadata: dict[str, Any] | None = None,
    model_config: dict[str, Any] | str | os.PathLike[str] | None = None,
    name: str | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, Any] | None = None,
    model_type: str | None = None,
    step: int = 0,
    model_id: str | None = None,
    run_id: str | None = None,
    validate_serving_input: bool | None = None,
) -> ModelInfo:
    """Log an adapter as an MLflow model, to the active run if there is one.

    Args:
        adapter: As for `save_model`.
        artifact_path: Deprecated by MLflow; use ``name``.
        base_model: As for `save_model`.
        base_revision: As for `save_model`.
        task: As for `save_model`.
        input_template: As for `save_model`.
        generation_config: As for `save_model`.
        hyperparameters: As for `save_model`.
        exclude: As for `save_model`.
        allow_base_mismatch: As for `save_model`.
        conda_env: As in MLflow's flavors.
        code_paths: As in MLflow's flavors.
        registered_model_name: Register the model under this name.
        signature: As for `save_model`.
        input_example: As for `save_model`.
        await_registration_for: Seconds to wait for the registration; 0 or None does not wait.
        pip_requirements: As in MLflow's flavors.
        extra_pip_requirements: As in MLflow's flavors.
        metadata: As in MLflow's flavors.
        model_config: As for `save_model`.
        name: Name of the logged model.
        params: As in MLflow's flavors.
        tags: As in MLflow's flavors.
        model_type: As in MLflow's flavors.
        step: As in MLflow's flavors.
        model_id: As in MLflow's flavors.
        run_id: Run to log to; None for the active one.
        validate_serving_input: Load the model and try the input example as a server would; None
            does so for an example that is given.

    Returns:
        What MLflow knows of the logged model.
    """
    import dovetail.plugins.mlflow as flavor

    if validate_serving_input is None:
        # The answer to the example that is made up would say nothing.
        validate_serving_input = input_example is not None
    info: ModelInfo = Model.log(
        artifact_path=artifact_path,
        name=name,
        flavor=flavor,
        flavor_name=FLAVOR_NAME,
        adapter=adapter,
        base_model=base_model,
        base_revision=base_revision,
        task=task,
        input_template=input_template,
        generation_config=generation_config,
        hyperparameters=hyperparameters,
        exclude=exclude,
        allow_base_mismatch=allow_base_mismatch,
        conda_env=conda_env,
        code_paths=code_paths,
        registered_model_name=registered_model_name,
        signature=signature,
        input_example=input_example,
        await_registration_for=await_registration_for,
        pip_requirements=pip_requirements,
        extra_pip_requirements=extra_pip_requirements,
        metadata=metadata,
        model_config=model_config,
        params=params,
        tags=tags,
        model_type=model_type,
        step=step,
        model_id=model_id,
        run_id=run_id,
        validate_serving_input=validate_serving_input,
    )
    return info


def _make(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise MlflowException(
            f"{str(directory)!r} already exists and is not empty; save to another place",
            error_code=RESOURCE_ALREADY_EXISTS,
        )
    directory.mkdir(parents=True, exist_ok=True)


def _read_config(
    config: Mapping[str, Any] | str | os.PathLike[str] | None,
) -> Mapping[str, Any] | None:
    if not isinstance(config, str | os.PathLike):
        return config
    read: Mapping[str, Any] | None = _validate_and_get_model_config_from_file(os.fspath(config))
    return read
