"""Promotion gates: does a version meet a requirement, and if not, by how much.

Against a number, the newest measured score counts. Against another version, the two are compared
example by example on every dataset on which both were measured in the same way, with a paired
bootstrap interval of the mean difference: ``>=`` holds unless the version is measurably worse
(the interval lies wholly below zero), ``>`` holds only if it is measurably better (the interval
lies wholly above zero). What cannot be compared is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dovetail.registry.evaluations import dataset_label, how_they_differ
from dovetail.registry.examples import paired_score_difference
from dovetail.registry.records import AdapterVersion, Evaluation
from dovetail.registry.reference import BARE_BASE
from dovetail.registry.requirements import Requirement

MIN_PAIRED_EXAMPLES = 10
"""Fewer examples than this give no interval worth deciding with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What became of one requirement.

    Attributes:
        requirement: The requirement as it was written.
        passed: Whether the version meets it.
        message: One sentence with the values.
        shortfall: By how much it failed, in the metric's units, or None.
    """

    requirement: str
    passed: bool
    message: str
    shortfall: float | None = None


class Scoreboard(Protocol):
    """Where a gate finds scores."""

    def evaluations(self, version: AdapterVersion) -> Sequence[Evaluation]:
        """Return a version's evaluations, the newest first."""
        ...

    def base_evaluations(self, fingerprint: str) -> Sequence[Evaluation]:
        """Return the bare base model's evaluations, the newest first."""
        ...

    def version_at(self, name: str, alias: str) -> AdapterVersion | None:
        """Return the version that an alias points to, or None if it is not set."""
        ...

    def examples(self, evaluation: Evaluation) -> bytes:
        """Return the blob of an evaluation's per-example scores, verified."""
        ...


def check_requirement(
    requirement: Requirement, version: AdapterVersion, board: Scoreboard, *, moving: str
) -> GateResult:
    """Decide whether a version meets a requirement.

    Args:
        requirement: What is asked.
        version: Of which version.
        board: Where scores are found.
        moving: The alias that is about to move. If it is not set yet, a comparison with it holds;
            one with any other alias that is not set fails, lest a misspelt name opens the gate.
    """
    found = board.evaluations(version)
    ours = [
        evaluation
        for evaluation in found
        if evaluation.kind == "measured"
        and requirement.metric in evaluation.scores
        and _is_on(evaluation, requirement.dataset)
    ]
    if not ours:
        return _refused(requirement, _nothing_measured(requirement, version, found))
    if requirement.threshold is not None:
        return _against_number(requirement, requirement.threshold, version, ours)
    return _against_other(requirement, version, ours, board, moving)


def _against_number(
    requirement: Requirement, threshold: float, version: AdapterVersion, ours: list[Evaluation]
) -> GateResult:
    if len({evaluation.dataset_digest for evaluation in ours}) > 1:
        names = ", ".join(sorted({dataset_label(evaluation) for evaluation in ours}))
        return _refused(
            requirement,
            f"{version.reference} was measured on more than one dataset: {names}; say which: "
            f"'{requirement.metric} {requirement.operator} {threshold:g} on DATASET', by name or "
            "by the beginning of the digest",
        )
    score = ours[0].scores[requirement.metric]
    passed = score.value > threshold or (requirement.operator == ">=" and score.value == threshold)
    interval = (
        f", 95 % interval {score.ci_low:.4f} to {score.ci_high:.4f}"
        if score.ci_low is not None and score.ci_high is not None
        else ""
    )
    gap = threshold - score.value
    side = f"{abs(gap):.4f} {'below' if gap > 0 else 'above'}"
    message = (
        f"{requirement.metric} of {version.reference} is {score.value:.4f}, {side} "
        f"{threshold:g} (n={ours[0].n}{interval})"
    )
    return GateResult(
        requirement=requirement.text,
        passed=passed,
        message=message,
        shortfall=None if passed else gap,
    )


def _against_other(
    requirement: Requirement,
    version: AdapterVersion,
    ours: list[Evaluation],
    board: Scoreboard,
    moving: str,
) -> GateResult:
    if requirement.alias == BARE_BASE:
        label, theirs = "the bare base model", board.base_evaluations(version.base_model)
    else:
        other = board.version_at(version.name, str(requirement.alias))
        if other is None and requirement.alias != moving:
            return _refused(
                requirement,
                f"adapter {version.name!r} has no alias {requirement.alias!r} to compare with; "
                "name one that is set",
            )
        if other is None:
            return GateResult(
                requirement=requirement.text,
                passed=True,
                message=f"{requirement.alias} is not set yet, so there is nothing to compare with",
            )
        label = f"{requirement.alias} ({other.reference})"
        theirs = board.evaluations(other)
    pairs, reason = _comparable(requirement, ours, theirs)
    if not pairs:
        return _refused(
            requirement,
            f"{version.reference} and {label} cannot be compared by {requirement.metric}: "
            f"{reason}; measure both with: dovetail evaluate",
        )
    results = [
        _paired(requirement, version, label, mine, other_one, board) for mine, other_one in pairs
    ]
    return min(results, key=lambda result: (result.passed, -(result.shortfall or 0.0)))


def _comparable(
    requirement: Requirement, ours: Sequence[Evaluation], theirs: Sequence[Evaluation]
) -> tuple[list[tuple[Evaluation, Evaluation]], str]:
    """Pair the newest comparable evaluations on each dataset, or say why there are none."""
    pairs: dict[str | None, tuple[Evaluation, Evaluation]] = {}
    reason = f"the other has no measured {requirement.metric}"
    for mine in ours:
        for other in theirs:
            if requirement.metric not in other.scores:
                continue
            difference = how_they_differ(mine, other)
            if difference is None:
                pairs.setdefault(mine.dataset_digest, (mine, other))
            else:
                reason = difference
    return list(pairs.values()), reason


def _paired(
    requirement: Requirement,
    version: AdapterVersion,
    label: str,
    mine: Evaluation,
    other: Evaluation,
    board: Scoreboard,
) -> GateResult:
    if (mine.n or 0) < MIN_PAIRED_EXAMPLES:
        return _refused(
            requirement,
            f"{mine.n} examples on {dataset_label(mine)} are too few to compare "
            f"{version.reference} with {label}; measure on {MIN_PAIRED_EXAMPLES} or more",
        )
    found = paired_score_difference(board.examples(mine), board.examples(other), requirement.metric)
    assert found.low is not None and found.high is not None  # noqa: S101, PT018 (n is enough)
    bound = found.high if requirement.operator == ">=" else found.low
    passed = (
        bound >= requirement.margin
        if requirement.operator == ">="
        else bound > (requirement.margin)
    )
    side = "below" if found.value < 0 else "above"
    margin = f", margin {requirement.margin:+g}" if requirement.margin else ""
    return GateResult(
        requirement=requirement.text,
        passed=passed,
        message=(
            f"{requirement.metric} of {version.reference} is "
            f"{mine.scores[requirement.metric].value:.4f}, {abs(found.value):.4f} {side} {label} "
            f"at {other.scores[requirement.metric].value:.4f} on {dataset_label(mine)} "
            f"(95 % interval of the difference {found.low:+.4f} to {found.high:+.4f}{margin}, "
            f"n={mine.n})"
        ),
        shortfall=None if passed else requirement.margin - found.value,
    )


def _nothing_measured(
    requirement: Requirement, version: AdapterVersion, found: Sequence[Evaluation]
) -> str:
    on = f" on {requirement.dataset}" if requirement.dataset else ""
    reported = next(
        (e for e in found if e.kind == "reported" and requirement.metric in e.scores), None
    )
    known = f", only a reported {reported.scores[requirement.metric].value:.4f}" if reported else ""
    return (
        f"{version.reference} has no measured {requirement.metric}{on}{known}; measure it with: "
        f"dovetail evaluate {version.reference}"
    )


def _is_on(evaluation: Evaluation, dataset: str | None) -> bool:
    return (
        dataset is None
        or evaluation.dataset_name == dataset
        or (dataset.startswith("sha256:") and (evaluation.dataset_digest or "").startswith(dataset))
    )


def _refused(requirement: Requirement, message: str) -> GateResult:
    return GateResult(requirement=requirement.text, passed=False, message=message)
