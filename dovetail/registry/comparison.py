"""Two versions side by side: scores with the paired interval, and what differs in how they came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.registry.evaluations import dataset_label, how_they_differ
from dovetail.registry.examples import paired_score_difference
from dovetail.registry.gates import Scoreboard
from dovetail.registry.records import AdapterVersion, Evaluation, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreComparison:
    """One metric of two versions, measured on the same dataset in the same way.

    Attributes:
        dataset: Name and beginning of the digest.
        metric: The metric.
        n: Number of examples.
        first: Score of the first version.
        second: Score of the second version.
        difference: Mean of second minus first.
        ci_low: Lower end of the paired 95 % interval of the difference; None for one example.
        ci_high: Upper end of it.
    """

    dataset: str
    metric: str
    n: int
    first: Score
    second: Score
    difference: float
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is the same and what differs between two versions.

    Attributes:
        first: The one version.
        second: The other.
        scores: Every metric that can be compared.
        not_comparable: Why other scores cannot be, one sentence each.
        hyperparameters: Key to the two values, where they differ.
        config: The same for ``adapter_config.json``.
        same_base_model: Whether both were trained on the same weights.
    """

    first: AdapterVersion
    second: AdapterVersion
    scores: tuple[ScoreComparison, ...]
    not_comparable: tuple[str, ...]
    hyperparameters: Mapping[str, tuple[Any, Any]]
    config: Mapping[str, tuple[Any, Any]]
    same_base_model: bool


def compare_versions(
    first: AdapterVersion, second: AdapterVersion, board: Scoreboard
) -> Comparison:
    """Compare two versions' scores, hyperparameters and configs."""
    ours, theirs = board.evaluations(first), board.evaluations(second)
    pairs, reasons = _pair_up(ours, theirs)
    return Comparison(
        first=first,
        second=second,
        scores=tuple(score for pair in pairs for score in _compare_scores(*pair, board)),
        not_comparable=tuple(reasons),
        hyperparameters=differences(first.hyperparameters, second.hyperparameters),
        config=differences(first.config, second.config),
        same_base_model=first.base_model == second.base_model,
    )


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ, with both values; a missing one is None.

    Examples:
        >>> differences({"r": 8, "alpha": 16}, {"r": 16, "alpha": 16})
        {'r': (8, 16)}
    """
    keys = sorted({*first, *second})
    pairs = {key: (first.get(key), second.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _pair_up(
    ours: Sequence[Evaluation], theirs: Sequence[Evaluation]
) -> tuple[list[tuple[Evaluation, Evaluation]], list[str]]:
    pairs: dict[str | None, tuple[Evaluation, Evaluation]] = {}
    reasons: list[str] = []
    for mine in ours:
        for other in theirs:
            reason = how_they_differ(mine, other)
            if reason is None:
                pairs.setdefault(mine.dataset_digest, (mine, other))
            elif reason not in reasons:
                reasons.append(reason)
    if not ours or not theirs:
        reasons.append("one of the two has no scores; measure it with: dovetail evaluate")
    return list(pairs.values()), reasons


def _compare_scores(
    mine: Evaluation, other: Evaluation, board: Scoreboard
) -> Iterator[ScoreComparison]:
    my_examples, other_examples = board.examples(mine), board.examples(other)
    for metric in sorted(mine.scores.keys() & other.scores.keys()):
        found = paired_score_difference(other_examples, my_examples, metric)
        yield ScoreComparison(
            dataset=dataset_label(mine),
            metric=metric,
            n=mine.n or 0,
            first=mine.scores[metric],
            second=other.scores[metric],
            difference=found.value,
            ci_low=found.low,
            ci_high=found.high,
        )
