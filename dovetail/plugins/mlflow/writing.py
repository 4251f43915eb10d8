"""Write an adapter as an MLflow model: the adapter alone, with what is known of its base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.models import Model, ModelInputExample
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.models.utils import _save_example
from mlflow.utils.file_utils import get_total_file_size

import dovetail
from dovetail.loader.rows import verb_of
from dovetail.plugins.mlflow.options import complete_config
from dovetail.plugins.mlflow.requirements import CONDA_FILE, PYTHON_FILE
from dovetail.plugins.mlflow.saved import ADAPTER_DIRECTORY, BASE_FILE, FLAVOR_NAME
from dovetail.plugins.mlflow.signature import make_example, make_signature
from dovetail.plugins.mlflow.sources import Source
from dovetail.registry.payload import Payload, read_registered
from dovetail.registry.template import InputTemplate

MODULE = "dovetail.plugins.mlflow"


def write_model(
    source: Source,
    directory: Path,
    *,
    model: Model,
    example: ModelInputExample | None = None,
    config: Mapping[str, Any] | None = None,
    code: str | None = None,
    copy: bool = True,
) -> None:
    """Write all of a model but its environment.

    Args:
        source: The adapter.
        directory: Where to; it exists.
        model: MLflow's description, which is completed and written, too.
        example: Input example of the caller's, or None.
        config: The complete ``model_config``; None for one with nothing set.
        code: Where the caller's code was copied to, or None.
        copy: Whether to copy the adapter's own files, too; they count as the model's either way.
    """
    from mlflow.pyfunc import add_to_model

    saved = source.saved
    if copy:
        _copy(source.payload, directory / ADAPTER_DIRECTORY)
    document = json.dumps(saved.base_document, indent=1, sort_keys=True)
    (directory / BASE_FILE).write_text(document)
    task_type = source.payload.config.get("task_type")
    if model.signature is None:
        model.signature = make_signature(verb_of(task_type), example)
    template = saved.input_template
    shown = make_example(None if template is None else InputTemplate.parse(template))
    _save_example(model, shown if example is None else example, str(directory))
    model.add_flavor(FLAVOR_NAME, code=code, **_flavor(source))
    add_to_model(
        model,
        loader_module=MODULE,
        conda_env=CONDA_FILE,
        python_env=PYTHON_FILE,
        code=code,
        model_config=complete_config({}) if config is None else dict(config),
    )
    elsewhere = 0 if copy else sum(file.size for file in source.payload.files)
    model.model_size_bytes = get_total_file_size(directory) + elsewhere
    model.save(str(directory / MLMODEL_FILE_NAME))


def _flavor(source: Source) -> dict[str, Any]:
    saved = source.saved
    return {
        "adapter": ADAPTER_DIRECTORY,
        "base_model": {
            "name": saved.base_name,
            "revision": saved.base_revision,
            "fingerprint": saved.base_fingerprint,
            "location": saved.base_location,
        },
        "reference": saved.reference,
        "payload_digest": source.payload.digest,
        "peft_type": source.payload.peft_type,
        "task": saved.task,
        "input_template": saved.input_template,
        "generation_config": dict(saved.generation_config),
        "hyperparameters": dict(saved.hyperparameters),
        "dovetail_version": dovetail.__version__,
    }


def _copy(payload: Payload, directory: Path) -> None:
    directory.mkdir()
    for file in payload.files:
        shutil.copyfile(payload.directory / file.path, directory / file.path)
    # A file may have changed since it was checked.
    read_registered(directory, digest=payload.digest, what="the adapter that was just copied")
