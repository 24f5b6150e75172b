"""Our metrics in the form of Hugging Face's `evaluate`, from this file alone: no download, no cache on disk.

    metric = as_evaluate("rougeL", "zh")
    metric.compute(predictions=["今天天气很好"], references=[["今天天气不错"]])

`evaluate.load(llama_tasks.metrics.as_evaluate.__file__, "rougeL", lang="zh")` gives the same. Needs
`llama-tasks[evaluate]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from llama_tasks import metrics
from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import check_rows
from llama_tasks.metrics.language_model import NAMES as LANGUAGE_MODELS

_INPUTS = """predictions: one text a row.
references: one list of texts a row, each of them right.
sources: what was summarised, one text a row (novelty, copy_rate, copy_density).
choices: each label's log-likelihood, one object {label: [...], logprob: [...]} a row (calibration_error).
nll, tokens, bytes, and nothing else: -log P in nats and sizes, one a text (perplexity, bits_per_byte, loss)."""


_NUMBERS = ("nll", "tokens", "bytes")


class TaskMetric(evaluate.Metric):
    """A metric of `llama_tasks.metrics`, `config_name`, for texts in `lang`.

    `compute` gives {name: value, interval, n, signature}.

    Raises:
        MetricError: as `metrics.create`, in `compute` as `metrics.score`, and in `add` and `add_batch` too for rows of
            another form or with half a surrogate pair, which Arrow cannot hold.
    """

    def __init__(
        self,
        config_name: str | None = None,
        lang: str = "en",
        labels: Sequence[str] | None = None,
        n_resamples: int = 1000,
        seed: int = 12345,
        **options: Any,
    ) -> None:
        name = config_name or "chrf"
        models = name in LANGUAGE_MODELS
        self._metric: Any = metrics.LanguageModel(name, lang) if models else metrics.create(name, lang, labels)
        self._drawn: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed}
        super().__init__(config_name=config_name, **({"keep_in_memory": True} | options))

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        number = datasets.Value("float64")
        columns: dict[str, Any] = {"predictions": text, "references": datasets.Sequence(text)}
        match getattr(self._metric, "needs", None):
            case "sources":
                columns["sources"] = text
            case "choices":
                columns["choices"] = datasets.Sequence({"label": text, "logprob": number})
        if self._metric.name in LANGUAGE_MODELS:
            columns = dict.fromkeys(_NUMBERS, number)
        return evaluate.MetricInfo(
            description=f"{self._metric.name} for `{self._metric.lang}`: {self._metric.signature}",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(columns),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> None:
        """As evaluate's, which `compute` calls too. Arrow would make texts of numbers and lists of texts, so look first."""
        if self._metric.name not in LANGUAGE_MODELS:
            columns |= {"predictions": predictions, "references": references}
        columns = {key: _plain(column) for key, column in columns.items()}
        texts = columns.get("predictions", []), columns.get("references", [])
        if texts != ([], []):
            check_rows(self._metric.name, *texts, unanswerable=True)
        for key, column in columns.items():
            _check_values(f"{self._metric.name}: {key}", key, column)
        super().add_batch(**columns)

    def add(self, *, prediction: Any = None, reference: Any = None, **columns: Any) -> None:
        """As evaluate's: one row. `evaluate.combine` calls its parts `predictions` and `references`, as a batch's are."""
        row = {"predictions": prediction, "references": reference, **columns}
        self.add_batch(**{key: [value] for key, value in row.items()})

    def _compute(self, **columns: Any) -> dict[str, Any]:
        if "choices" in columns:
            columns["choices"] = [dict(zip(row["label"], row["logprob"], strict=True)) for row in columns["choices"]]
        if self._metric.name in LANGUAGE_MODELS:
            stats = self._metric.statistics(columns["nll"], columns["tokens"], columns["bytes"])
            score = metrics.score_statistics(self._metric, stats, **self._drawn).to_dict()
        else:
            score = metrics.score(self._metric, **columns, **self._drawn).to_dict()
        return {score["metric"]: score["value"], **{key: score[key] for key in ("interval", "n", "signature")}}


def _plain(column: Any) -> Any:
    """A column of lists, whether it came as lists, as arrays or as lists of arrays."""
    column = column.tolist() if hasattr(column, "tolist") else column
    return [_plain(value) for value in column] if isinstance(column, list | tuple) else column


def _check_values(what: str, key: str, column: Any) -> None:
    for index, value in enumerate(column or ()):
        if key == "sources" and not isinstance(value, str):
            raise MetricError(f"{what}: row {index} must be a text, not {value!r:.40}")
        if key in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise MetricError(f"{what}: row {index} must be a number, not {value!r:.40}")
        for text in [value] if isinstance(value, str) else value if key == "references" else ():
            if any("\ud800" <= char <= "\udfff" for char in text):
                raise MetricError(
                    f"{what}: row {index} holds half a surrogate pair, which is no character: {text!r:.60}"
                )


def as_evaluate(name: str, lang: str, labels: Sequence[str] | None = None, **options: Any) -> TaskMetric:
    """The metric `name` as an `evaluate.Metric`; `options` are `n_resamples`, `seed` and those of `evaluate.Metric`."""
    return TaskMetric(name, lang=lang, labels=labels, **options)
