"""Metrics of a task of the user's own: a function of one row, or a small class; with intervals and paired tests as all.

A function gets a row's prediction and its references, and gives

    a number 0..1                 the value is 100 x the mean over rows        (exact match, reciprocal rank, hit@3)
    (numerator, denominator)      100 x sum of the first / sum of the second   (micro F1: 2 x right, predicted + true)

A class is made with the language code and has `statistics(predictions, references)` and `aggregate(sums)`, as
`llama_tasks.metrics.Metric` describes them.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llama_tasks.errors import LlamaTasksError, MetricError
from llama_tasks.metrics.base import Metric, check_rows
from llama_tasks.metrics.bootstrap import Array

RowFunction = Callable[[str, Sequence[str]], float | tuple[float, float]]


class RowMetric:
    """A metric that a function of one row defines. Statistics `[n, 2]`: numerator and denominator."""

    def __init__(self, name: str, lang: str, function: RowFunction) -> None:
        self.name = name
        self.lang = lang
        self.function = function
        self.signature = f"own:{function.__name__}|sha256:{_source_sha256(function)}"

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """See `Metric.statistics`. Raises MetricError, with file and line, where the function fails or gives something else."""
        check_rows(self.name, predictions, references, unanswerable=True)
        return np.array([self._row(p, r) for p, r in zip(predictions, references, strict=True)], dtype=np.float64)

    def aggregate(self, sums: Array) -> Array:
        """100 x numerator / denominator; 0 where there is nothing to divide by."""
        bottom = sums[..., 1]
        return np.asarray(100.0 * np.where(bottom > 0, sums[..., 0] / np.where(bottom > 0, bottom, 1.0), 0.0))

    def _row(self, prediction: str, references: Sequence[str]) -> tuple[float, float]:
        try:
            value = self.function(prediction, references)
        except LlamaTasksError:
            raise
        except Exception as error:
            raise MetricError(
                f"{_where(self.function, error)}: the metric {self.name!r} failed on the prediction {prediction[:60]!r}: "
                f"{type(error).__name__}: {error}."
            ) from None
        pair = value if isinstance(value, tuple) and len(value) == 2 else (value, 1.0)
        if not all(_is_number(part) for part in pair):
            raise MetricError(
                f"{_where(self.function)}: the metric {self.name!r} must give a number or (numerator, denominator), not "
                f"{value!r:.60}."
            )
        if not isinstance(value, tuple) and not 0 <= pair[0] <= 1:
            raise MetricError(
                f"{_where(self.function)}: the metric {self.name!r} must give 0 to 1 a row, not {value!r}."
            )
        return float(pair[0]), float(pair[1])


def own_metric(name: str, lang: str, given: Any) -> Metric:
    """The metric that a function or a class defines.

    Raises:
        MetricError: a class that cannot be made with a language code, or lacks what a metric has.
    """
    if not inspect.isclass(given):
        return RowMetric(name, lang, given)
    kind: Callable[[str], Any] = given
    try:
        made = kind(lang)
    except TypeError as error:
        raise MetricError(
            f"the metric {name!r}: {given.__name__} must be made with a language code: {error}."
        ) from None
    for part in ("statistics", "aggregate"):
        if not callable(getattr(made, part, None)):
            raise MetricError(f"the metric {name!r}: {given.__name__} lacks `{part}`.")
    made.name, made.lang = name, lang
    if not hasattr(made, "signature"):
        made.signature = f"own:{given.__name__}|sha256:{_source_sha256(given)}"
    metric: Metric = made
    return metric


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _source_sha256(function: Any) -> str:
    """The first digits of the hash of the source, which names every choice made in it; `unknown` where there is none."""
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        return "unknown"


def _where(function: Any, error: BaseException | None = None) -> str:
    """File and line of the function, or of the place in its file where it failed."""
    code = function.__code__
    line = code.co_firstlineno
    step = error.__traceback__ if error else None
    while step is not None:
        line = step.tb_lineno if step.tb_frame.f_code.co_filename == code.co_filename else line
        step = step.tb_next
    return f"{code.co_filename}:{line}"
