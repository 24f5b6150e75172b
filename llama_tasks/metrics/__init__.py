"""Numbers for texts, each with its signature, its sample size and its interval. Never imports torch.

metric = metrics.create("rougeL", "zh")
metrics.score(metric, ["今天天气很好"], [["今天天气不错"]])   # Score(value=..., interval=..., n=1, signature=...)

A name may carry options: `bleu:tok=intl`, `rougeL:stem=yes`, `f1:norm=squad2:rows=hasans` (`names.py` has them all).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_tasks.metrics.base import Metric, NoRows, Score, TooLarge, score, score_statistics, statistics, value_of
from llama_tasks.metrics.bleu import Bleu, Chrf
from llama_tasks.metrics.calibration import CalibrationError, reliability
from llama_tasks.metrics.classification import Classification, confusion, label_table
from llama_tasks.metrics.counts import count, failures
from llama_tasks.metrics.language_model import LanguageModel
from llama_tasks.metrics.names import ALL, ANSWERS, CALIBRATION, LABELS, ROUGE, expand, groups, parse
from llama_tasks.metrics.own import own_metric
from llama_tasks.metrics.qa import QuestionAnswering
from llama_tasks.metrics.rouge import Rouge
from llama_tasks.metrics.rows import row_statistics, score_rows
from llama_tasks.metrics.summary import Copying, LengthRatio, Novelty
from llama_tasks.metrics.ter import Ter

__all__ = [
    "LanguageModel", "Metric", "NoRows", "Score", "TooLarge", "compares_labels", "confusion", "count", "create", "expand",
    "failures", "groups", "higher_is_better", "label_table", "may_lead", "names", "parse", "reliability", "right_or_wrong",
    "row_statistics", "score", "score_rows", "score_statistics", "statistics", "value_of",
]  # fmt: skip

_KINDS: dict[str, Callable[..., Any]] = {
    "bleu": Bleu,
    **dict.fromkeys(("chrf", "chrf++"), Chrf),
    "ter": Ter,
    **dict.fromkeys(ROUGE, Rouge),
    "length_ratio": LengthRatio,
    "novelty": Novelty,
    **dict.fromkeys(("copy_rate", "copy_density"), Copying),
    **dict.fromkeys(ANSWERS, QuestionAnswering),
    **dict.fromkeys(LABELS, Classification),
    **dict.fromkeys(CALIBRATION, CalibrationError),
}


def names() -> tuple[str, ...]:
    """Every name that `create` knows, without options."""
    return ALL


def create(name: str, lang: str, labels: Sequence[str] | None = None, own: Mapping[str, Any] | None = None) -> Metric:
    """The metric `name` for texts in `lang`; `labels` is needed for classification and not read otherwise.

    own: metrics of a task of the user's own, by name; they go before those known here.

    Raises:
        MetricError: unknown name or option, not a language code, no label set where one is needed, or a library that
            the option needs is not installed.
    """
    if own and name in own:
        return own_metric(name, lang, own[name])
    kind, options = parse(name, own or ())
    more = {"labels": labels} if kind in LABELS else {}
    metric: Metric = _KINDS[kind](kind, lang, **options, **more)
    if name != kind:
        metric.name = name  # what a score is called: two ways of one metric stay apart
    return metric


def compares_labels(name: str) -> bool:
    """Whether the metric compares labels, not text, and so needs a label set and no language."""
    return parse(name)[0] in LABELS


def right_or_wrong(name: str) -> bool:
    """Whether each row is right or wrong, as McNemar's test wants it."""
    kind, options = parse(name)
    return kind in ("accuracy", "exact_match") and options.get("rows", "all") == "all"


def may_lead(name: str) -> bool:
    """Whether the metric can choose between checkpoints: it grows as outputs get better, and is about every row."""
    return higher_is_better(name) is True and parse(name)[1].get("rows", "all") == "all"


def higher_is_better(name: str) -> bool | None:
    """Whether a greater value is a better one; None for a metric that only describes the outputs."""
    better: bool | None = getattr(_KINDS[parse(name)[0]], "higher_is_better", True)
    return better
