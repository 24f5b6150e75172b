"""Extractive answers must stand in their passage."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
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


def _first(value: Any) -> str:
    texts = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), "")


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text)).casefold()
