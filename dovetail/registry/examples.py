"""Per-example scores as one blob, and what a gate decides with them.

Version 1 of the blob is canonical JSON::

    {"format": "dovetail-examples", "version": 1, "n": 2, "metrics": {
        "rougeL": {"kind": "mean", "values": [0.5, 0.25]},
        "bleu": {"kind": "bleu", "values": [[7, 8, 5, 3, 1, 0, 7, 6, 5, 4], ...]},
        "chrf": {"kind": "chrf", "values": [[31, 30, 25, ...], ...]}}}

A ``mean`` metric is the mean of its per-example values. BLEU and chrF of a corpus are no means of
sentence scores; they keep the counts that sacrebleu sums over the corpus. BLEU: system length,
reference length, matched n-grams of order 1 to 4, system n-grams of order 1 to 4. chrF: n-grams of
the system, of the reference, and matched ones, for each order from 1 to 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from dovetail.errors import InvalidInput
from dovetail.registry.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_statistic,
    paired_difference,
    paired_statistic_difference,
)
from dovetail.registry.jsontext import canonical_json, parse_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

__all__ = [
    "ExampleScores",
    "corpus_bleu",
    "corpus_chrf",
    "format_examples",
    "paired_score_difference",
    "parse_examples",
    "score_interval",
]

Kind: TypeAlias = Literal["mean", "bleu", "chrf"]

BLEU_ORDERS = 4
CHRF_ORDERS = 6
_CHRF_BETA = 2
_WIDTHS = {"bleu": 2 + 2 * BLEU_ORDERS, "chrf": 3 * CHRF_ORDERS}
_FORMAT = "dovetail-examples"
_VERSION = 1
MAX_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class ExampleScores:
    """What one metric gave for each example, in the order of the dataset.

    Attributes:
        kind: How the examples make one score: ``mean``, ``bleu`` or ``chrf``.
        values: A number per example for ``mean``; a list of counts per example otherwise.
    """

    kind: Kind
    values: Sequence[float] | Sequence[Sequence[int]]


def format_examples(metrics: Mapping[str, ExampleScores]) -> bytes:
    """Write the blob: the same scores always give the same bytes.

    Raises:
        InvalidInput: No metric, or metrics of different numbers of examples.
    """
    lengths = {len(scores.values) for scores in metrics.values()}
    if len(lengths) != 1:
        raise InvalidInput(f"metrics have {sorted(lengths)} examples; all need the same number")
    return canonical_json(
        {
            "format": _FORMAT,
            "version": _VERSION,
            "n": lengths.pop(),
            "metrics": {
                name: {"kind": scores.kind, "values": scores.values}
                for name, scores in metrics.items()
            },
        }
    )


def parse_examples(data: bytes) -> dict[str, ExampleScores]:
    """Read the blob.

    Raises:
        InvalidInput: It is no such blob, or of a version that this Dovetail does not know.
    """
    document = parse_json(data, what="per-example scores", max_bytes=MAX_BYTES)
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise InvalidInput("these bytes are no per-example scores of Dovetail")
    if document.get("version") != _VERSION:
        raise InvalidInput(
            f"per-example scores have version {document.get('version')!r}; this Dovetail reads "
            f"version {_VERSION}; upgrade it"
        )
    metrics = document.get("metrics")
    if not isinstance(metrics, dict):
        raise InvalidInput("per-example scores hold no metrics")
    return {name: _read_scores(name, entry, document.get("n")) for name, entry in metrics.items()}


def score_interval(scores: ExampleScores) -> Interval:
    """Return the score that the examples make together, with its 95 % bootstrap interval."""
    if scores.kind == "mean":
        return bootstrap_mean(_numbers(scores))
    return bootstrap_statistic(_numbers(scores), _AGGREGATES[scores.kind])


def paired_score_difference(blob_a: bytes, blob_b: bytes, metric: str) -> Interval:
    """Return how much better ``a`` is than ``b``, with its 95 % paired bootstrap interval.

    Both blobs must come from the same dataset; that the number of examples is equal is checked
    here, that the examples are the same is known only from the dataset digests.

    Raises:
        InvalidInput: A blob cannot be read, lacks the metric, or has another number of examples.
    """
    a, b = (_metric_of(blob, metric) for blob in (blob_a, blob_b))
    if a.kind != b.kind:
        raise InvalidInput(f"{metric} was kept as {a.kind} and as {b.kind}; evaluate both anew")
    if a.kind == "mean":
        return paired_difference(_numbers(a), _numbers(b))
    return paired_statistic_difference(_numbers(a), _numbers(b), _AGGREGATES[a.kind])


def corpus_bleu(sums: Array) -> Array:
    """Compute BLEU, 0 to 100, from summed counts of shape ``(m, 10)``.

    Papineni et al. (ACL 2002) with the exponential smoothing of NIST's mteval-v13a, which is
    ``BLEU()`` of sacrebleu (Post, WMT 2018).
    """
    import numpy as np

    system, reference = sums[:, 0], sums[:, 1]
    correct, total = sums[:, 2 : 2 + BLEU_ORDERS], sums[:, 2 + BLEU_ORDERS :]
    # The k-th order without a match counts as 1 / 2**k matches.
    halvings = np.cumsum(correct == 0, axis=1)
    matches = np.where(correct == 0, 0.5**halvings, correct)
    scored = (correct.sum(axis=1) > 0) & (total > 0).all(axis=1)
    precision = np.divide(matches, total, out=np.ones_like(matches), where=scored[:, None])
    ratio = np.divide(reference, system, out=np.ones_like(system), where=system > 0)
    brevity = np.exp(np.minimum(0.0, 1.0 - ratio))
    score: Array = 100.0 * brevity * np.exp(np.log(precision).mean(axis=1))
    return np.where(scored, score, 0.0)


def corpus_chrf(sums: Array) -> Array:
    """Compute chrF2, 0 to 100, from summed counts of shape ``(m, 18)``.

    Popović (WMT 2015), averaging precision and recall over the orders that occur on both sides,
    which is ``CHRF()`` of sacrebleu.
    """
    import numpy as np

    system, reference, matched = (sums[:, offset::3] for offset in range(3))
    occurs = (system > 0) & (reference > 0)
    orders = np.maximum(occurs.sum(axis=1), 1)
    precision = np.divide(matched, system, out=np.zeros_like(system), where=occurs).sum(1) / orders
    recall = np.divide(matched, reference, out=np.zeros_like(system), where=occurs).sum(1) / orders
    factor = _CHRF_BETA**2
    denominator = factor * precision + recall
    score: Array = np.divide(
        100.0 * (1 + factor) * precision * recall,
        denominator,
        out=np.zeros_like(precision),
        where=denominator > 0,
    )
    return score


_AGGREGATES = {"bleu": corpus_bleu, "chrf": corpus_chrf}


def _metric_of(blob: bytes, metric: str) -> ExampleScores:
    metrics = parse_examples(blob)
    if metric not in metrics:
        raise InvalidInput(
            f"per-example scores hold no {metric!r}, only {', '.join(sorted(metrics))}",
            metric=metric,
        )
    return metrics[metric]


def _read_scores(name: str, entry: Any, n: Any) -> ExampleScores:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    kind, values = fields.get("kind"), fields.get("values")
    if kind not in get_args(Kind) or not isinstance(values, list) or len(values) != n:
        raise InvalidInput(f"per-example scores of {name!r} are damaged")
    scores = ExampleScores(cast("Kind", kind), values)
    _numbers(scores)
    return scores


def _numbers(scores: ExampleScores) -> Array:
    """Return the values as an array of the shape that their kind has."""
    import numpy as np

    width = _WIDTHS.get(scores.kind)
    try:
        array = np.asarray(scores.values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"per-example scores are no numbers: {error}") from error
    expected = (len(scores.values),) if width is None else (len(scores.values), width)
    if array.shape != expected:
        raise InvalidInput(f"per-example scores have shape {array.shape}, not {expected}")
    return array
