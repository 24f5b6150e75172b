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
from llama_tasks.metrics.language_model import NAMES as LANGUAGE_MODELS

_INPUTS = """predictions: one text a row.
references: one list of texts a row, each of them right.
sources: what was summarised, one text a row (novelty, copy_rate, copy_density).
choices: each label's log-likelihood, one object {label: [...], logprob: [...]} a row (calibration_error).
nll, tokens, bytes, and nothing else: -log P in nats and sizes, one a text (perplexity, bits_per_byte, loss)."""


class TaskMetric(evaluate.Metric):
    """A metric of `llama_tasks.metrics`, `config_name`, for texts in `lang`.

    `compute` gives {name: value, interval, n, signature}.

    Raises:
        MetricError: as `metrics.create`, and in `compute` as `metrics.score`.
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
            columns = dict.fromkeys(("nll", "tokens", "bytes"), number)
        return evaluate.MetricInfo(
            description=f"{self._metric.name} for `{self._metric.lang}`: {self._metric.signature}",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(columns),
        )

    def _compute(self, **columns: Any) -> dict[str, Any]:
        if "choices" in columns:
            columns["choices"] = [dict(zip(row["label"], row["logprob"], strict=True)) for row in columns["choices"]]
        if self._metric.name in LANGUAGE_MODELS:
            stats = self._metric.statistics(columns["nll"], columns["tokens"], columns["bytes"])
            score = metrics.score_statistics(self._metric, stats, **self._drawn).to_dict()
        else:
            score = metrics.score(self._metric, **columns, **self._drawn).to_dict()
        return {score["metric"]: score["value"], **{key: score[key] for key in ("interval", "n", "signature")}}


def as_evaluate(name: str, lang: str, labels: Sequence[str] | None = None, **options: Any) -> TaskMetric:
    """The metric `name` as an `evaluate.Metric`; `options` are `n_resamples`, `seed` and those of `evaluate.Metric`."""
    return TaskMetric(name, lang=lang, labels=labels, **options)
