"""How many outputs were empty, cut off or not a label: the numbers that stand beside every score."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

FAILURES = ("empty", "truncated", "unparsable", "shortened")  # known of every task


def count(rows: Iterable[Mapping[str, Any]], labels: Sequence[str] | None = None) -> dict[str, int]:
    """Count prediction rows (objects of predictions.jsonl); all of them are scored, none is left out.

    `empty`: nothing but white space (for question answering a legal answer, counted all the same); `truncated`: stopped
    by the limit of tokens, so never by its own end; `unparsable`: outside `labels`, 0 where there are none; `shortened`:
    its prompt was cut to fit; `answer_cut`, where there are any: with it the answer went out of the text.
    After them, in the order of the alphabet, the failures that the rows' task names (`copied`, `wrong_script`, ...).
    """
    counts = dict.fromkeys(("rows", *FAILURES), 0)
    named: dict[str, int] = {}
    answer_cut = 0
    known = None if labels is None else frozenset(labels)
    for row in rows:
        counts["rows"] += 1
        answer_cut += row.get("answer_cut", False)
        for name in failures(row, known):
            kind = counts if name in FAILURES else named
            kind[name] = kind.get(name, 0) + 1
    return counts | ({"answer_cut": answer_cut} if answer_cut else {}) | dict(sorted(named.items()))


def failures(row: Mapping[str, Any], labels: Collection[str] | None = None) -> list[str]:
    """The names under which `count` counts this row; none of a row that is in order."""
    found = [
        not row["prediction"].strip(),
        row.get("finish") == "length",
        labels is not None and row["prediction"] not in labels,
        row.get("shortened", False),
    ]
    names = [name for name, is_so in zip(FAILURES, found, strict=True) if is_so]
    return names + ([row["failure"]] if "failure" in row else [])
