"""What every metric is: statistics of each row, which add up, and a value computed from their sum.

    stats = metric.statistics(predictions, references)   # [n, k]
    value = metric.aggregate(stats.sum(0))               # 0..100

Because rows add up, a bootstrap resample is only another way of adding them, so intervals and paired tests need no
second look at the text (the design is sacrebleu's).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.bootstrap import Array, percentile_interval, resampled_sums

LARGEST = 1e150  # its square, which a variance needs, is still a number
_COLUMNS = {"sources": "the texts that were summarised", "choices": "the log-likelihood of each label"}


class Measure(Protocol):
    """What turns sums into a number. `signature` names every choice that changes the value."""

    name: str
    lang: str
    signature: str

    def aggregate(self, sums: Array) -> Array:
        """The value, 0..100 where nothing else is said, `[...]` of statistics summed over rows, `[..., k]`."""


class Metric(Measure, Protocol):
    """A measure of texts in one language, against references.

    A metric that reads more of a row than that has `needs`, the name of a column (`sources`: the text that was
    summarised; `choices`: each label's log-likelihood), and `statistics` takes that column third. A metric that falls
    as outputs get better has `higher_is_better = False`; one that only describes them, `None`.
    """

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """Sufficient statistics `[n, k]` of n rows; `references[i]` are the acceptable answers of row i."""


class NoRows(MetricError):
    """A metric of a part of the rows, where the part is empty."""


class TooLarge(MetricError):
    """A value that is no usable number: perplexity of an absurd loss."""


@dataclass(frozen=True)
class Score:
    """A number with everything needed to read it: what was measured, on how many rows, how surely."""

    metric: str
    lang: str
    value: float
    """0..100; `length_ratio` and `ter` may pass 100, `copy_density`, `perplexity` and `bits_per_byte` are no percentages"""
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
    sources: Sequence[str] | None = None,
    choices: Sequence[Mapping[str, float]] | None = None,
    n_resamples: int = 1000,
    seed: int = 12345,
) -> Score:
    """Score `predictions` with a 95% bootstrap interval; `sources` and `choices` for the metrics that need them.

    Raises:
        MetricError: the rows are malformed or the metric does not fit them.
    """
    stats = statistics(metric, predictions, references, sources=sources, choices=choices)
    part = score_statistics(metric, stats, n_resamples=n_resamples, seed=seed)
    return replace(part, signature=f"nrefs:{_reference_count(references)}|{part.signature}")


def statistics(
    metric: Metric, predictions: Sequence[str], references: Sequence[Sequence[str]], **columns: Sequence[Any] | None
) -> Array:
    """`metric.statistics` with the column that the metric needs, out of `columns`.

    Raises:
        MetricError: also when that column is missing.
    """
    name = getattr(metric, "needs", None)
    if name is None:
        return metric.statistics(predictions, references)
    if columns.get(name) is None:
        raise MetricError(f"{metric.name} needs {_COLUMNS[name]}, one a row: give `{name}`")
    needy: Any = metric
    return needy.statistics(predictions, references, columns[name])


def score_statistics(metric: Measure, stats: Array, *, n_resamples: int = 1000, seed: int = 12345) -> Score:
    """The score of rows whose statistics `[n, k]` are known.

    Resamples without a value (a part of the rows of which none was drawn) are left out of the interval.

    Raises:
        NoRows: as `value_of`. TooLarge: value or interval pass LARGEST.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # told in words below
        value = value_of(metric, stats)
        interval = percentile_interval(metric.aggregate(resampled_sums(stats, n_resamples, seed)))
    if not max(map(abs, (value, *interval))) <= LARGEST:
        raise TooLarge(
            f"{metric.name}: the value of these {len(stats)} rows, or its interval, is over {LARGEST:g} and says nothing any "
            "more; look at what the rows hold, or measure `loss` or `bits_per_byte`"
        )
    return Score(
        metric=metric.name,
        lang=metric.lang,
        value=value,
        interval=interval,
        # A mean tells how many rows it is over, which may be a part of them.
        n=int(stats[:, 1].sum()) if metric.aggregate is mean_aggregate else len(stats),
        signature=f"bs:{n_resamples}|seed:{seed}|{metric.signature}",
    )


def value_of(metric: Measure, stats: Array) -> float:
    """The value of rows whose statistics `[n, k]` are known.

    Raises:
        NoRows: there is nothing that the metric could be computed from.
    """
    value = float(metric.aggregate(stats.sum(axis=0)))
    if math.isnan(value):
        raise NoRows(f"{metric.name}: none of the {len(stats)} rows has what this metric is computed from")
    return value


def mean_statistics(values: Sequence[float]) -> Array:
    """Statistics `[n, 2]`, value (0..1) and 1, of a metric that is the plain mean over rows."""
    return np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])


def mean_aggregate(sums: Array) -> Array:
    """The mean, 0..100, of summed `mean_statistics`; NaN over no rows."""
    return 100.0 * divide(sums[..., 0], sums[..., 1], empty=np.nan)


def divide(top: Array, bottom: Array, empty: float = 0.0) -> Array:
    """top / bottom, and `empty` where bottom is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(bottom), empty), where=np.asarray(bottom) != 0)


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
