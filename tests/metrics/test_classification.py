"""Accuracy and F1 equal scikit-learn's over a fixed label set."""

from __future__ import annotations

import random

import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
)

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
    for part, sklearns in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        for average in ("macro", "micro", "weighted"):
            expected = sklearns(truth, predictions, labels=list(LABELS), average=average, zero_division=0)
            assert value(f"{average}_{part}", predictions, truth) == pytest.approx(100 * expected, abs=1e-9)
    known = [label if label in LABELS else "none of them" for label in predictions]
    assert value("mcc", predictions, truth) == pytest.approx(100 * matthews_corrcoef(truth, known), abs=1e-9)
    in_truth = [label if label in truth else truth[0] for label in known]  # sklearn warns of others
    assert value("balanced_accuracy", in_truth, truth) == pytest.approx(100 * balanced_accuracy_score(truth, in_truth))


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
    ("predictions", "truth", "mcc", "balanced", "weighted_precision"),
    [
        (["sports", "politics"], ["sports", "politics"], 100, 100, 100),
        (["politics", "sports"], ["sports", "politics"], -100, 0, 0),
        (["sports", "sports"], ["sports", "politics"], 0, 50, 25),
        (["sports"], ["sports"], 0, 100, 100),  # one class on both sides: no correlation
        (["?", "?"], ["sports", "politics"], 0, 0, 0),
        (["sports", "?", "sports"], ["sports", "sports", "politics"], -25, 25, 100 * 2 / 3 / 2),
    ],
)
def test_golden_of_the_others(predictions, truth, mcc, balanced, weighted_precision):
    assert value("mcc", predictions, truth) == pytest.approx(mcc)
    assert value("balanced_accuracy", predictions, truth) == pytest.approx(balanced)
    assert value("weighted_precision", predictions, truth) == pytest.approx(weighted_precision)


def test_tables_show_every_output():
    predictions, truth = ["sports", "?", "politics", ""], [["sports"], ["sports"], ["sports"], ["politics"]]
    matrix = metrics.confusion(predictions, truth, LABELS)
    assert matrix == [[1, 1, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5, [0] * 5]
    assert [row[:4] for row in matrix] == confusion_matrix(
        [row[0] for row in truth], predictions, labels=LABELS
    ).tolist()
    assert metrics.label_table(predictions, truth, LABELS)[:2] == [
        {
            "label": "sports",
            "precision": 100.0,
            "recall": pytest.approx(100 / 3),
            "f1": 50.0,
            "support": 3,
            "predicted": 1,
        },
        {"label": "politics", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1, "predicted": 1},
    ]
    with pytest.raises(MetricError, match="is not in the label set"):
        metrics.confusion(["a"], [["a"]], LABELS)


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
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "weighted_recall", "mcc"])
def test_refusals(name, labels, references, message):
    with pytest.raises(MetricError, match=message):
        metrics.create(name, "en", labels).statistics(["a"], references)


def test_signature():
    assert metrics.create("macro_f1", "en", LABELS).signature == "labels:4|unparsable:wrong|avg:macro|zero:0"
