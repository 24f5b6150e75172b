"""Is the difference of two systems on the same rows more than chance?

    comparison = compare(metric, stats_base, stats_adapter)   # statistics [n, k] of the same n rows, in the same order

Positive differences mean that b has the greater value (for `ter` and `perplexity` the worse one). No torch, no text:
everything follows from row statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import LARGEST, Measure, TooLarge, mean_aggregate, mean_statistics
from llama_tasks.metrics.bootstrap import Array, chunks, percentile_interval, resampled_sums

_Aggregate = Callable[[Array], Array]

FEW = 50  # rows: with fewer the bootstrap calls equal systems different too often
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
    detectable: float
    """Smallest true difference, in points, that such a test finds (see `detectable_difference`)"""

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain JSON types."""
        return asdict(self) | {"interval": list(self.interval)}


def compare(
    metric: Measure,
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

    On fewer than FEW rows the p-value is that of `approximate_randomisation`, a permutation test and so exact for any number
    of rows (Efron and Tibshirani 1993, ch. 15): 1 on one row, about 0.06 at least on five. The spread of so few rows says too
    little for a bootstrap. The detectable difference is then made of the spread of the swapped differences.

    Raises:
        MetricError: the statistics are not of the same rows. TooLarge: perplexities beyond all use.
    """
    difference = _difference(metric.aggregate, stats_a, stats_b)
    drawn = (metric.aggregate, stats_a, stats_b, n_resamples, seed)
    resampled = _resampled_differences(*drawn)
    method, chance = "paired-bootstrap", resampled - np.nanmean(resampled)
    spread = np.abs(chance)
    if null == "sacrebleu":
        method, spread = "paired-bootstrap-sacrebleu", np.abs(resampled) - np.nanmean(np.abs(resampled))
    elif np.any(stats_a + stats_b, axis=1).sum() < FEW:  # rows that the metric is not about have statistics 0
        method, chance = f"approximate-randomisation|ar:{n_resamples}", _swapped_differences(*drawn)
        spread = np.abs(chance)
    return Comparison(
        difference=difference,
        interval=percentile_interval(resampled),
        p_value=_p_value(spread, difference),
        method=f"{method}|bs:{n_resamples}|seed:{seed}",
        detectable=detectable_difference(chance),
    )


def compare_systems(
    metric: Measure,
    base: Array,
    systems: Mapping[str, Array],
    *,
    n_resamples: int = 1000,
    seed: int = 12345,
) -> dict[str, Comparison]:
    """Each of `systems` (name -> statistics `[n, k]`) against `base`, with p-values corrected by `holm`.

    Raises:
        MetricError: the statistics are not of the same rows.
    """
    found = {name: compare(metric, base, stats, n_resamples=n_resamples, seed=seed) for name, stats in systems.items()}
    corrected = holm([comparison.p_value for comparison in found.values()])
    return {
        name: replace(comparison, p_value=p, method=f"{comparison.method}|holm:{len(found)}")
        for (name, comparison), p in zip(found.items(), corrected, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the given order (Holm 1979): the chance of one false alarm among all of
    them stays below the level. The i-th smallest of m is multiplied by m - i + 1, and none is less than one before it."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def detectable_difference(resampled: Array, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test at `level` finds with probability `power` on this many rows.

    (z(1 - level / 2) + z(power)) x the standard error (Bloom 1995), 2.8 standard errors by default; the standard error is
    that of the resampled differences `[n_resamples]` of the two systems. Other systems on the same rows have another one.
    """
    normal = NormalDist()
    # A resample in which a part of the rows is missing has no difference.
    error = float(np.nanstd(resampled, ddof=1)) if len(resampled) > 1 else 0.0
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * error


def approximate_randomisation(
    metric: Measure, stats_a: Array, stats_b: Array, *, n_resamples: int = 10000, seed: int = 12345
) -> Comparison:
    """Paired approximate randomisation (Riezler and Maxwell 2005): if the systems are equally good, swapping their
    outputs on any row changes nothing, so p is the share of random swaps with a difference at least as large.

    Raises:
        MetricError: the statistics are not of the same rows.
    """
    difference = _difference(metric.aggregate, stats_a, stats_b)
    swapped = _swapped_differences(metric.aggregate, stats_a, stats_b, n_resamples, seed)
    resampled = _resampled_differences(metric.aggregate, stats_a, stats_b, 1000, seed)
    return Comparison(
        difference=difference,
        interval=percentile_interval(resampled),
        p_value=_p_value(np.abs(swapped), difference),
        method=f"approximate-randomisation|ar:{n_resamples}|bs:1000|seed:{seed}",
        detectable=detectable_difference(resampled),
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
    resampled = _resampled_differences(mean_aggregate, stats_a, stats_b, n_resamples, seed)
    return Comparison(
        difference=difference,
        interval=percentile_interval(resampled),
        p_value=_binomial_p_value(gained, lost),
        method=f"mcnemar-exact|bs:{n_resamples}|seed:{seed}",
        detectable=detectable_difference(resampled),
    )


def _difference(aggregate: _Aggregate, stats_a: Array, stats_b: Array) -> float:
    if stats_a.shape != stats_b.shape:
        raise MetricError(
            f"the two systems were not scored on the same rows: statistics of shape {stats_a.shape} and {stats_b.shape}"
        )
    if not len(stats_a):
        raise MetricError("there are no rows to compare")
    difference = float(_values(aggregate, stats_b.sum(axis=0)) - _values(aggregate, stats_a.sum(axis=0)))
    if math.isnan(difference):
        raise MetricError("there are no rows of the part that the metric is about")
    return difference


def _values(aggregate: _Aggregate, sums: Array) -> Array:
    with np.errstate(over="ignore"):  # told in words
        values = aggregate(sums)
    if np.any(np.abs(values) > LARGEST):
        raise TooLarge(
            f"values of these rows are over {LARGEST:g} and say nothing any more; compare `loss` or `bits_per_byte`"
        )
    return values


def _resampled_differences(aggregate: _Aggregate, stats_a: Array, stats_b: Array, n_resamples: int, seed: int) -> Array:
    """Differences `[n_resamples]`, each of both systems on the same drawn rows."""
    sums = resampled_sums(np.concatenate([stats_a, stats_b], axis=1), n_resamples, seed)
    sums_a, sums_b = np.split(sums, 2, axis=1)
    return _values(aggregate, sums_b) - _values(aggregate, sums_a)


def _swapped_differences(aggregate: _Aggregate, stats_a: Array, stats_b: Array, n_resamples: int, seed: int) -> Array:
    """Differences `[n_resamples]`, each with the two outputs of every row swapped or not, by chance."""
    middle, half = (stats_a.sum(axis=0) + stats_b.sum(axis=0)) / 2, (stats_b - stats_a) / 2
    rng = np.random.default_rng(seed)
    swapped = []
    for size in chunks(n_resamples, len(half)):
        signs = rng.integers(2, size=(size, len(half)), dtype=bool)
        moved = 2.0 * (signs.astype(np.float64) @ half) - half.sum(axis=0)  # each row goes up (+1) or down (-1)
        swapped.append(_values(aggregate, middle + moved) - _values(aggregate, middle - moved))
    return np.concatenate(swapped)


def _p_value(sampled: Array, difference: float) -> float:
    """Share of `sampled` at least as large as |difference|; 1 is added to both counts so that p is never 0."""
    sampled = sampled[~np.isnan(sampled)]
    extreme = int(np.sum(sampled >= abs(difference) - _ROUNDING))
    return (extreme + 1) / (len(sampled) + 1)


def _binomial_p_value(gained: int, lost: int) -> float:
    n = gained + lost
    term, tail = 1, 0  # term: n choose k, exactly
    for k in range(min(gained, lost) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)
