"""How many outputs were empty, cut off or not a label: the numbers that stand beside every score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def count(rows: Iterable[Mapping[str, Any]], labels: Sequence[str] | None = None) -> dict[str, int]:
    """Count prediction rows (objects of predictions.jsonl); all of them are scored, none is left out.

    `empty`: nothing but white space (for question answering a legal answer, counted all the same); `truncated`: stopped
    by the limit of tokens, so never by its own end; `unparsable`: outside `labels`, 0 where there are none; `shortened`:
    its prompt was cut to fit; `answer_cut`, where there are any: with it the answer went out of the text.
    After them, in the order of the alphabet, the failures that the rows' task names (`copied`, `wrong_script`, ...).
    """
    failures: dict[str, int] = {}
    answer_cut = 0
    counts = {"rows": 0, "empty": 0, "truncated": 0, "unparsable": 0, "shortened": 0}
    known = None if labels is None else frozenset(labels)
    for row in rows:
        counts["rows"] += 1
        counts["empty"] += not row["prediction"].strip()
        counts["truncated"] += row.get("finish") == "length"
        counts["shortened"] += row.get("shortened", False)
        answer_cut += row.get("answer_cut", False)
        counts["unparsable"] += known is not None and row["prediction"] not in known
        if "failure" in row:
            failures[row["failure"]] = failures.get(row["failure"], 0) + 1
    return counts | ({"answer_cut": answer_cut} if answer_cut else {}) | dict(sorted(failures.items()))
