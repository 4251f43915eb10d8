"""What an MLflow run says of the adapter that it made: parameters, scores, and where it comes from.

It works on MLflow's entities alone, so that a server can use it as well as a client.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dovetail.plugins.mlflow.scores import find_scores

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Run

RUN_TAG = "mlflow.run_id"
MODEL_TAG = "mlflow.model_id"
EXPERIMENT_TAG = "mlflow.experiment"
EXPERIMENT_ID_TAG = "mlflow.experiment_id"
RUN_NAME_TAG = "mlflow.run_name"
SCRIPT_TAG = "mlflow.source"
OF_RUN_TAGS = frozenset(
    {RUN_TAG, MODEL_TAG, EXPERIMENT_TAG, EXPERIMENT_ID_TAG, RUN_NAME_TAG, SCRIPT_TAG}
)
"""Tags that repeat what whoever has the run sees at a glance."""

_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d+)?(?:[eE][+-]?\d{1,3})?")
_WORDS: dict[str, bool | None] = {"True": True, "False": False, "None": None}
_RUN_TAGS = {
    "mlflow.runName": RUN_NAME_TAG,
    "mlflow.source.git.commit": "mlflow.git_commit",
    "mlflow.source.git.branch": "mlflow.git_branch",
    "mlflow.source.git.repoURL": "mlflow.git_repository",
    "mlflow.source.name": SCRIPT_TAG,
}
_CONTEXT = "mlflow.data.context"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is recorded of a run with the version that it made.

    Attributes:
        run_id: The run.
        hyperparameters: Its parameters, numbers as numbers.
        scores: Its scores under Dovetail's names, in Dovetail's units.
        tags: Where the version comes from, as tags of the version: run, experiment, model,
            git commit, and the datasets (JSON: a list of name, digest, source and context).
    """

    run_id: str
    hyperparameters: Mapping[str, Any]
    scores: Mapping[str, float]
    tags: Mapping[str, str]


def read_run(
    run: Run, *, model: LoggedModel | None = None, experiment: str | None = None
) -> RunFacts:
    """Collect what a run, and the LoggedModel that was made in it, say.

    Where both say the same thing, the model's word counts: a run may log several models.

    Args:
        run: The run.
        model: The LoggedModel of the adapter, if it is one.
        experiment: Name of the run's experiment.
    """
    parameters = {**run.data.params, **(model.params or {} if model is not None else {})}
    metrics = {**run.data.metrics, **_metrics_of(model)}
    return RunFacts(
        run_id=run.info.run_id,
        hyperparameters={key: parse_parameter(value) for key, value in parameters.items()},
        scores=find_scores(metrics),
        tags=dict(_tags(run, model, experiment)),
    )


def parse_parameter(text: str) -> Any:
    """Turn a parameter back into what was logged: MLflow keeps all of them as text.

    Examples:
        >>> [parse_parameter(text) for text in ("16", "1e-4", "True", "None", "linear", "007")]
        [16, 0.0001, True, None, 'linear', '007']
    """
    if text in _WORDS:
        return _WORDS[text]
    if _NUMBER.fullmatch(text) is None:
        return text
    number = json.loads(text)
    return number if math.isfinite(number) else text


def _metrics_of(model: LoggedModel | None) -> dict[str, float]:
    """Return a LoggedModel's metrics; of one that was logged again, the latest."""
    metrics = [] if model is None else model.metrics or []
    ordered = sorted(metrics, key=lambda metric: (metric.step, metric.timestamp))
    return {metric.key: metric.value for metric in ordered}


def _tags(run: Run, model: LoggedModel | None, experiment: str | None) -> Iterator[tuple[str, str]]:
    yield RUN_TAG, run.info.run_id
    yield EXPERIMENT_ID_TAG, str(run.info.experiment_id)
    if experiment:
        yield EXPERIMENT_TAG, experiment
    if model is not None:
        yield MODEL_TAG, model.model_id
    for theirs, ours in _RUN_TAGS.items():
        if value := run.data.tags.get(theirs):
            yield ours, value
    inputs = run.inputs.dataset_inputs if run.inputs is not None else []
    if inputs:
        yield "mlflow.dataset", json.dumps([_dataset(one) for one in inputs], ensure_ascii=False)


def _dataset(one: DatasetInput) -> dict[str, Any]:
    context = next((tag.value for tag in one.tags if tag.key == _CONTEXT), None)
    described = {
        "name": one.dataset.name,
        "digest": one.dataset.digest,
        "source": _source(one.dataset.source),
        "context": context,
    }
    return {key: value for key, value in described.items() if value is not None}


def _source(text: str | None) -> Any:
    """Return a source as MLflow's JSON has it, or as it is."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text
