"""Calibration error: by hand, and its picture equal to scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from llama_tasks import metrics
from llama_tasks.errors import MetricError


def rows(seed, n=200):
    """Predictions, references, log-likelihoods of two labels; the confidence of the predicted one."""
    rng = np.random.default_rng(seed)
    sure = 0.5 + rng.random(n) / 2
    choices = [{"yes": math.log(p) - 3, "no": math.log1p(-p) - 3} for p in sure]  # need not add up to 1
    truth = ["yes" if hit else "no" for hit in rng.random(n) < 0.6]
    return ["yes"] * n, [[label] for label in truth], choices, sure


@pytest.mark.parametrize("bins", [5, 10, 15, 20])
def test_bins_equal_sklearn(bins):
    predictions, references, choices, sure = rows(bins)
    metric = metrics.create(f"calibration_error:bins={bins}", "en")
    stats = metric.statistics(predictions, references, choices)
    found = metrics.reliability(stats)
    right = np.array([row == ["yes"] for row in references])
    accuracy, confidence = calibration_curve(right, sure, n_bins=bins)
    np.testing.assert_allclose([part["accuracy"] for part in found], accuracy, atol=1e-12)
    np.testing.assert_allclose([part["confidence"] for part in found], confidence, atol=1e-12)
    expected = sum(part["n"] * abs(part["accuracy"] - part["confidence"]) for part in found) / len(sure)
    assert metric.aggregate(stats.sum(0)) == pytest.approx(100 * expected, abs=1e-9)
    assert sum(part["n"] for part in found) == len(sure)


@pytest.mark.parametrize(
    ("choices", "references", "expected"),
    [
        ([{"a": 0.0, "b": 0.0}], [["a"]], 50),  # half sure, right
        ([{"a": 0.0, "b": -800.0}], [["a"]], 0),
        ([{"a": 0.0, "b": -800.0}], [["b"]], 100),
        ([{"a": -3.0, "b": -math.inf}], [["a"]], 0),  # impossible is a probability too
        ([{"a": -1000.0, "b": -1000.0}] * 2, [["a"], ["b"]], 0),  # half sure, right in half the cases
        ([{"a": math.log(3), "b": 0.0}] * 2, [["a"], ["b"]], 25),
    ],
)
def test_golden(choices, references, expected):
    metric = metrics.create("calibration_error", "en")
    score = metrics.score(metric, ["a"] * len(choices), references, choices=choices, n_resamples=5)
    assert score.value == pytest.approx(expected)
    assert score.signature.endswith("bins:15|width:equal|confidence:softmax")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (None, "calibration_error needs the log-likelihood of each label, one a row: give `choices`"),
        ([], "1 predictions but choices for 0 rows"),
        ([None], "row 0 has no log-likelihood of its prediction 'a'"),
        ([{"b": 0.0}], "row 0 has no log-likelihood of its prediction 'a'"),
        ([{"a": float("nan")}], "row 0 has log-likelihoods that are no distribution"),
        ([{"a": 0.0, "b": float("nan")}], "row 0 has log-likelihoods that are no distribution"),
        ([{"a": -math.inf, "b": -math.inf}], "row 0 has log-likelihoods that are no distribution"),
        ([{"a": math.inf, "b": 0.0}], "row 0 has log-likelihoods that are no distribution"),
    ],
)
def test_refusals(choices, message):
    with pytest.raises(MetricError, match=message):
        metrics.score(metrics.create("calibration_error", "en"), ["a"], [["a"]], choices=choices)
