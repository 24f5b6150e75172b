"""From prediction rows (objects of predictions.jsonl) to what metrics read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import Metric, Score, score, statistics
from llama_tasks.metrics.bootstrap import Array

Rows = Sequence[Mapping[str, Any]]


def row_statistics(metric: Metric, rows: Rows) -> Array:
    """`metric.statistics` of prediction rows: `prediction`, `references`, and `source` or `choices` where it needs them.

    Raises:
        MetricError: a row lacks what the metric reads, or the metric does not fit the rows.
    """
    return statistics(
        metric, _column(metric, rows, "prediction"), _column(metric, rows, "references"), **_more(metric, rows)
    )


def score_rows(metric: Metric, rows: Rows, *, n_resamples: int = 1000, seed: int = 12345) -> Score:
    """`score` of prediction rows.

    Raises:
        MetricError: as `row_statistics`.
    """
    predictions, references = _column(metric, rows, "prediction"), _column(metric, rows, "references")
    return score(metric, predictions, references, **_more(metric, rows), n_resamples=n_resamples, seed=seed)


def _more(metric: Metric, rows: Rows) -> dict[str, Any]:
    match getattr(metric, "needs", None):
        case "choices":
            return {"choices": _column(metric, rows, "choices")}
        case "sources":
            return {"sources": [_source(metric, index, row) for index, row in enumerate(rows)]}
    return {}


def _source(metric: Metric, index: int, row: Mapping[str, Any]) -> str:
    """`source`, or all of `input`: what the model was given besides the prompt's own words."""
    if "source" not in row and "input" not in row:
        raise MetricError(f"{metric.name}: row {index} has neither `source` nor `input`, the text that was summarised")
    parts = {"source": row["source"]} if "source" in row else row["input"]
    for key, value in parts.items():
        if not isinstance(value, str):
            raise MetricError(f"{metric.name}: `{key}` of row {index} must be a text, not {value!r:.40}")
    return "\n".join(parts.values())


def _column(metric: Metric, rows: Rows, name: str) -> list[Any]:
    for index, row in enumerate(rows):
        if name not in row:
            raise MetricError(f"{metric.name}: row {index} has no `{name}`; it has {', '.join(row)}")
    return [row[name] for row in rows]
