"""Adapters and versions as MLflow's registered models and model versions.

What MLflow has no field for are tags of a version, which MLflow may show and not change:

===========================  ==================================================================
tag                          value
===========================  ==================================================================
``dovetail.METRIC``          the newest score: ``0.4123 [0.3921, 0.4330] on dialogues``, or
                             ``0.4123 reported`` by a training run
``dovetail.base_model``      what people call the base model
``dovetail.peft_type``       ``LORA``, ``PROMPT_TUNING``, …
``dovetail.base_fingerprint``  the hash of the base model's weights
===========================  ==================================================================

and ``dovetail.task`` is one of the adapter. MLflow's pages have little room for tags, so there are
no more than these: the digest of a version's files is searched for as ``payload``, and shown by
``dovetail show``.

The other way round, what Dovetail has no field for are tags of its versions that MLflow does not
show: where the version was registered from, and what the page of its run says, to which MLflow
links.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from mlflow.entities.model_registry import (
    ModelVersion,
    RegisteredModel,
    RegisteredModelAlias,
    RegisteredModelTag,
)
from mlflow.entities.model_registry.model_version_stages import STAGE_NONE
from mlflow.entities.model_registry.model_version_status import ModelVersionStatus
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from dovetail.plugins.mlflow.lineage import OF_RUN_TAGS
from dovetail.plugins.mlflow.problems import refusal
from dovetail.registry.catalogue import ListedAdapter, ListedVersion, shown_score
from dovetail.registry.records import AdapterVersion

MIRRORED = "dovetail."
"""What the names of tags begin with that Dovetail makes."""
BASE_MODEL = "dovetail.base_model"
BASE_FINGERPRINT = "dovetail.base_fingerprint"
PEFT_TYPE = "dovetail.peft_type"
TASK = "dovetail.task"
SOURCE_TAG = "mlflow.model_source"
RUN_LINK_TAG = "mlflow.model_run_link"

_HIDDEN = {SOURCE_TAG, RUN_LINK_TAG, *OF_RUN_TAGS}
_KEPT = {*_HIDDEN, IS_PROMPT_TAG_KEY}
_READY = ModelVersionStatus.to_string(ModelVersionStatus.READY)


def model_version(listed: ListedVersion) -> ModelVersion:
    """Return a version as MLflow has it."""
    return _made(listed, listed.scores)


def registered_version(version: AdapterVersion, reported: Mapping[str, float]) -> ModelVersion:
    """Return a version that was registered just now, with what its training run reported."""
    told = {
        metric: shown_score(value, None, None, "reported", None)
        for metric, value in sorted(reported.items())
    }
    return _made(version, told)


def _made(listed: ListedVersion | AdapterVersion, scores: Mapping[str, str]) -> ModelVersion:
    mirrored = _mirrored(listed, scores)
    tags = {**mirrored, **listed.tags, **mirrored}  # these first, and nobody's instead of them
    hidden = {key: tags.pop(key) for key in _HIDDEN & tags.keys()}
    made = ModelVersion(
        listed.name,
        listed.number,
        _milliseconds(listed.created_at),
        _milliseconds(listed.updated_at),
        listed.description or None,
        listed.created_by,
        STAGE_NONE,
        hidden.get(SOURCE_TAG) or download_uri(listed.name, listed.number),
        listed.source_run,
        _READY,
        run_link=hidden.get(RUN_LINK_TAG),
        aliases=list(listed.aliases),
        workspace=DEFAULT_WORKSPACE_NAME,  # else it is looked up for each
    )
    made.tags.update(tags)  # as a list of objects they would take as long as all else together
    return made


def _mirrored(listed: ListedVersion | AdapterVersion, scores: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that Dovetail makes, in the order in which MLflow's list is to show them.

    It cuts names of over 15 letters, so those of scores are short.
    """
    return {
        **{MIRRORED + metric: score for metric, score in scores.items()},
        BASE_MODEL: listed.base_model_name,
        PEFT_TYPE: listed.peft_type,
        BASE_FINGERPRINT: listed.base_model,
    }


def registered_model(listed: ListedAdapter) -> RegisteredModel:
    """Return an adapter as MLflow has it."""
    tags = dict(listed.tags) | ({TASK: listed.task} if listed.task else {})
    return RegisteredModel(
        listed.name,
        _milliseconds(listed.created_at),
        _milliseconds(listed.updated_at),
        listed.description or None,
        [model_version(listed.latest)] if listed.latest else [],
        [RegisteredModelTag(key, value) for key, value in tags.items()],
        [RegisteredModelAlias(alias, number) for alias, number in listed.aliases.items()],
        workspace=DEFAULT_WORKSPACE_NAME,
    )


def download_uri(name: str, number: int) -> str:
    """Return the URI under which a version can be downloaded as a whole MLflow model."""
    return f"dovetail://{name}/{number}"


def check_free(key: str) -> None:
    """Refuse a tag that Dovetail makes itself.

    Raises:
        MlflowException: It is such a tag; status 400.
    """
    if key in _KEPT or key.startswith(MIRRORED):
        raise refusal(
            f"tag {key!r} of an adapter is made by Dovetail and cannot be set or deleted; choose a "
            f"name that does not begin with {MIRRORED!r}"
        )


def free_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that people made: MLflow hands in the others when it copies a version."""
    return {
        key: value
        for key, value in tags.items()
        if key not in _KEPT and not key.startswith(MIRRORED)
    }


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
