"""What a model answers, in the shapes of MLflow's other text flavors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dovetail.errors import InvalidRow

if TYPE_CHECKING:
    from dovetail.loader.heads.results import Classification
    from dovetail.loader.rows import AttachedAdapter

_SHOWN = 5


def check_answers(answers: Sequence[Any]) -> None:
    """Refuse answers some of which are errors: nobody should take an empty text for one.

    Raises:
        InvalidRow: A row could not be answered; the message names the first few.
    """
    failed = {answer.index: answer.error for answer in answers if answer.error is not None}
    if not failed:
        return
    shown = "; ".join(f"row {index}: {failed[index]}" for index in list(failed)[:_SHOWN])
    more = f"; and {len(failed) - _SHOWN:,} more" if len(failed) > _SHOWN else ""
    raise InvalidRow(
        f"{len(failed):,} of {len(answers):,} rows cannot be answered, counted from 0: "
        f"{shown}{more}. Leave them out, or score them with: dovetail score",
        rows=failed,
    )


def as_predictions(answers: Sequence[Any], adapter: AttachedAdapter) -> Any:
    """Return answers as transformers' pipelines give them in MLflow.

    Args:
        answers: What the base model said of each row, without errors.
        adapter: The model's own adapter.
    """
    match adapter.verb:
        case "classify":
            return pd.DataFrame(
                [_best(answer, adapter) for answer in answers], columns=["label", "score"]
            )
        case "embed":
            vectors = [answer.vector for answer in answers]
            return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)
    return [answer.text for answer in answers]


def _best(answer: Classification, adapter: AttachedAdapter) -> tuple[str, float]:
    """Return the label and its score; of a regression, the first output and its value."""
    label = next(iter(answer.scores)) if answer.label is None else answer.label
    score = answer.scores[label]
    if answer.adapter.payload_digest == adapter.payload_digest:
        label = adapter.labels[list(answer.scores).index(label)]
    return label, score
