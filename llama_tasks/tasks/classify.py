"""Classification into a fixed set of labels, of one text or of a pair."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal

from llama_tasks.errors import DataError, RecipeError
from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task, lang_of, text_of


class Classify(Task):
    """Rows {text, label, text_pair?, lang?}; labels are text."""

    name = "classify"
    columns = ("text", "label")
    main_field = "text"
    target_column = "label"
    labelled = chooses = True
    options = ("label_descriptions",)
    templates = {
        "default": "Classify the text.\n\n{text}\n\nLabel:",
        "zh": "给下面的文字分类。\n\n{text}\n\n类别：",
        "default.pair": "Classify the pair of texts.\n\n{text}\n\n{text_pair}\n\nLabel:",
        "zh.pair": "给下面的两段文字分类。\n\n{text}\n\n{text_pair}\n\n类别：",
        "default.described": "Classify the text.\n\n{labels}\n\n{text}\n\nLabel:",
        "zh.described": "给下面的文字分类。\n\n{labels}\n\n{text}\n\n类别：",
        "default.described_pair": "Classify the pair of texts.\n\n{labels}\n\n{text}\n\n{text_pair}\n\nLabel:",
        "zh.described_pair": "给下面的两段文字分类。\n\n{labels}\n\n{text}\n\n{text_pair}\n\n类别：",
    }

    def example(self, row: Row) -> Example:
        """Row -> Example. Raises DataError for a label outside the set, with the nearest one."""
        self.check_columns(row)
        label = text_of(row, "label")
        if label != label.strip():
            raise DataError(
                f"{row.where}: the field 'label' holds {label[:60]!r}, with white space at an end, which no answer has; strip it."
            )
        if label not in self.labels:
            near = difflib.get_close_matches(label, self.labels, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            shown = ", ".join(self.labels[:20]) + (", …" if len(self.labels) > 20 else "")
            raise DataError(
                f"{row.where}: the label {label!r} is not in the label set ({shown}).{hint}"
                " If it is right, list all labels in data.labels."
            )
        fields = {"text": text_of(row, "text"), "labels": self._listed()}
        pair = "text_pair" in row.values
        if pair:
            fields["text_pair"] = text_of(row, "text_pair")
        variant = "_".join(["described"] * bool(self.config.label_descriptions) + ["pair"] * pair)
        return Example(row.id, fields, label, (label,), lang_of(row, self.main_field), self.labels, variant=variant,
                       weight=self.weights.get(label, 1.0))  # fmt: skip

    def _listed(self) -> str:
        """The labels as a prompt shows them: in one line, or with what each means a line."""
        meanings = self.config.label_descriptions
        strange = [label for label in meanings if label not in self.labels]
        if strange:
            raise RecipeError(
                f"prompt.label_descriptions names {strange[0]!r}, which is no label ({', '.join(self.labels[:20])})."
            )
        if not meanings:
            return ", ".join(self.labels)
        return "\n".join(f"{label}: {meanings[label]}" if label in meanings else label for label in self.labels)


def labels_in(rows: Sequence[Row], column: str = "label") -> list[str]:
    """The labels that occur in the rows, sorted; those that are no text are left out."""
    found = set()
    for row in rows:
        with suppress(DataError):
            found.add(text_of(row, column))
    return sorted(found)


def labels_of(rows: Sequence[Row], column: str = "label", split: str = "train") -> list[str]:
    """The label set that the rows of a split give. Raises DataError for fewer than two labels."""
    labels = labels_in(rows, column)
    if len(labels) < 2 and rows and column in rows[0].values:
        raise DataError(
            f"The {'training' if split == 'train' else split} rows hold {_number(labels)}; a classification needs two or more. "
            "If there are others, list all labels in data.labels."
        )
    return labels


def _number(labels: Sequence[str]) -> str:
    return f"one label only ({labels[0]})" if labels else "no label"


def class_weights(
    asked: Literal["balanced"] | Mapping[str, float] | None, labels: Sequence[str], rows: Sequence[Row], column: str
) -> dict[str, float]:
    """Weight of each label's examples in the loss; `{}` where none is asked for.

    `balanced` is scikit-learn's: rows / (labels x rows of the label), over the labels that occur.

    Raises:
        RecipeError: a weight for something that is no label, or one that is not above 0.
    """
    if asked is None:
        return {}
    if asked == "balanced":
        counts = Counter(text_of(row, column) for row in rows)
        return {label: sum(counts.values()) / (len(counts) * count) for label, count in counts.items()}
    for label, weight in asked.items():
        if label not in labels:
            raise RecipeError(f"train.class_weights names {label!r}, which is no label ({', '.join(labels[:20])}).")
        if weight <= 0:
            raise RecipeError(f"train.class_weights.{label} must be above 0, not {weight}.")
    return dict(asked)
