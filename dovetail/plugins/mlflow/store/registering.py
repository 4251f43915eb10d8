"""Registering the adapter that a model version's source holds, with what its run says of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mlflow.entities import Run
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from dovetail.errors import AdapterNotFound, VersionNotFound
from dovetail.plugins.mlflow.lineage import RunFacts, read_run
from dovetail.plugins.mlflow.saved import check_unchanged
from dovetail.plugins.mlflow.store.connecting import Connection
from dovetail.plugins.mlflow.store.entities import RUN_LINK_TAG, SOURCE_TAG, free_tags
from dovetail.plugins.mlflow.store.sources import fetched, find_run
from dovetail.plugins.mlflow.trained_on import find_base
from dovetail.registry.publishing import Registration
from dovetail.registry.records import AdapterVersion
from dovetail.registry.reference import Reference, check_name

_logger = logging.getLogger(__name__)

_OF_REGISTRY = re.compile(
    r"(?:models:/|dovetail://)(?P<name>[^/@]+)(?:/(?P<number>[0-9]+)|@(?P<alias>[^/]+))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What MLflow asks to be registered.

    The attributes are those of ``create_model_version``, and `location` is where the source lies
    if that is known: a local directory, or what another model's version was made from.
    """

    name: str
    source: str
    location: str
    run_id: str | None
    tags: Mapping[str, str]
    run_link: str | None
    description: str | None
    model_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What registering a request's source gave, and the scores that were reported with it."""

    registration: Registration
    reported: Mapping[str, float]


def reference_in(source: str) -> Reference | None:
    """Return the registered version that a source names (``models:/name/7``), or None."""
    found = _OF_REGISTRY.fullmatch(source)
    if found is None:
        return None
    if found["number"] is None:
        return Reference(name=found["name"], alias=found["alias"])
    return Reference(name=found["name"], number=int(found["number"]))


def register(
    connection: Connection, request: Request, *, model: RegisteredModel | None
) -> Registered | None:
    """Register the adapter that a request's source holds.

    Args:
        connection: The registry.
        request: The request.
        model: The empty model that the adapter takes the place of, or None.

    Returns:
        What it gave, or None if the source holds no adapter.

    Raises:
        DovetailError: The source holds an adapter that cannot be registered.
    """
    copied = _copied(connection, request.source)
    if copied is not None:
        return _copy(connection, request, copied, model=model)
    run_of = cache(find_run)  # in a run, the adapter lies and its facts stand: it is asked for once
    with fetched(request.location, find_run=run_of) as saved:
        if saved is None:
            return None
        check_name(request.name)
        check_unchanged(saved)
        facts = _facts(request, run_of)
        reported = facts.scores if facts else {}
        registration = connection.registry.register(
            request.name,
            saved.payload,
            base=find_base(connection.registry, saved),
            task=saved.task,
            input_template=saved.input_template,
            generation_config=saved.generation_config,
            hyperparameters={**(facts.hyperparameters if facts else {}), **saved.hyperparameters},
            scores=reported,
            source_run=facts.run_id if facts else request.run_id,
            **_said(request, facts.tags if facts else {}, model),
        )
        return Registered(registration=registration, reported=reported)


def _copied(connection: Connection, source: str) -> AdapterVersion | None:
    reference = reference_in(source)
    try:
        return None if reference is None else connection.registry.resolve(reference)
    except (AdapterNotFound, VersionNotFound):
        return None


def _copy(
    connection: Connection,
    request: Request,
    version: AdapterVersion,
    *,
    model: RegisteredModel | None,
) -> Registered:
    """Register a version of another adapter: MLflow's ``copy_model_version``."""
    newest = {
        metric: score.value
        for evaluation in reversed(connection.registry.evaluations(version.reference))
        for metric, score in evaluation.scores.items()
    }
    registration = connection.registry.register(
        request.name,
        connection.registry.fetch(version),
        base=version.base_model,
        task=version.task,
        input_template=version.input_template,
        generation_config=version.generation_config,
        hyperparameters=version.hyperparameters,
        scores=newest,
        source_run=request.run_id or version.source_run,
        **_said(request, {}, model),
    )
    return Registered(registration=registration, reported=newest)


def _said(
    request: Request, facts: Mapping[str, str], model: RegisteredModel | None
) -> dict[str, Any]:
    """Return the descriptions and tags of the version, and those that the model had."""
    origin = {SOURCE_TAG: request.source, RUN_LINK_TAG: request.run_link}
    known = {key: value for key, value in origin.items() if value}
    return {
        "version_tags": {**facts, **free_tags(request.tags), **known},
        "version_description": request.description,
        "description": model.description if model is not None else None,
        "tags": free_tags(model.tags) if model is not None else None,
    }


def _facts(request: Request, find_run: Callable[[str], Run]) -> RunFacts | None:
    """Return what the run says of the adapter, where the tracking server still knows it."""
    model_id = request.model_id or _model_id(request.source)
    if not (model_id or request.run_id):
        return None
    from mlflow import MlflowClient

    client = MlflowClient()
    asked = f"model {model_id}"
    try:
        model = client.get_logged_model(model_id) if model_id else None
        run_id = request.run_id or (model.source_run_id if model is not None else None)
        if not run_id:
            return None
        asked = f"run {run_id}"
        run = find_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id).name
    except (MlflowException, OSError) as error:
        _logger.warning("what %s says cannot be read: %s", asked, error)
        return None
    return read_run(run, model=model, experiment=experiment)


def _model_id(source: str) -> str | None:
    found = re.match(r"models:/(m-[^/@]+)", source)
    return found[1] if found else None
