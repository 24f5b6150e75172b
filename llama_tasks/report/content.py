"""What a report says: two systems on the same rows, joined into the one dictionary that every rendering reads."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import Any

from llama_tasks.errors import RunError

FORMAT = 1
TRAINED = (
    "trained model"  # name of the first system where all weights were trained: it stands alone, in the base's place
)
SAMPLE_SEED = 12345
MAX_REGRESSIONS = 5


@dataclass(frozen=True)
class System:
    """One system on the test rows: the base model alone, or the base with its adapter.

    `scores` are `Score.to_dict()`, with `higher_is_better` where it is not so; `predictions` the rows of predictions.jsonl.
    `row_values` (id -> value, higher is better, measured by `row_metric`) is optional: with it on both systems the report
    shows the rows that got worse.
    """

    name: str
    scores: Sequence[Mapping[str, Any]]
    counts: Mapping[str, int]
    predictions: Sequence[Mapping[str, Any]]
    row_values: Mapping[str, float] = field(default_factory=dict)
    row_metric: str = ""


def build(
    *,
    task: str,
    command: str,
    base: System,
    adapter: System | None,
    comparisons: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any] | None,
    provenance: Mapping[str, Any],
    insight: Mapping[str, Any] | None = None,
    examples: int = 30,
) -> dict[str, Any]:
    """The report as plain JSON values (no NaN, no tuples, every text encodable), so that it equals itself reloaded.

    `comparisons` are `{metric, lang, difference, interval, p_value, method, detectable?, higher_is_better?}`, adapter minus
    base; `insight` has the parts `labels`, `slices`, `leaks` and `general`, each or none (docs/report.md).
    `examples` rows are drawn with a fixed seed, evenly over languages. Raises RunError where the two systems cannot be compared.
    """
    if adapter is not None:
        _check_same_rows(base, adapter)
    report = {
        "format": FORMAT,
        "title": task,
        "task": task,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "systems": {"base": base.name} | ({"adapter": adapter.name} if adapter else {}),
        "scores": _scores(base, adapter, comparisons),
        "counts": {"base": base.counts} | ({"adapter": adapter.counts} if adapter else {}),
        **{name: part for name, part in (insight or {}).items() if part},
        "training": training,
        "sample": {"seed": SAMPLE_SEED, "of": len(base.predictions), "row_metric": base.row_metric},
        "examples": _examples(base, adapter, sample_ids(base.predictions, examples)),
        "regressions": _regressions(base, adapter) if adapter else [],
        "provenance": provenance,
    }
    cleaned: dict[str, Any] = _json_values(report)
    return cleaned


def sample_ids(rows: Sequence[Mapping[str, Any]], size: int, seed: int = SAMPLE_SEED) -> list[str]:
    """A fair draw: shuffled within each language by `seed`, then one of each language in turn.

    Neither the order of the rows nor what the systems answered has any influence.
    """
    by_lang: dict[str, list[str]] = {}
    for row in rows:
        by_lang.setdefault(str(row.get("lang", "")), []).append(str(row["id"]))
    queues = []
    for lang in sorted(by_lang):
        ids = sorted(by_lang[lang])
        random.Random(f"{seed}:{lang}").shuffle(ids)
        queues.append(ids)
    longest = max((len(queue) for queue in queues), default=0)
    in_turn = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    return in_turn[:size]


def _check_same_rows(base: System, adapter: System) -> None:
    ids = [[str(row["id"]) for row in system.predictions] for system in (base, adapter)]
    for system, own in zip((base, adapter), ids, strict=True):
        if len(set(own)) != len(own):
            raise RunError(f"The predictions of {system.name!r} hold a row id twice; evaluate it again from scratch.")
    odd = sorted(set(ids[0]) ^ set(ids[1]))
    if odd:
        raise RunError(
            f"{base.name!r} and {adapter.name!r} answered different rows ({len(odd)} are in one only, such as "
            f"{odd[0]!r}), so they cannot be compared; evaluate both on the same rows."
        )


def _scores(base: System, adapter: System | None, comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    tuned = {(score["metric"], score["lang"]): score for score in adapter.scores} if adapter else {}
    tests = {(test["metric"], test["lang"]): test for test in comparisons}
    rows = []
    for score in base.scores:
        key = (score["metric"], score["lang"])
        row = {name: score[name] for name in ("metric", "lang", "n", "signature")}
        row["higher_is_better"] = tests.get(key, score).get("higher_is_better", True)
        row["base"] = {name: score[name] for name in ("value", "interval")}
        if adapter is not None:
            _check_same_measure(score, tuned.get(key), adapter.name)
            row["adapter"] = {name: tuned[key][name] for name in ("value", "interval")}
            test = tests.get(key, {})
            row["difference"] = test.get("difference", tuned[key]["value"] - score["value"])
            row["difference_interval"] = test.get("interval")
            row["p_value"] = test.get("p_value")
            row["method"] = test.get("method", "")
            row["detectable"] = test.get("detectable")
        rows.append(row)
    return rows


def _check_same_measure(score: Mapping[str, Any], other: Mapping[str, Any] | None, name: str) -> None:
    what = f"{score['metric']} ({score['lang']})"
    if other is None:
        raise RunError(f"{name!r} has no score for {what}; evaluate both systems with the same suite.")
    for key in ("signature", "n"):
        if score[key] != other[key]:
            raise RunError(
                f"The two scores of {what} have different {key} ({score[key]} and {other[key]}), so they cannot be "
                "compared; evaluate both systems with the same suite and version."
            )


def _examples(base: System, adapter: System | None, ids: Sequence[str]) -> list[dict[str, Any]]:
    rows = {str(row["id"]): row for row in base.predictions}
    tuned = {str(row["id"]): row for row in adapter.predictions} if adapter else {}
    examples = []
    for row_id in ids:
        row = rows[row_id]
        example = {name: row.get(name) for name in ("id", "lang", "input", "references")}
        example["base"] = row["prediction"]
        if adapter is not None:
            example["adapter"] = tuned[row_id]["prediction"]
        examples.append(example)
    return examples


def _regressions(base: System, adapter: System) -> list[dict[str, Any]]:
    """The rows whose own value fell most, worst first; ties by id."""
    falls = {
        str(row_id): value - adapter.row_values[row_id]
        for row_id, value in base.row_values.items()
        if row_id in adapter.row_values
    }
    known = {str(row["id"]) for row in base.predictions}
    worst = sorted((row_id for row_id in falls if falls[row_id] > 0 and row_id in known), key=lambda i: (-falls[i], i))
    worst = worst[:MAX_REGRESSIONS]
    return [
        example | {"base_value": base.row_values[row_id], "adapter_value": adapter.row_values[row_id]}
        for row_id, example in zip(worst, _examples(base, adapter, worst), strict=True)
    ]


def _json_values(value: Any) -> Any:
    """The value in JSON's own types: numpy numbers become Python's, NaN and infinity None, lone surrogates '?'."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_json_values(str(key)): _json_values(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_json_values(item) for item in value]
    return _json_values(str(value))
