"""Log what Dovetail measured back to the MLflow run that the version came from."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dovetail.errors import InvalidInput
from dovetail.plugins.mlflow.lineage import MODEL_TAG
from dovetail.plugins.mlflow.tracking import open_tracking, speaking_of
from dovetail.registry.reference import Reference

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from dovetail.registry.records import AdapterVersion, Evaluation
    from dovetail.registry.store import Registry

__all__ = ["LoggedEvaluation", "check_run", "log_evaluation"]

_NOT_IN_KEYS = re.compile(r"[^\w. -]+")
_LONGEST_NAME = 120  # a key has 250 characters at most
_LONGEST_DIGEST = 36  # MLflow's column
_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvaluation:
    """Where an evaluation was logged to.

    Attributes:
        run_id: The run.
        model_id: The LoggedModel, or None where the version came from none.
        metrics: The keys, as MLflow shows them.
    """

    run_id: str
    model_id: str | None
    metrics: tuple[str, ...]


def log_evaluation(
    registry: Registry, evaluation: Evaluation, *, tracking_uri: str | None = None
) -> LoggedEvaluation:
    """Log the scores of an evaluation to the run that made the version, and to its LoggedModel.

    Each score is logged as ``rougeL``, with the dataset's name and digest, and with the ends of its
    interval as ``dovetail/DATASET/rougeL``, ``…/rougeL_ci_low`` and ``…/rougeL_ci_high``. The tag
    ``dovetail.version`` of the run names the version, and ``dovetail.evaluation.DATASET`` tells how
    it was measured.

    Args:
        registry: Where the version is.
        evaluation: What `dovetail.scoring.evaluate` returned.
        tracking_uri: Where MLflow's runs are; None for what MLflow's settings say.

    Raises:
        InvalidInput: It is one of the bare base model, or the version came from no run.
        NotFoundError: MLflow has no such run.
        StorageError: MLflow cannot be reached.
    """
    from mlflow.entities import RunTag

    version = _version_of(registry, evaluation)
    run_id, model_id = _run_of(version), version.tags.get(MODEL_TAG)
    dataset = dataset_key(evaluation.dataset_name, evaluation.dataset_digest)
    metrics = _metrics(evaluation, dataset, model_id)
    tags = [
        RunTag("dovetail.version", str(version.reference)),
        RunTag(f"dovetail.evaluation.{dataset}", _how(evaluation)),
    ]
    client = open_tracking(tracking_uri)
    with speaking_of(f"run {run_id}, which {version.reference} came from"):
        client.log_batch(run_id, metrics=metrics, tags=tags)
    return LoggedEvaluation(
        run_id=run_id, model_id=model_id, metrics=tuple(metric.key for metric in metrics)
    )


def dataset_key(name: str | None, digest: str | None) -> str:
    """Return a dataset's name as a part of a metric's key.

    Where that has not all of the name, digits of the dataset's digest tell it from others.

    Examples:
        >>> dataset_key("prüfung.jsonl", "sha256:0123456789")
        'prüfung.jsonl'
        >>> dataset_key("samsum/test.jsonl", "sha256:0123456789")
        'samsum_test.jsonl-01234567'
    """
    name = name or "dataset"
    text = _NOT_IN_KEYS.sub("_", name)[:_LONGEST_NAME]
    if not text.strip("."):  # a folder, and not a name
        text = "dataset"
    digits = _digits(digest)[:_DIGITS]
    return text if text == name or not digits else f"{text}-{digits}"


def check_run(
    registry: Registry, reference: str | Reference, *, tracking_uri: str | None = None
) -> str:
    """Return the run that a version came from, if MLflow knows it: before it is measured for long.

    Raises:
        InvalidInput: The version came from no run.
        NotFoundError: There is no such version, or MLflow has no such run.
        StorageError: MLflow cannot be reached.
    """
    version = registry.resolve(reference)
    run_id = _run_of(version)
    with speaking_of(f"run {run_id}, which {version.reference} came from"):
        open_tracking(tracking_uri).get_run(run_id)
    return run_id


def _version_of(registry: Registry, evaluation: Evaluation) -> AdapterVersion:
    if evaluation.name is None or evaluation.number is None:
        raise InvalidInput("an evaluation of the bare base model belongs to no run")
    return registry.resolve(Reference(name=evaluation.name, number=evaluation.number))


def _run_of(version: AdapterVersion) -> str:
    if version.source_run is None:
        raise InvalidInput(
            f"{version.reference} names no run that it came from; register it with --run, or log "
            "the scores with MLflow yourself",
            reference=str(version.reference),
        )
    return version.source_run


def _metrics(evaluation: Evaluation, dataset: str, model_id: str | None) -> list[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    digest = _digits(evaluation.dataset_digest)[:_LONGEST_DIGEST]
    values: dict[str, float] = {}
    for metric, score in evaluation.scores.items():
        values[metric] = score.value
        key = f"dovetail/{dataset}/{metric}"
        values[key] = score.value
        for end, value in (("ci_low", score.ci_low), ("ci_high", score.ci_high)):
            if value is not None:
                values[f"{key}_{end}"] = value
    return [
        Metric(
            key=key,
            value=value,
            timestamp=now,
            step=0,
            model_id=model_id,
            dataset_name=dataset if digest else None,
            dataset_digest=digest or None,
        )
        for key, value in values.items()
    ]


def _digits(digest: str | None) -> str:
    return (digest or "").removeprefix("sha256:")


def _how(evaluation: Evaluation) -> str:
    return json.dumps(
        {
            "dataset": evaluation.dataset_name,
            "dataset_digest": evaluation.dataset_digest,
            "n": evaluation.n,
            "library": evaluation.library,
            "kind": evaluation.kind,
            "base_model": evaluation.base_model,
        },
        ensure_ascii=False,
    )
