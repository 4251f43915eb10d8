"""Scores among the metrics of an MLflow run, under whatever keys training gave them.

``eval_rougeL``, ``test/rouge_l``, ``rougeL/v1/mean`` and ``val_rougeL_f1`` are one metric, which
Dovetail calls ``rougeL``. ROUGE, accuracy and exact match are recorded from 0 to 1, BLEU and chrF
from 0 to 100, as Dovetail's own measurements are.
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

logger = logging.getLogger(__name__)

_SPLITS = ("", "test", "predict", "eval", "evaluation", "validation", "valid", "val", "dev")
"""What may stand before a metric's name, the preferred first. What was scored in training is not
recorded: it says how well the adapter learned its examples by heart."""

_METRICS = {
    "rouge1": "rouge1",
    "rouge2": "rouge2",
    "rougel": "rougeL",
    "rougelsum": "rougeLsum",
    "bleu": "bleu",
    "sacrebleu": "bleu",
    "chrf": "chrf",
    "accuracy": "accuracy",
    "acc": "accuracy",
    "exactmatch": "exact_match",
    "em": "exact_match",
}
_FAMILIES = {
    "rouge1": "rouge",
    "rouge2": "rouge",
    "rougeL": "rouge",
    "rougeLsum": "rouge",
    "accuracy": "accuracy",
    "exact_match": "exact_match",
}
"""Of which of them all are logged of 1, or all of 100. BLEU and chrF are always of 100."""
_PERCENT = 100.0

_KEY = re.compile(
    r"""(?:(?P<split>test|predict|eval|evaluation|validation|valid|val|dev)[ _/.:-]+)?
        (?P<metric>rouge[ _-]?(?:1|2|l[ _-]?sum|l)|(?:sacre[ _-]?)?bleu|chrf|accuracy|acc
                  |exact[ _-]?match|em)
        (?P<version>/v\d+)?
        (?:[ _/.:-](?:mean|mid|f|f1|f[ _-]?(?:measure|score)))?""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Found:
    """One metric of a run that is a score."""

    key: str
    metric: str
    split: str
    versioned: bool
    """Whether it is one of MLflow's own, ``bleu/v1/mean``: those lie between 0 and 1."""
    value: float


def find_scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the scores among a run's metrics, under Dovetail's names and in its units.

    Where a metric is there several times, the one without a prefix counts, then that of the test
    set, then that of the validation set. ROUGE in percent is recognised by a value over 1 among the
    ROUGE that was logged together, and divided by 100; so is accuracy, and so is exact match. What
    cannot be told is left out, with a warning in the log: a value out of range, and what may be
    meant of 1 or of 100. That is a BLEU or chrF of at most 1, and any of the others where only
    another family is known to be in percent.

    Args:
        metrics: Keys and values, as ``run.data.metrics`` has them.

    Examples:
        >>> find_scores({"eval_rougeL": 0.41, "train/rougeL": 0.9, "eval_loss": 1.2})
        {'rougeL': 0.41}
        >>> find_scores({"eval_rouge1": 47.5, "eval_rouge2": 0.75})
        {'rouge1': 0.475, 'rouge2': 0.0075}
        >>> find_scores({"rougeL/v1/mean": 0.25, "rougeL/v1/variance": 0.1, "bleu/v1/mean": 0.5})
        {'bleu': 50.0, 'rougeL': 0.25}
    """
    together: defaultdict[tuple[str, bool], list[_Found]] = defaultdict(list)
    for key, value in sorted(metrics.items()):
        if (found := _recognise(key, value)) is not None:
            together[found.split, found.versioned].append(found)
    scores: dict[str, float] = {}
    for split, versioned in sorted(together, key=lambda group: _SPLITS.index(group[0])):
        for metric, value in _in_our_units(together[split, versioned]):
            scores.setdefault(metric, value)
    return dict(sorted(scores.items()))


def _recognise(key: str, value: float) -> _Found | None:
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    if not math.isfinite(value):
        logger.warning("the run's metric %r is %s; it is not recorded", key, value)
        return None
    plain = re.sub(r"[ _-]", "", match["metric"].lower())
    return _Found(
        key=key,
        metric=_METRICS[plain],
        split=(match["split"] or "").lower(),
        versioned=match["version"] is not None,
        value=value,
    )


def _in_our_units(together: Iterable[_Found]) -> Iterable[tuple[str, float]]:
    """Yield metrics that were logged together, in Dovetail's units."""
    found = list(together)
    percent = {_FAMILIES[one.metric] for one in found if one.metric in _FAMILIES and one.value > 1}
    for one in found:
        value = _scaled(one, percent=percent)
        if value is not None:
            yield one.metric, value


def _scaled(one: _Found, *, percent: Set[str]) -> float | None:
    """Return a score in Dovetail's units, or None where they cannot be told.

    Args:
        one: The score.
        percent: The families that are known to be in percent among what was logged together.
    """
    if not 0 <= one.value <= _PERCENT:
        logger.warning(
            "the run's metric %r is %s, which is no such score; it is not recorded: give the right "
            "one as a score of its own",
            one.key,
            one.value,
        )
        return None
    family = _FAMILIES.get(one.metric)
    if family is None:
        if one.versioned and one.value <= 1:
            return one.value * _PERCENT
        return _unless_unclear(one, unclear=one.value <= 1, most=100)
    if family in percent:
        return one.value / _PERCENT
    return _unless_unclear(one, unclear=bool(percent), most=1)


def _unless_unclear(one: _Found, *, unclear: bool, most: int) -> float | None:
    if not unclear or one.value == 0:  # zero is zero of anything
        return one.value
    logger.warning(
        "the run's metric %r is %s, of 1 or of 100; it is not recorded: give it from 0 to %s "
        "as a score of its own",
        one.key,
        one.value,
        most,
    )
    return None
