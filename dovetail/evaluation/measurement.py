"""Measure predictions against references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.errors import InvalidInput
from dovetail.evaluation.metrics import (
    BLEU_TOKENIZERS,
    check_metrics,
    count_examples,
    metric_library,
    metric_settings,
)
from dovetail.registry.examples import ExampleScores, format_examples, score_interval
from dovetail.registry.records import Score

__all__ = ["Measurement", "measure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Scores of predictions, with what is needed to compare them later.

    Attributes:
        scores: Score and 95 % bootstrap interval of each metric. The interval is None for a
            single example.
        examples: What each metric gave for each example.
        library: Metric libraries and versions, such as ``rouge-score 0.1.2; sacrebleu 2.6.0``.
        n: Number of examples.
        settings: Metric options that must be equal for two measurements to be comparable.
    """

    scores: Mapping[str, Score]
    examples: Mapping[str, ExampleScores]
    library: str
    n: int
    settings: Mapping[str, Any]

    def examples_json(self) -> bytes:
        """Write the per-example scores as the blob that the registry keeps."""
        return format_examples(self.examples)


def measure(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    metrics: Sequence[str],
    bleu_tokenize: str = "13a",
) -> Measurement:
    """Score predictions against one reference each.

    Args:
        predictions: What the model wrote.
        references: What it should have written, in the same order.
        metrics: Any of ``METRICS``.
        bleu_tokenize: How BLEU splits words: ``13a``, ``intl``, ``zh`` or ``char``.

    Raises:
        InvalidInput: Lengths differ, there is nothing to measure, a value is no text, a metric or
            tokenizer is not known, or ROUGE is asked for text that it cannot read.

    Examples:
        >>> result = measure(["a cat", "a dog"], ["a cat", "a bird"], metrics=["exact_match"])
        >>> result.scores["exact_match"].value
        0.5
    """
    wanted = check_metrics(metrics)
    if bleu_tokenize not in BLEU_TOKENIZERS:
        raise InvalidInput(
            f"no BLEU tokenizer {bleu_tokenize!r}; use one of {', '.join(BLEU_TOKENIZERS)}",
            value=bleu_tokenize,
        )
    if len(predictions) != len(references):
        raise InvalidInput(
            f"{len(predictions):,} predictions cannot be scored against {len(references):,} "
            "references; give one reference for each"
        )
    if not predictions:
        raise InvalidInput("there are no predictions to measure")
    _check_texts(predictions, what="prediction")
    _check_texts(references, what="reference")
    examples = count_examples(predictions, references, metrics=wanted, bleu_tokenize=bleu_tokenize)
    return Measurement(
        scores={metric: _score(metric, scores) for metric, scores in examples.items()},
        examples=examples,
        library=metric_library(wanted),
        n=len(predictions),
        settings=metric_settings(wanted, bleu_tokenize=bleu_tokenize),
    )


def _score(metric: str, examples: ExampleScores) -> Score:
    interval = score_interval(examples)
    return Score(metric=metric, value=interval.value, ci_low=interval.low, ci_high=interval.high)


def _check_texts(texts: Sequence[object], *, what: str) -> None:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(
                f"{what} {index} is {type(text).__name__}, not text", index=index, value=text
            )
