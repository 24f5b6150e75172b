"""Every row of an evaluation inside the page, packed so that a browser opens what it shows and no more.

An index of numbers (language, values, failures) is what rows are sorted and filtered by; the texts lie in blocks of JSON,
each compressed by itself. All of it is base64: whatever the rows say, the page's markup cannot be touched by it.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_tasks.metrics import failures
from llama_tasks.report.content import System
from llama_tasks.report.text import clip, label, plain, shown_fields

BLOCK = 250  # rows unpacked together


@dataclass(frozen=True)
class Packed:
    """All rows for the page.

    Attributes:
        languages, failures: that occur, sorted.
        index: {systems, block, lang: [code of each row], values: [of each system: [row's value or null]], failures: [of each
            system: {name: [places]}]}.
        blocks: texts, in the order of the rows: [id, language, [[field, text], ...], [references], [answer of each system]].
    """

    rows: int
    languages: list[str]
    failures: list[str]
    index: str
    blocks: list[str]


def pack(systems: Sequence[System], labels: Sequence[str] | None = None) -> Packed | None:
    """The rows of systems that answered the same ones; None where there are none."""
    if not systems or not systems[0].predictions:
        return None
    first = systems[0].predictions
    others = [{str(row["id"]): row for row in system.predictions} for system in systems[1:]]
    joined = [[row, *(other[str(row["id"])] for other in others)] for row in first]
    known = frozenset(labels) if labels else None
    index: dict[str, Any] = {
        "systems": [system.name for system in systems],
        "block": BLOCK,
        "lang": [label(row.get("lang")) for row in first],
        "values": [[_rounded(system.row_values.get(row["id"])) for row in first] for system in systems],
        "failures": [_failures([rows[at] for rows in joined], known) for at in range(len(systems))],
    }
    blocks = [joined[start : start + BLOCK] for start in range(0, len(joined), BLOCK)]
    return Packed(
        len(first),
        sorted(set(index["lang"])),
        sorted({name for own in index["failures"] for name in own}),
        compressed(index),
        [compressed([_texts(rows) for rows in block]) for block in blocks],
    )


def _texts(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    row = rows[0]
    fields = [[label(key), clip(text)] for key, text in shown_fields(row.get("input")).items()]
    references = [clip(plain(text)) for text in row.get("references") or []]
    answers = [clip(plain(own["prediction"])) for own in rows]
    return [label(row["id"]), label(row.get("lang")), fields, references, answers]


def _failures(rows: Sequence[Mapping[str, Any]], known: frozenset[str] | None) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        for name in failures(row, known):
            found.setdefault(label(name), []).append(place)
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 1)


def compressed(value: Any) -> str:
    """A JSON value as gzip in base64, as the pages' scripts open it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode()
