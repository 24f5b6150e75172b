"""Accuracy, precision, recall, F1 and Matthews' correlation over a label set that is fixed before anything is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import check_rows, divide, mean_aggregate, mean_statistics
from llama_tasks.metrics.bootstrap import Array
from llama_tasks.metrics.text import base_language


class Classification:
    """A measure of single labels, compared as they are written; every value is scikit-learn's with `labels=` the set.

    `accuracy`; `balanced_accuracy`, the mean recall of the labels that occur; `{macro,micro,weighted}_{precision,recall,
    f1}` with zero_division=0, so a label that occurs neither in truth nor in prediction counts 0 in a macro average;
    `mcc`, Matthews' correlation in Gorodkin's form (2004) for many labels, -100..100.

    A prediction outside the set is wrong: it is nobody's false positive and its true label's miss; for `mcc` all such
    predictions are one more class.
    """

    def __init__(self, name: str, lang: str, labels: Sequence[str] | None) -> None:
        base_language(lang)
        self.name = name
        self.lang = lang
        self.labels = _check_labels(name, labels)
        self._average, _, self._part = name.rpartition("_")
        self._accuracy = name == "accuracy"
        self.signature = f"labels:{len(self.labels)}|unparsable:wrong"
        if self._average in _AVERAGES:
            self.signature += f"|avg:{self._average}|zero:0"

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """Accuracy: `[n, 2]`, right and 1. Others: `[n, 3 L]`, one-hot right | predicted | true over L labels.

        Raises:
            MetricError: also when a row has not exactly one true label, or one outside the set.
        """
        check_rows(self.name, predictions, references)
        truth = _truth(self.name, references, self.labels)
        if self._accuracy:
            return mean_statistics([float(a == b) for a, b in zip(predictions, truth, strict=True)])
        predicted, true = self._one_hot(predictions), self._one_hot(truth)
        return np.concatenate([predicted * true, predicted, true], axis=1)

    def aggregate(self, sums: Array) -> Array:
        """The value of summed statistics."""
        if self._accuracy:
            return mean_aggregate(sums)
        right, predicted, true = np.split(sums, 3, axis=-1)
        if self._part == "mcc":
            return 100.0 * _mcc(right, predicted, true)
        if self._average == "balanced":
            return 100.0 * divide(divide(right, true).sum(axis=-1), (true > 0).sum(axis=-1), empty=np.nan)
        if self._average == "micro":
            right, predicted, true = (part.sum(axis=-1, keepdims=True) for part in (right, predicted, true))
        values = _PARTS[self._part](right, predicted, true)
        if self._average == "weighted":
            return 100.0 * divide((values * true).sum(axis=-1), true.sum(axis=-1), empty=np.nan)
        return np.asarray(100.0 * values.mean(axis=-1))

    def _one_hot(self, values: Sequence[str]) -> Array:
        places = {label: place for place, label in enumerate(self.labels)}
        return np.eye(len(places) + 1, len(places))[[places.get(value, len(places)) for value in values]]


_AVERAGES = ("macro", "micro", "weighted")
_PARTS = {
    "precision": lambda right, predicted, true: divide(right, predicted),
    "recall": lambda right, predicted, true: divide(right, true),
    "f1": lambda right, predicted, true: divide(2 * right, predicted + true),
}


def confusion(
    predictions: Sequence[str], references: Sequence[Sequence[str]], labels: Sequence[str]
) -> list[list[int]]:
    """Rows of each true label `[L]` by prediction `[L + 1]`; the last column holds the predictions outside the set.

    Raises:
        MetricError: as `Classification.statistics`.
    """
    from sklearn.metrics import confusion_matrix

    truth, predicted = _codes(predictions, references, labels)
    matrix: list[list[int]] = confusion_matrix(truth, predicted, labels=range(len(labels) + 1))[:-1].tolist()
    return matrix


def label_table(
    predictions: Sequence[str], references: Sequence[Sequence[str]], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Precision, recall and F1 (0..100) of each label, its rows (`support`), and how often it was predicted.

    Raises:
        MetricError: as `Classification.statistics`.
    """
    from sklearn.metrics import precision_recall_fscore_support

    truth, predicted = _codes(predictions, references, labels)
    columns = precision_recall_fscore_support(truth, predicted, labels=range(len(labels)), zero_division=0)
    return [
        {"label": label, "precision": 100.0 * float(precision), "recall": 100.0 * float(recall), "f1": 100.0 * float(f1),
         "support": int(support), "predicted": predicted.count(place)}
        for place, (label, precision, recall, f1, support) in enumerate(zip(labels, *columns, strict=True))
    ]  # fmt: skip


def _codes(
    predictions: Sequence[str], references: Sequence[Sequence[str]], labels: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Truth and prediction as places in the label set; a prediction outside it is L."""
    check_rows("confusion", predictions, references)
    places = {label: place for place, label in enumerate(_check_labels("confusion", labels))}
    truth = _truth("confusion", references, places)
    return [places[label] for label in truth], [places.get(label, len(places)) for label in predictions]


def _mcc(right: Array, predicted: Array, true: Array) -> Array:
    rows = true.sum(axis=-1)
    outside = rows - predicted.sum(axis=-1)
    top = right.sum(axis=-1) * rows - (predicted * true).sum(axis=-1)
    spread = rows**2 - (predicted**2).sum(axis=-1) - outside**2
    return divide(top, np.sqrt(spread * (rows**2 - (true**2).sum(axis=-1))))


def _truth(name: str, references: Sequence[Sequence[str]], labels: Any) -> list[str]:
    for index, row in enumerate(references):
        if len(row) != 1:
            raise MetricError(f"{name}: row {index} has {len(row)} true labels; each row needs exactly one")
        if row[0] not in labels:
            raise MetricError(
                f"{name}: the true label {row[0]!r} of row {index} is not in the label set "
                f"{list(labels)}; add it to `labels:` or correct the row"
            )
    return [row[0] for row in references]


def _check_labels(name: str, labels: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(labels, str) or not labels:
        raise MetricError(f"{name} needs its label set, fixed in advance: give `labels:` as a list of texts")
    if len(set(labels)) < len(labels):
        raise MetricError(f"{name}: `labels:` names a label twice: {list(labels)}")
    return tuple(labels)
