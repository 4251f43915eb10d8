"""Scores of generated text: ROUGE, BLEU, chrF, exact match, accuracy, each with its interval."""

from dovetail.evaluation.measurement import Measurement, measure
from dovetail.evaluation.metrics import (
    BLEU_TOKENIZERS,
    METRICS,
    METRICS_BY_TASK,
    default_metrics,
)
from dovetail.registry.examples import parse_examples

__all__ = [
    "BLEU_TOKENIZERS",
    "METRICS",
    "METRICS_BY_TASK",
    "Measurement",
    "default_metrics",
    "measure",
    "parse_examples",
]
