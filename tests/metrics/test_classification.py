"""Accuracy and F1 equal scikit-learn's over a fixed label set."""

from __future__ import annotations

import random

import pytest
from sklearn.metrics import accuracy_score, f1_score

from llama_tasks import metrics
from llama_tasks.errors import MetricError

LABELS = ("sports", "politics", "体育", "absent")


def value(name, predictions, truth, labels=LABELS):
    metric = metrics.create(name, "en", labels)
    return metric.aggregate(metric.statistics(predictions, [[label] for label in truth]).sum(0))


@pytest.mark.parametrize("seed", range(5))
def test_equals_sklearn(seed):
    rng = random.Random(seed)
    truth = rng.choices(LABELS[:3], k=40)
    predictions = [rng.choice([label, *LABELS[:3], "", "SPORTS"]) for label in truth]
    assert value("accuracy", predictions, truth) == pytest.approx(100 * accuracy_score(truth, predictions))
    for average in ("macro", "micro"):
        expected = f1_score(truth, predictions, labels=list(LABELS), average=average, zero_division=0)
        assert value(f"{average}_f1", predictions, truth) == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("predictions", "truth", "accuracy", "macro", "micro"),
    [
        (["sports", "politics"], ["sports", "politics"], 100, 50, 100),  # two of four labels are absent and count 0
        (["", ""], ["sports", "politics"], 0, 0, 0),
        (["sports", "?"], ["sports", "sports"], 50, 100 * (2 / 3) / 4, 200 / 3),  # "?" is no label's false positive
        (["体育"], ["体育"], 100, 25, 100),
    ],
)
def test_golden(predictions, truth, accuracy, macro, micro):
    assert value("accuracy", predictions, truth) == pytest.approx(accuracy)
    assert value("macro_f1", predictions, truth) == pytest.approx(macro)
    assert value("micro_f1", predictions, truth) == pytest.approx(micro)


@pytest.mark.parametrize(
    ("labels", "references", "message"),
    [
        (None, [["a"]], "fixed in advance"),
        ([], [["a"]], "fixed in advance"),
        ("ab", [["a"]], "fixed in advance"),
        (["a", "a"], [["a"]], "twice"),
        (["a", "b"], [["c"]], r"true label 'c' of row 0 is not in the label set \['a', 'b'\]"),
        (["a", "b"], [["a", "b"]], "2 true labels"),
        (["a", "b"], [[]], "no reference"),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "micro_f1"])
def test_refusals(name, labels, references, message):
    with pytest.raises(MetricError, match=message):
        metrics.create(name, "en", labels).statistics(["a"], references)


def test_signature():
    assert metrics.create("macro_f1", "en", LABELS).signature == "labels:4|unparsable:wrong|avg:macro|zero:0"
