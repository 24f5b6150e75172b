"""Two systems at a time: is the difference more than chance, and which rows won and lost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from llama_tasks.evaluation import scoring
from llama_tasks.recipe import Suite
from llama_tasks.report import System
from llama_tasks.significance import holm
from llama_tasks.tasks import Task

SHOWN = 10  # rows of each kind that a comparison lists


def pairs(systems: Sequence[System], suite: Suite, task: Task, optional: Collection[str]) -> Iterator[dict[str, Any]]:
    """Every pair of systems on every metric and language, p-values corrected over the pairs."""
    both = list(itertools.combinations(systems, 2))
    tests = [scoring.compare(a.predictions, b.predictions, suite, task, optional) for a, b in both]
    for measured in zip(*tests, strict=True):
        corrected = holm([test["p_value"] for test in measured])
        for (a, b), test, p in zip(both, measured, corrected, strict=True):
            method = test["method"] + (f"|holm:{len(both)}" if len(both) > 1 else "")
            yield {
                **test, "interval": list(test["interval"]), "a": a.name, "b": b.name, "p_value": p, "method": method,
                **_tally(_gains(a, b, test["lang"]).values()),
            }  # fmt: skip


def _gains(a: System, b: System, lang: str = scoring.EVERY) -> dict[str, float]:
    """By how much each row in `lang` rose from a to b; rows without a value of their own are left out."""
    asked = {row["id"] for row in a.predictions if lang in (row["lang"], scoring.EVERY)}
    gains = {row: b.row_values[row] - value for row, value in a.row_values.items() if row in asked}
    return {row: gain for row, gain in gains.items() if not math.isnan(gain)}


def _tally(gains: Collection[float]) -> dict[str, int]:
    return {
        "wins": sum(gain > 0 for gain in gains),
        "losses": sum(gain < 0 for gain in gains),
        "ties": sum(gain == 0 for gain in gains),
    }


def outcome(a: System, b: System) -> dict[str, Any]:
    """How many rows won, lost and tied from a to b, and those that changed most."""
    gains = _gains(a, b)
    order = sorted(gains, key=lambda row: gains[row])
    both = {x["id"]: (x, y) for x, y in zip(a.predictions, b.predictions, strict=True)}

    def shown(ids: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {key: both[row][0].get(key) for key in ("id", "lang", "input", "references")}
            | {"a": both[row][0]["prediction"], "b": both[row][1]["prediction"], "gain": gains[row]}
            for row in ids[:SHOWN]
        ]

    won, lost = [row for row in reversed(order) if gains[row] > 0], [row for row in order if gains[row] < 0]
    tied = [row for row in order if gains[row] == 0]
    return {
        "a": a.name,
        "b": b.name,
        **_tally(gains.values()),
        "won": shown(won),
        "lost": shown(lost),
        "tied": shown(tied)[:3],
    }
