"""Classification into a fixed set of labels."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from llama_tasks.errors import DataError
from llama_tasks.sources import Row
from llama_tasks.tasks.base import Example, Task, lang_of, text_of


class Classify(Task):
    """Rows {text, label, lang?}; labels are text."""

    name = "classify"
    columns = ("text", "label")
    main_field = "text"
    target_column = "label"
    templates = {
        "default": "Classify the text.\n\n{text}\n\nLabel:",
        "zh": "给下面的文字分类。\n\n{text}\n\n类别：",
    }

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)

    def example(self, row: Row) -> Example:
        """Row -> Example. Raises DataError for a label outside the set, with the nearest one."""
        self.check_columns(row)
        label = text_of(row, "label")
        if label not in self.labels:
            near = difflib.get_close_matches(label, self.labels, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            shown = ", ".join(self.labels[:20]) + (", …" if len(self.labels) > 20 else "")
            raise DataError(f"{row.where}: the label {label!r} is not in the label set ({shown}).{hint}")
        fields = {"text": text_of(row, "text"), "labels": ", ".join(self.labels)}
        return Example(row.id, fields, label, (label,), lang_of(row, self.main_field), self.labels)


def labels_of(rows: Sequence[Row], column: str = "label") -> list[str]:
    """The labels that occur in the rows, sorted. Raises DataError for fewer than two."""
    labels = sorted({text_of(row, column) for row in rows if column in row.values})
    if len(labels) < 2 and rows and column in rows[0].values:
        raise DataError(
            f"The training rows hold {len(labels)} label ({', '.join(labels)}); a classification needs two or more."
        )
    return labels
