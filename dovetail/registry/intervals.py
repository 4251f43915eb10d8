"""Bootstrap confidence intervals of means, of corpus statistics and of paired differences.

One algorithm serves all of them. A score is a function of *sums over examples*: a mean is the sum
of per-example scores over n; BLEU and chrF are computed from summed n-gram counts. A resample
draws n examples with replacement, which is a vector of how often each example was drawn, so all
resamples are one matrix product of draw counts and per-example statistics. A paired comparison
uses the same draws for both systems.

Sources: the percentile interval is Efron and Tibshirani, *An Introduction to the Bootstrap* (1993),
chapter 13; resampling the same sentences for two systems is Koehn, *Statistical Significance Tests
for Machine Translation Evaluation* (EMNLP 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dovetail.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]
    Values: TypeAlias = Sequence[float] | NDArray[Any]
    Aggregate: TypeAlias = Callable[[Array], Array]

__all__ = [
    "Interval",
    "bootstrap_mean",
    "bootstrap_statistic",
    "paired_difference",
    "paired_statistic_difference",
]

CONFIDENCE = 0.95
RESAMPLES = 2_000
# Draws held at once. 2**21 of them take about 40 MB, whatever n is.
_DRAWS_AT_ONCE = 2**21


@dataclass(frozen=True, slots=True)
class Interval:
    """A statistic and its confidence interval.

    Attributes:
        value: The statistic of all examples, each counted once.
        low: Lower end, or None where there are fewer than two examples: one example says nothing
            about how far another sample would be off.
        high: Upper end, or None likewise.
    """

    value: float
    low: float | None
    high: float | None


def bootstrap_mean(
    values: Values, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of per-example values, with its percentile bootstrap interval.

    Args:
        values: One finite number per example.
        confidence: Share of the bootstrap distribution between the two ends.
        resamples: How often the examples are drawn anew.
        seed: The same seed and values give the same interval.

    Raises:
        InvalidInput: No values, or one is NaN or infinite.

    Examples:
        >>> bootstrap_mean([0.25, 0.75, 0.5, 0.5]).value
        0.5
        >>> bootstrap_mean([0.5])
        Interval(value=0.5, low=None, high=None)
    """
    stats = _column(values)
    return bootstrap_statistic(
        stats, _mean_of(len(stats)), confidence=confidence, resamples=resamples, seed=seed
    )


def paired_difference(
    a: Values,
    b: Values,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return mean(a) - mean(b) over the same examples, with its paired bootstrap interval.

    Args:
        a: One finite number per example.
        b: The other system's number for each of the same examples, in the same order.
        confidence: Share of the bootstrap distribution between the two ends.
        resamples: How often the examples are drawn anew.
        seed: The same seed and values give the same interval.

    Raises:
        InvalidInput: Lengths differ, there are no values, or one is NaN or infinite.

    Examples:
        >>> paired_difference([0.5, 0.75], [0.25, 0.5])
        Interval(value=0.25, low=0.25, high=0.25)
    """
    left, right = _column(a), _column(b)
    _check_same_length(len(left), len(right))
    # The mean of the differences is the difference of the means, with half of the work.
    return bootstrap_statistic(
        left - right, _mean_of(len(left)), confidence=confidence, resamples=resamples, seed=seed
    )


def bootstrap_statistic(
    stats: NDArray[Any] | Sequence[Sequence[float]],
    aggregate: Aggregate,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a statistic of summed per-example statistics, with its bootstrap interval.

    Args:
        stats: Sufficient statistics, of shape ``(examples, k)``.
        aggregate: Maps sums of shape ``(m, k)`` to statistics of shape ``(m,)``.
        confidence: Share of the bootstrap distribution between the two ends.
        resamples: How often the examples are drawn anew.
        seed: The same seed and values give the same interval.

    Raises:
        InvalidInput: No examples, or a statistic is NaN or infinite.
    """
    import numpy as np

    matrix = _matrix(stats)
    value = float(aggregate(matrix.sum(axis=0, keepdims=True))[0])
    if len(matrix) < 2:  # noqa: PLR2004 - one example has no spread
        return Interval(value, None, None)
    drawn = [
        aggregate(counts @ matrix) for counts in _draws(len(matrix), resamples=resamples, seed=seed)
    ]
    return _percentiles(value, np.concatenate(drawn), confidence)


def paired_statistic_difference(
    a: NDArray[Any] | Sequence[Sequence[float]],
    b: NDArray[Any] | Sequence[Sequence[float]],
    aggregate: Aggregate,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return statistic(a) - statistic(b), with its paired bootstrap interval.

    Args:
        a: Sufficient statistics of one system, of shape ``(examples, k)``.
        b: Those of the other for the same examples, in the same order.
        aggregate: Maps sums of shape ``(m, k)`` to statistics of shape ``(m,)``.
        confidence: Share of the bootstrap distribution between the two ends.
        resamples: How often the examples are drawn anew.
        seed: The same seed and values give the same interval.

    Raises:
        InvalidInput: Shapes differ, there are no examples, or a statistic is NaN or infinite.
    """
    import numpy as np

    left, right = _matrix(a), _matrix(b)
    _check_same_length(len(left), len(right))
    sums = [side.sum(axis=0, keepdims=True) for side in (left, right)]
    value = float((aggregate(sums[0]) - aggregate(sums[1]))[0])
    if len(left) < 2:  # noqa: PLR2004 - one example has no spread
        return Interval(value, None, None)
    drawn = [
        aggregate(counts @ left) - aggregate(counts @ right)
        for counts in _draws(len(left), resamples=resamples, seed=seed)
    ]
    return _percentiles(value, np.concatenate(drawn), confidence)


def _draws(n: int, *, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each example is drawn, in blocks of shape ``(resamples, n)``."""
    import numpy as np

    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    for done in range(0, resamples, at_once):
        rows = min(at_once, resamples - done)
        drawn = random.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n)
        yield counts.reshape(rows, n).astype(np.float64)


def _percentiles(value: float, drawn: Array, confidence: float) -> Interval:
    import numpy as np

    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence is {confidence}; give a share between 0 and 1")
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _mean_of(n: int) -> Aggregate:
    def mean(sums: Array) -> Array:
        return sums[:, 0] / n

    return mean


def _column(values: Values) -> Array:
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InvalidInput(f"values have shape {array.shape}; give one number per example")
    return _matrix(array[:, None])


def _matrix(stats: NDArray[Any] | Sequence[Sequence[float]]) -> Array:
    import numpy as np

    matrix = np.asarray(stats, dtype=np.float64)
    if not len(matrix):
        raise InvalidInput("there are no examples; an interval needs at least one")
    if matrix.ndim != 2:  # noqa: PLR2004 - rows and columns
        raise InvalidInput(f"statistics have shape {matrix.shape}; give (examples, k)")
    if not np.isfinite(matrix).all():
        at = int(np.argmax(~np.isfinite(matrix).all(axis=1)))
        raise InvalidInput(f"example {at} has a score that is no finite number", index=at)
    return matrix


def _check_same_length(a: int, b: int) -> None:
    if a != b:
        raise InvalidInput(
            f"{a:,} examples cannot be paired with {b:,}; score both systems on the same examples",
            left=a,
            right=b,
        )
