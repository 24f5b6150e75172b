"""What every metric is: statistics of each row, which add up, and a value computed from their sum.

    stats = metric.statistics(predictions, references)   # [n, k]
    value = metric.aggregate(stats.sum(0))               # 0..100

Because rows add up, a bootstrap resample is only another way of adding them, so intervals and paired tests need no
second look at the text (the design is sacrebleu's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llama_tasks.errors import MetricError

Array = npt.NDArray[np.float64]

_DRAWS_AT_ONCE = 1 << 22  # row draws held in memory together: 32 MiB of indices


class Metric(Protocol):
    """A metric for one language. `signature` names every choice that changes the value."""

    @property
    def name(self) -> str: ...

    @property
    def lang(self) -> str: ...

    @property
    def signature(self) -> str: ...

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """Sufficient statistics `[n, k]` of n rows; `references[i]` are the acceptable answers of row i."""

    def aggregate(self, sums: Array) -> Array:
        """The value, 0..100, `[...]` of statistics summed over rows, `[..., k]`."""


@dataclass(frozen=True)
class Score:
    """A number with everything needed to read it: what was measured, on how many rows, how surely."""

    metric: str
    lang: str
    value: float
    """0..100"""
    interval: tuple[float, float]
    """95% percentile bootstrap over rows"""
    n: int
    signature: str

    def to_dict(self) -> dict[str, Any]:
        """The score as plain JSON types."""
        return asdict(self) | {"interval": list(self.interval)}


def score(
    metric: Metric,
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    n_resamples: int = 1000,
    seed: int = 12345,
) -> Score:
    """Score `predictions` with a 95% bootstrap interval.

    Raises:
        MetricError: the rows are malformed or the metric does not fit them.
    """
    stats = metric.statistics(predictions, references)
    return Score(
        metric=metric.name,
        lang=metric.lang,
        value=float(metric.aggregate(stats.sum(axis=0))),
        interval=percentile_interval(metric.aggregate(resampled_sums(stats, n_resamples, seed))),
        n=len(stats),
        signature=f"nrefs:{_reference_count(references)}|bs:{n_resamples}|seed:{seed}|{metric.signature}",
    )


def resampled_sums(stats: Array, n_resamples: int, seed: int) -> Array:
    """Sums `[n_resamples, k]` over rows of `stats` `[n, k]` drawn with replacement, n draws each (Efron 1979).

    The draws are those of sacrebleu for the same seed, so its resamples and ours are the same.
    """
    if n_resamples < 1:
        raise MetricError(f"n_resamples is {n_resamples}; give at least 1 (1000 is usual)")
    n = len(stats)
    rng = np.random.default_rng(seed)
    return np.concatenate([_counts(rng.integers(n, size=(size, n))) @ stats for size in chunks(n_resamples, n)])


def chunks(total: int, width: int) -> Iterator[int]:
    """Sizes that add up to `total`, each small enough to hold that many rows of `width` draws in memory."""
    most = max(1, _DRAWS_AT_ONCE // width)
    while total > 0:
        yield min(most, total)
        total -= most


def percentile_interval(values: Array) -> tuple[float, float]:
    """The middle 95% of `values` `[n_resamples]`."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_statistics(values: Sequence[float]) -> Array:
    """Statistics `[n, 2]`, value (0..1) and 1, of a metric that is the plain mean over rows."""
    return np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])


def mean_aggregate(sums: Array) -> Array:
    """The mean, 0..100, of summed `mean_statistics`."""
    return np.asarray(100.0 * sums[..., 0] / sums[..., 1])


def best_over_references(
    value: Callable[[str, str], float], predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> Array:
    """Mean statistics of the best `value(prediction, reference)` of each row."""
    pairs = zip(predictions, references, strict=True)
    return mean_statistics([max(value(prediction, answer) for answer in row) for prediction, row in pairs])


def check_rows(
    name: str, predictions: Sequence[str], references: Sequence[Sequence[str]], *, unanswerable: bool = False
) -> None:
    """Refuse rows whose shape would be misread; `unanswerable` allows rows without a reference.

    Raises:
        MetricError: a bare string for a list, other nesting than one list of references a row, unequal lengths, None,
            no rows.
    """
    _check_list(f"{name}: predictions", predictions)
    _check_list(f"{name}: references", references)
    if len(predictions) != len(references):
        raise MetricError(
            f"{name}: {len(predictions)} predictions but references for {len(references)} rows; "
            "give one list of references a row, e.g. [['a'], ['b', 'b2']]"
        )
    if not predictions:
        raise MetricError(f"{name}: there are no rows to score")
    for index, (prediction, row) in enumerate(zip(predictions, references, strict=True)):
        _check_text(f"{name}: the prediction of row {index}", prediction)
        _check_list(f"{name}: the references of row {index}", row)
        if not row and not unanswerable:
            raise MetricError(f"{name}: row {index} has no reference; remove the row or give it one")
        for answer in row:
            _check_text(f"{name}: a reference of row {index}", answer)


def _check_list(what: str, value: object) -> None:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise MetricError(f"{what} must be a list, not {_spell(value)}; put a single text in brackets")


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise MetricError(f"{what} must be a text, not {_spell(value)}; an empty answer is ''")


def _spell(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {repr(value)[:40]}"


def _reference_count(references: Sequence[Sequence[str]]) -> str:
    counts = {len(row) or 1 for row in references}  # no reference stands for one: the empty answer
    return str(counts.pop()) if len(counts) == 1 else "var"


def _counts(draws: npt.NDArray[np.int64]) -> Array:
    """How often each row was drawn, `[b, n]`, from the drawn indices `[b, n]`."""
    b, n = draws.shape
    flat = (draws + n * np.arange(b)[:, None]).ravel()
    return np.bincount(flat, minlength=b * n).reshape(b, n).astype(np.float64)
