"""Does a model know how often it is right? Expected calibration error and the picture behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import check_rows, divide
from llama_tasks.metrics.bootstrap import Array
from llama_tasks.metrics.text import base_language


class CalibrationError:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017): |accuracy - confidence| in equally wide bins of
    confidence, weighted by their rows, 0..100.

    The confidence is the prediction's share of the probability of all choices (a softmax of their log-likelihoods).
    Statistics `[n, 3 bins]`: one-hot row | confidence | right over the bins.
    """

    needs = "choices"
    higher_is_better = False

    def __init__(self, name: str, lang: str, bins: str = "15") -> None:
        base_language(lang)
        self.name = name
        self.lang = lang
        self.bins = int(bins)
        self.signature = f"bins:{bins}|width:equal|confidence:softmax"

    def statistics(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], choices: Sequence[Mapping[str, float]]
    ) -> Array:
        """See `Metric.statistics`; `choices` maps each label to its log-likelihood (nats).

        Raises:
            MetricError: also when a prediction is not among its row's choices.
        """
        check_rows(self.name, predictions, references)
        if len(choices) != len(predictions):
            raise MetricError(f"{self.name}: {len(predictions)} predictions but choices for {len(choices)} rows")
        sure = np.array([self._confidence(i, *row) for i, row in enumerate(zip(predictions, choices, strict=True))])
        right = np.array([prediction in row for prediction, row in zip(predictions, references, strict=True)])
        rows = np.eye(self.bins)[_bins(sure, self.bins)]
        return np.concatenate([rows, rows * sure[:, None], rows * right[:, None]], axis=1)

    def aggregate(self, sums: Array) -> Array:
        """The error of summed statistics."""
        rows, sure, right = np.split(sums, 3, axis=-1)
        return 100.0 * divide(np.abs(right - sure).sum(axis=-1), rows.sum(axis=-1), empty=np.nan)

    def _confidence(self, index: int, prediction: str, choices: Mapping[str, float] | None) -> float:
        if not choices or prediction not in choices:
            raise MetricError(
                f"{self.name}: row {index} has no log-likelihood of its prediction {prediction[:40]!r}; it needs rows "
                "scored with `scoring: likelihood`"
            )
        values = list(choices.values())
        top = max(values)
        # Minus infinity is a choice that the model holds for impossible; only all of them together are no distribution.
        if not math.isfinite(top) or any(map(math.isnan, values)):
            raise MetricError(f"{self.name}: row {index} has log-likelihoods that are no distribution: {dict(choices)}")
        return math.exp(choices[prediction] - top) / sum(math.exp(value - top) for value in values)


def reliability(stats: Array) -> list[dict[str, Any]]:
    """The bins of a reliability diagram out of `CalibrationError.statistics`: bounds and means 0..1, empty bins left out."""
    rows, sure, right = np.split(stats.sum(axis=0), 3)
    return [
        {"low": i / len(rows), "high": (i + 1) / len(rows), "n": int(rows[i]), "confidence": float(sure[i] / rows[i]),
         "accuracy": float(right[i] / rows[i])}
        for i in range(len(rows)) if rows[i]
    ]  # fmt: skip


def _bins(confidence: Array, bins: int) -> Any:
    """The bin `[n]` of each confidence: (low, high], and 0 in the first (as scikit-learn's `calibration_curve`)."""
    return np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], confidence)
