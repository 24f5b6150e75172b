"""What the fields of a row must hold to each other and to the recipe: answers to their passage, labels to their set."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llama_tasks.sources.rows import BadRows, Row


def standing_in_context(rows: Iterable[Row], bad: BadRows) -> Iterator[Row]:
    """The rows whose first answer (the one that is learned) stands in the context; the others go to `bad`.

    Case, width and white space do not count. Further answers, for scoring, may differ: annotators of CMRC 2018 left words out.
    """
    for row in rows:
        answer = _first(row.values.get("answers"))
        context = row.values.get("context")
        if answer and isinstance(context, str) and answer not in context and _bare(answer) not in _bare(context):
            bad.add(
                row.where,
                f"the field 'answers' holds {answer[:60]!r}, which does not stand in the context; where answers are free text, set "
                "data.free_answers=true",
            )
        else:
            yield row


def of_the_label_set(rows: Iterable[Row], labels: Sequence[str], bad: BadRows) -> Iterator[Row]:
    """The rows whose label is one of `data.labels`; the others go to `bad`, with the nearest label."""
    known = set(labels)
    for row in rows:
        label = str(row.values.get("label"))
        if label in known:
            yield row
        else:
            near = difflib.get_close_matches(label, labels, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            bad.add(row.where, f"the field 'label' holds {label[:60]!r}, which is not in the label set{hint}")


def _first(value: Any) -> str:
    texts = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), "")


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text)).casefold()
