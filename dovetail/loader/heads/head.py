"""Wrap the frozen base for an adapter that classifies or embeds, the way PEFT does it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

import torch

from dovetail.errors import InvalidPayload
from dovetail.loader.heads.batch import Batch, end_tokens, make_batch
from dovetail.loader.heads.build import build_classifier, build_extractor
from dovetail.loader.heads.graft import Graft, materialise
from dovetail.loader.heads.labels import (
    ProblemType,
    choose_problem,
    name_labels,
    read_model_config,
)
from dovetail.loader.quiet import peft_quiet
from dovetail.loader.routes import Batching
from dovetail.loader.routing import PEFT_ERRORS, batching_of, read_config, wrap_with_peft
from dovetail.loader.tree import Snapshot, TreeChange

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.loader.rows import RouteName
    from dovetail.registry.payload import Payload

Task = Literal["SEQ_CLS", "FEATURE_EXTRACTION"]
_REFUSED_TASKS = {
    "TOKEN_CLS": "labels tokens, and rows are labelled as a whole here",
    "QUESTION_ANS": "marks answers inside a text",
}
HEAD_TASKS = frozenset({"SEQ_CLS", "FEATURE_EXTRACTION", *_REFUSED_TASKS})
"""Values of ``task_type`` that ``make_head`` is for; some of them it refuses."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Head:
    """The model that PEFT made for one adapter, out of the base's modules.

    Attributes:
        task: What it was trained for.
        labels: Names of its outputs; empty for embeddings.
        problem: What its outputs mean.
        virtual_tokens: Positions that the adapter takes from the model's maximum length.
        batching: Which rows may share a batch.
    """

    task: Task
    labels: tuple[str, ...]
    problem: ProblemType
    virtual_tokens: int
    batching: Batching
    _grafted: Graft = field(repr=False)
    _peft_model: Any = field(repr=False)
    _change: TreeChange = field(repr=False)

    route: ClassVar[RouteName] = "reference"

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return ``[rows, labels]`` for a batch."""
        with self._applied(batch):
            output = self._peft_model(input_ids=batch.ids, attention_mask=batch.mask)
        logits: torch.Tensor = output.logits
        return logits

    def hidden_states(self, batch: Batch) -> torch.Tensor:
        """Return ``[rows, width, hidden size]``; virtual tokens are left out.

        Of an encoder-decoder model, those of the encoder.
        """
        model = self._grafted.model
        run = model.get_encoder() if model.config.is_encoder_decoder else self._peft_model
        with self._applied(batch):
            hidden: torch.Tensor = run(
                input_ids=batch.ids, attention_mask=batch.mask
            ).last_hidden_state
        return hidden[:, hidden.shape[1] - batch.ids.shape[1] :]

    @contextmanager
    def _applied(self, batch: Batch) -> Iterator[None]:
        """Put the adapter in for the time of the block; whatever else changes is undone, too."""
        model = self._grafted.model
        snapshot = Snapshot(model)
        try:
            with self._change.applied(), peft_quiet(), _padding_quiet(model):
                model.config.get_text_config().pad_token_id = batch.pad
                yield
        finally:
            snapshot.restore()


def make_head(model: PreTrainedModel, payload: Payload) -> Head:
    """Wrap the base for a payload, leaving the base's module tree as it is.

    The number of labels is that of the head that the payload holds. One short row is run, so that
    what PEFT or transformers cannot run is refused here.

    Args:
        model: The frozen base.
        payload: An adapter whose ``task_type`` is one of `HEAD_TASKS`.

    Raises:
        InvalidPayload: It is for another task, has no head, or PEFT cannot attach or run it.
        IncompatibleBaseModel: This architecture cannot have such a head.
    """
    task = _task(payload)
    config = read_config(payload)
    grafted, count = (
        build_classifier(model, payload)
        if task == "SEQ_CLS"
        else (build_extractor(model, payload, prompts=config.is_prompt_learning), 0)
    )
    materialise(grafted, model.device)
    peft_model, change = wrap_with_peft(grafted.model, payload, config)
    configs = (read_model_config(Path(payload.directory)), model.config.to_dict())
    head = Head(
        task=task,
        labels=name_labels(count, *configs),
        problem=choose_problem(count, *configs),
        virtual_tokens=int(config.num_virtual_tokens) if config.is_prompt_learning else 0,
        batching="equal" if config.is_prompt_learning else batching_of(payload.peft_type),
        _grafted=grafted,
        _peft_model=peft_model,
        _change=change,
    )
    _try(head, model, payload)
    return head


def _task(payload: Payload) -> Task:
    task = payload.config.get("task_type")
    if task in get_args(Task):
        return cast("Task", task)
    reason = _REFUSED_TASKS.get(str(task), "has no head")
    raise InvalidPayload(
        f"a {task} adapter cannot classify or embed texts: it {reason}; use one that was trained "
        "for SEQ_CLS or FEATURE_EXTRACTION",
        task_type=task,
    )


def _try(head: Head, model: PreTrainedModel, payload: Payload) -> None:
    """Run the shortest row that the model can take.

    Raises:
        InvalidPayload: It does not run.
    """
    config = model.config
    pad = config.get_text_config().pad_token_id
    row = sorted(end_tokens(config))[:1] if config.is_encoder_decoder else [1 if pad == 0 else 0]
    run = head.logits if head.task == "SEQ_CLS" else head.hidden_states
    try:
        with torch.inference_mode():
            run(make_batch(model, [row]))
    except PEFT_ERRORS as error:
        raise InvalidPayload(
            f"this {payload.peft_type} adapter for {head.task} does not run on "
            f"{type(model).__name__}: {error}",
            path=str(payload.directory),
        ) from error


@contextmanager
def _padding_quiet(model: PreTrainedModel) -> Iterator[None]:
    """Ignore the remark that padding is not seen in embeddings, where rows have none."""
    loggers = [
        logging.getLogger(name) for name in (type(model).__module__, "transformers.modeling_layers")
    ]
    for logger in loggers:
        logger.addFilter(_not_about_padding)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_not_about_padding)


def _not_about_padding(record: logging.LogRecord) -> bool:
    return "will not detect padding tokens" not in record.getMessage()
