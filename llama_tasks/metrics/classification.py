"""Accuracy, macro-F1 and micro-F1 over a label set that is fixed before anything is predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import Array, check_rows, mean_aggregate, mean_statistics
from llama_tasks.metrics.text import base_language


class Classification:
    """`accuracy`, `macro_f1` or `micro_f1` of single labels, compared as they are written.

    A prediction outside the set is wrong: it is nobody's false positive and its true label's miss. A class that occurs
    neither in truth nor in prediction counts 0 in macro-F1. So the F1s equal scikit-learn's
    `f1_score(truth, predicted, labels=labels, average="macro" | "micro", zero_division=0)`.
    """

    def __init__(self, name: str, lang: str, labels: Sequence[str] | None) -> None:
        base_language(lang)
        self.name = name
        self.lang = lang
        self.labels = _check_labels(name, labels)
        self.signature = f"labels:{len(self.labels)}|unparsable:wrong"
        if name != "accuracy":
            self.signature += f"|avg:{name.removesuffix('_f1')}|zero:0"

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """Accuracy: `[n, 2]`, right and 1. F1: `[n, 3 L]`, one-hot right | predicted | true over L labels.

        Raises:
            MetricError: also when a row has not exactly one true label, or one outside the set.
        """
        check_rows(self.name, predictions, references)
        truth = self._truth(references)
        if self.name == "accuracy":
            return mean_statistics([float(a == b) for a, b in zip(predictions, truth, strict=True)])
        predicted, true = self._one_hot(predictions), self._one_hot(truth)
        return np.concatenate([predicted * true, predicted, true], axis=1)

    def aggregate(self, sums: Array) -> Array:
        """The value of summed statistics; F1 of a class is 2 right / (predicted + true)."""
        if self.name == "accuracy":
            return mean_aggregate(sums)
        right, predicted, true = np.split(sums, 3, axis=-1)
        if self.name == "micro_f1":
            right, predicted, true = (part.sum(axis=-1, keepdims=True) for part in (right, predicted, true))
        f1 = 2 * right / np.maximum(predicted + true, 1)
        return np.asarray(100.0 * f1.mean(axis=-1))

    def _truth(self, references: Sequence[Sequence[str]]) -> list[str]:
        for index, row in enumerate(references):
            if len(row) != 1:
                raise MetricError(f"{self.name}: row {index} has {len(row)} true labels; each row needs exactly one")
            if row[0] not in self.labels:
                raise MetricError(
                    f"{self.name}: the true label {row[0]!r} of row {index} is not in the label set "
                    f"{list(self.labels)}; add it to `labels:` or correct the row"
                )
        return [row[0] for row in references]

    def _one_hot(self, values: Sequence[str]) -> Array:
        return np.array([[value == label for label in self.labels] for value in values], dtype=np.float64)


def _check_labels(name: str, labels: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(labels, str) or not labels:
        raise MetricError(f"{name} needs its label set, fixed in advance: give `labels:` as a list of texts")
    if len(set(labels)) < len(labels):
        raise MetricError(f"{name}: `labels:` names a label twice: {list(labels)}")
    return tuple(labels)
