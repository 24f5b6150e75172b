"""Is the difference of two systems on the same rows more than chance?

    comparison = compare(metric, stats_base, stats_adapter)   # statistics [n, k] of the same n rows, in the same order

Positive differences mean that b is better. No torch, no text: everything follows from row statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import (
    Array,
    Metric,
    chunks,
    mean_aggregate,
    mean_statistics,
    percentile_interval,
    resampled_sums,
)

_Aggregate = Callable[[Array], Array]

_ROUNDING = 1e-9  # differences closer than this are ties: sums of the same rows in another order


@dataclass(frozen=True)
class Comparison:
    """System b against system a on the same rows."""

    difference: float
    """Value of b minus value of a, in points (-100..100)"""
    interval: tuple[float, float]
    """95% percentile bootstrap of the difference, both systems on the same resampled rows"""
    p_value: float
    """Two-sided: how probable a difference at least this large is if the systems are equally good"""
    method: str

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain JSON types."""
        return asdict(self) | {"interval": list(self.interval)}


def compare(
    metric: Metric,
    stats_a: Array,
    stats_b: Array,
    *,
    n_resamples: int = 1000,
    seed: int = 12345,
    null: Literal["shift", "sacrebleu"] = "shift",
) -> Comparison:
    """Paired bootstrap test (Koehn 2004) of statistics `[n, k]`.

    With d the difference and d* its bootstrap values, p = (1 + #{|d* - mean d*| >= |d|}) / (1 + n_resamples): the
    resamples shifted to the null hypothesis (Efron and Tibshirani 1993, ch. 16). `null="sacrebleu"` centres |d*|
    instead, as sacrebleu does: |d*| - mean |d*| >= |d|. That looks at one tail only, so it gives about half the
    p-value and calls equal systems different about twice as often as it says.

    Raises:
        MetricError: the statistics are not of the same rows.
    """
    difference = _difference(metric.aggregate, stats_a, stats_b)
    resampled = _resampled_differences(metric.aggregate, stats_a, stats_b, n_resamples, seed)
    spread = np.abs(resampled - resampled.mean())
    if null == "sacrebleu":
        spread = np.abs(resampled) - np.abs(resampled).mean()
    variant = "-sacrebleu" if null == "sacrebleu" else ""
    return Comparison(
        difference=difference,
        interval=percentile_interval(resampled),
        p_value=_p_value(spread, difference),
        method=f"paired-bootstrap{variant}|bs:{n_resamples}|seed:{seed}",
    )


def approximate_randomisation(
    metric: Metric, stats_a: Array, stats_b: Array, *, n_resamples: int = 10000, seed: int = 12345
) -> Comparison:
    """Paired approximate randomisation (Riezler and Maxwell 2005): if the systems are equally good, swapping their
    outputs on any row changes nothing, so p is the share of random swaps with a difference at least as large.

    Raises:
        MetricError: the statistics are not of the same rows.
    """
    difference = _difference(metric.aggregate, stats_a, stats_b)
    middle, half = (stats_a.sum(axis=0) + stats_b.sum(axis=0)) / 2, (stats_b - stats_a) / 2
    rng = np.random.default_rng(seed)
    swapped = []
    for size in chunks(n_resamples, len(half)):
        signs = rng.integers(2, size=(size, len(half)), dtype=bool) * 2.0 - 1.0
        moved = signs @ half
        swapped.append(metric.aggregate(middle + moved) - metric.aggregate(middle - moved))
    return Comparison(
        difference=difference,
        interval=percentile_interval(_resampled_differences(metric.aggregate, stats_a, stats_b, 1000, seed)),
        p_value=_p_value(np.abs(np.concatenate(swapped)), difference),
        method=f"approximate-randomisation|ar:{n_resamples}|bs:1000|seed:{seed}",
    )


def mcnemar(
    correct_a: Sequence[bool], correct_b: Sequence[bool], *, n_resamples: int = 1000, seed: int = 12345
) -> Comparison:
    """McNemar's test (1947), in its exact two-sided form, for right-or-wrong metrics; the interval is `compare`'s.

    Only rows on which the systems disagree say anything: of n such rows, b wins k ~ Binomial(n, 1/2) by chance.

    Raises:
        MetricError: the sequences are not of the same rows.
    """
    stats_a, stats_b = (mean_statistics([float(bool(value)) for value in values]) for values in (correct_a, correct_b))
    difference = _difference(mean_aggregate, stats_a, stats_b)
    gained = int(np.sum(stats_b[:, 0] > stats_a[:, 0]))
    lost = int(np.sum(stats_b[:, 0] < stats_a[:, 0]))
    return Comparison(
        difference=difference,
        interval=percentile_interval(_resampled_differences(mean_aggregate, stats_a, stats_b, n_resamples, seed)),
        p_value=_binomial_p_value(gained, lost),
        method=f"mcnemar-exact|bs:{n_resamples}|seed:{seed}",
    )


def _difference(aggregate: _Aggregate, stats_a: Array, stats_b: Array) -> float:
    if stats_a.shape != stats_b.shape:
        raise MetricError(
            f"the two systems were not scored on the same rows: statistics of shape {stats_a.shape} and {stats_b.shape}"
        )
    if not len(stats_a):
        raise MetricError("there are no rows to compare")
    return float(aggregate(stats_b.sum(axis=0)) - aggregate(stats_a.sum(axis=0)))


def _resampled_differences(aggregate: _Aggregate, stats_a: Array, stats_b: Array, n_resamples: int, seed: int) -> Array:
    """Differences `[n_resamples]`, each of both systems on the same drawn rows."""
    sums = resampled_sums(np.concatenate([stats_a, stats_b], axis=1), n_resamples, seed)
    sums_a, sums_b = np.split(sums, 2, axis=1)
    return aggregate(sums_b) - aggregate(sums_a)


def _p_value(sampled: Array, difference: float) -> float:
    """Share of `sampled` at least as large as |difference|; 1 is added to both counts so that p is never 0."""
    extreme = int(np.sum(sampled >= abs(difference) - _ROUNDING))
    return (extreme + 1) / (len(sampled) + 1)


def _binomial_p_value(gained: int, lost: int) -> float:
    n = gained + lost
    term, tail = 1, 0  # term: n choose k, exactly
    for k in range(min(gained, lost) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)
