"""Resampling rows by their statistics: only how often a row was drawn counts, so a resample is one matrix product."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from llama_tasks.errors import MetricError

Array = npt.NDArray[np.float64]

_SPARSE = 0.05  # share of numbers other than 0 below which a sparse product is faster
_DRAWS_AT_ONCE = 1 << 22  # draws held in memory together: 16 MiB of indices and 32 MiB of counts


def resampled_sums(stats: Array, n_resamples: int, seed: int) -> Array:
    """Sums `[n_resamples, k]` over rows of `stats` `[n, k]` drawn with replacement, n draws each (Efron 1979).

    The draws are those of sacrebleu for the same seed, so its resamples and ours are the same.
    """
    if n_resamples < 1:
        raise MetricError(f"n_resamples is {n_resamples}; give at least 1 (1000 is usual)")
    if seed < 0:
        raise MetricError(f"seed is {seed}; give 0 or more")
    n = len(stats)
    rng = np.random.default_rng(seed)
    # int32 gives the same stream as sacrebleu's int64, in half the time and memory.
    draws = (rng.integers(n, size=(size, n), dtype=np.int32) for size in chunks(n_resamples, n))
    add = _adder(stats)
    return np.concatenate([add(_counts(part)) for part in draws])


def _adder(stats: Array) -> Callable[[Array], Array]:
    """counts `[b, n]` -> counts @ stats. One-hot statistics of many labels hold almost only zeros, which are left out."""
    if np.count_nonzero(stats) > _SPARSE * stats.size:
        return lambda counts: counts @ stats
    from scipy.sparse import csr_array

    turned = csr_array(stats.T)
    return lambda counts: np.ascontiguousarray((turned @ counts.T).T)


def chunks(total: int, width: int) -> Iterator[int]:
    """Sizes that add up to `total`, each small enough to hold that many rows of `width` draws in memory."""
    most = max(1, _DRAWS_AT_ONCE // width)
    while total > 0:
        yield min(most, total)
        total -= most


def percentile_interval(values: Array) -> tuple[float, float]:
    """The middle 95% of `values` `[n_resamples]`, those that are not NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        raise MetricError("none of the resamples drew a row that the metric is about; raise n_resamples")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _counts(draws: npt.NDArray[np.int32]) -> Array:
    """How often each row was drawn, `[b, n]`, from the drawn indices `[b, n]`."""
    counts = np.empty(draws.shape)
    for row, drawn in enumerate(draws):  # one at a time: the counters of one resample stay in the cache
        counts[row] = np.bincount(drawn, minlength=draws.shape[1])
    return counts
