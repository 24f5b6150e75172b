"""Rows of predictions.jsonl -> scores by metric and language, and what is significant between two systems. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from llama_tasks import metrics, significance
from llama_tasks.errors import MetricError
from llama_tasks.metrics import Metric
from llama_tasks.metrics.names import LABELS, is_language_free
from llama_tasks.recipe import Suite
from llama_tasks.tasks import Task

Rows = Sequence[Mapping[str, Any]]
EVERY = "all"  # the "language" of a score over rows of all languages
# Corpus metrics say little of one row; these speak for them.
_ROW_METRIC = {"bleu": "chrf", **dict.fromkeys(LABELS, "accuracy")}


def score(rows: Rows, suite: Suite, task: Task, optional: Collection[str] = ()) -> list[dict[str, Any]]:
    """Every metric of the suite, by language, as Score dicts; `optional` as in `measures`."""
    scores = []
    for lang, metric, part in measures(rows, suite, task, optional):
        result = metrics.score_rows(metric, part, n_resamples=suite.n_resamples, seed=suite.seed)
        scores.append({**result.to_dict(), "lang": lang, "higher_is_better": _way(metric)})
    return scores


def compare(
    base: Rows, adapter: Rows, suite: Suite, task: Task, optional: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Paired significance of adapter against base, for every metric and language; `optional` as in `measures`."""
    pairs = []
    for (lang, metric, before), (_, _, after) in zip(
        measures(base, suite, task, optional), measures(adapter, suite, task, optional), strict=True
    ):
        stats = [metrics.row_statistics(metric, part) for part in (before, after)]
        n, seed = suite.n_resamples, suite.seed
        if metric.name not in task.metrics and metrics.right_or_wrong(metric.name):
            right = [list(part[:, 0] > 0) for part in stats]
            test = significance.mcnemar(right[0], right[1], n_resamples=n, seed=seed)
        else:
            test = significance.compare(metric, stats[0], stats[1], n_resamples=n, seed=seed)
        about = {"metric": metric.name, "lang": lang, "higher_is_better": _way(metric)}
        pairs.append({**about, **dataclasses.asdict(test)})
    return pairs


def _way(metric: Metric) -> bool | None:
    """Whether a greater value is a better one; None where neither way is."""
    better: bool | None = getattr(metric, "higher_is_better", True)
    return better


def leading_value(rows: Rows, suite: Suite, task: Task, name: str | None = None) -> float:
    """The value that decides between checkpoints: the metric `name` (the suite's first one), averaged over languages."""
    lead = dataclasses.replace(suite, metrics=[name or suite.metrics[0]])
    values = [
        metrics.value_of(metric, metrics.row_statistics(metric, part))
        for lang, metric, part in measures(rows, lead, task)
        if lang != EVERY
    ]
    return sum(values) / len(values)


def row_values(rows: Rows, suite: Suite, task: Task) -> tuple[str, dict[str, float]]:
    """The leading metric (or its row-level companion) and its value on each row by itself, to find rows that got worse."""
    name = _ROW_METRIC.get(suite.metrics[0].partition(":")[0], suite.metrics[0])
    lead = dataclasses.replace(suite, metrics=[name])
    values = {}
    for _, metric, part in measures(rows, lead, task):
        stats = metrics.row_statistics(metric, part)
        values.update({row["id"]: float(metric.aggregate(stats[i])) for i, row in enumerate(part)})
    return name, values


def measures(
    rows: Rows, suite: Suite, task: Task, optional: Collection[str] = ()
) -> Iterator[tuple[str, Metric, Rows]]:
    """(language, metric, its rows); metrics that read no text (accuracy ...) also over all languages together. The metrics
    `optional` are left out where the rows give them no value: a language has no row of the part that they are about."""
    by_lang: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_lang.setdefault(row["lang"], []).append(row)
    for name in suite.metrics:
        parts: list[tuple[str, Rows]] = sorted(by_lang.items())
        if len(by_lang) > 1 and (name in task.metrics or is_language_free(name)):
            parts.append((EVERY, rows))
        for lang, part in parts:
            code = min(by_lang) if lang == EVERY else lang
            metric = metrics.create(name, code, task.labels or None, task.metrics)
            if name not in optional or _has_value(metric, part):
                yield lang, metric, part


def _has_value(metric: Metric, rows: Rows) -> bool:
    try:
        metrics.value_of(metric, metrics.row_statistics(metric, rows))
    except MetricError:
        return False
    return True
