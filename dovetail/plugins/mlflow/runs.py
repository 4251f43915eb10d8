"""Register the adapter that an MLflow run made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidPayload
from dovetail.plugins.mlflow.candidates import Candidate, choose_candidate
from dovetail.plugins.mlflow.lineage import RunFacts, read_run
from dovetail.plugins.mlflow.saved import SavedAdapter, check_unchanged, read_saved
from dovetail.plugins.mlflow.tracking import open_tracking, speaking_of
from dovetail.plugins.mlflow.trained_on import find_base

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dovetail.registry.progress import Progress
    from dovetail.registry.publishing import Registration
    from dovetail.registry.store import Registry

__all__ = ["register_run"]


def register_run(
    registry: Registry,
    name: str,
    run_id: str,
    *,
    artifact: str | None = None,
    base: str | os.PathLike[str] | None = None,
    task: str | None = None,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    input_template: str | None = None,
    generation_config: Mapping[str, Any] | None = None,
    scores: Mapping[str, float] | None = None,
    version_tags: Mapping[str, str] | None = None,
    version_description: str | None = None,
    exclude: Sequence[str] = (),
    tracking_uri: str | None = None,
    progress: Progress | None = None,
    upload_progress: Progress | None = None,
) -> Registration:
    """Add a version from an MLflow run: its adapter, parameters, scores and lineage.

    The run's parameters become hyperparameters, its ROUGE, BLEU, chrF, accuracy and exact match
    (`dovetail.plugins.mlflow.scores`) reported scores, and its id, experiment, git commit and
    datasets tags of the version, such as ``mlflow.git_commit``. What is given here goes before what
    the run says. Nothing is written to MLflow.

    Args:
        registry: Registry to register in.
        name: Adapter name; made on first use.
        run_id: The run.
        artifact: Path of the artifact folder, or name or id of the LoggedModel, that holds the
            adapter; None if the run has only one.
        base: Directory, hub name, name or fingerprint of the base model; None for what the
            adapter was saved with.
        task: Pipeline tag such as ``summarization``.
        description: Free text about the adapter.
        tags: Tags of the adapter.
        hyperparameters: More than the run's parameters.
        input_template: Template of the training inputs: ``Summarise: {dialogue}``.
        generation_config: Generation defaults: ``{"max_new_tokens": 32}``.
        scores: More than the run's scores, from 0 to 1 (BLEU and chrF from 0 to 100).
        version_tags: More tags of the version.
        version_description: Free text about the version.
        exclude: File name patterns to leave out.
        tracking_uri: Where MLflow's runs are; None for what MLflow's settings say.
        progress: Called while a base model is hashed.
        upload_progress: Called while the files are written to the object store.

    Raises:
        NotFoundError: There is no such run, or no adapter in it.
        InvalidInput: There are several adapters; or what `Registry.register` refuses.
        BaseModelNotFound: Nobody knows the base model.
        StorageError: MLflow or the registry cannot be reached.
    """
    client = open_tracking(tracking_uri)
    with speaking_of(f"run {run_id}"):
        run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id).name
    chosen = choose_candidate(client, run, artifact)
    facts = read_run(run, model=_with_metrics(client, chosen), experiment=experiment)
    with tempfile.TemporaryDirectory(prefix="dovetail-") as place:
        saved = _read(chosen, Path(place))
        return registry.register(
            name,
            saved.payload,
            base=find_base(registry, saved, base=base, progress=progress),
            task=task or saved.task,
            description=description,
            tags=tags,
            hyperparameters=_merged(facts, saved, hyperparameters),
            input_template=input_template or saved.input_template,
            generation_config=(
                saved.generation_config if generation_config is None else generation_config
            ),
            scores={**facts.scores, **(scores or {})},
            source_run=facts.run_id,
            version_tags={**facts.tags, **(version_tags or {})},
            version_description=version_description,
            exclude=exclude,
            upload_progress=upload_progress,
        )


def _with_metrics(client: MlflowClient, chosen: Candidate) -> Any:
    """Return the LoggedModel as MLflow has it by itself: a search may leave its metrics out."""
    if chosen.model is None:
        return None
    with speaking_of(f"model {chosen.model.model_id}"):
        return client.get_logged_model(chosen.model.model_id)


def _read(chosen: Candidate, place: Path) -> SavedAdapter:
    saved = read_saved(chosen.download(place))
    if saved is None:
        raise InvalidPayload(
            f"artifact {chosen} holds no adapter that PEFT saved; choose another (--artifact)"
        )
    check_unchanged(saved)
    return saved


def _merged(
    facts: RunFacts, saved: SavedAdapter, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {**facts.hyperparameters, **saved.hyperparameters, **(given or {})}
