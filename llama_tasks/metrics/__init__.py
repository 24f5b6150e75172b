"""Numbers for texts, each with its signature, its sample size and its interval. Never imports torch.

metric = metrics.create("rougeL", "zh")
metrics.score(metric, ["今天天气很好"], [["今天天气不错"]])   # Score(value=..., interval=..., n=1, signature=...)
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import Metric, Score, score
from llama_tasks.metrics.bleu import Bleu, Chrf
from llama_tasks.metrics.classification import Classification
from llama_tasks.metrics.counts import count
from llama_tasks.metrics.own import own_metric
from llama_tasks.metrics.qa import QuestionAnswering
from llama_tasks.metrics.rouge import Rouge

__all__ = ["Metric", "Score", "count", "create", "names", "score"]

_NAMES = (
    *("bleu", "chrf", "chrf++"),
    *("rouge1", "rouge2", "rougeL", "rougeLsum"),
    *("exact_match", "f1"),
    *("accuracy", "macro_f1", "micro_f1"),
)


def names() -> tuple[str, ...]:
    """Every name that `create` knows."""
    return _NAMES


def create(name: str, lang: str, labels: Sequence[str] | None = None, own: Mapping[str, Any] | None = None) -> Metric:
    """The metric `name` for texts in `lang`; `labels` is needed for classification and not read otherwise.

    own: metrics of a task of the user's own, by name; they go before those known here.

    Raises:
        MetricError: unknown name, not a language code, or no label set where one is needed.
    """
    if own and name in own:
        return own_metric(name, lang, own[name])
    match name:
        case "bleu":
            return Bleu(lang)
        case "chrf" | "chrf++":
            return Chrf(lang, word_order=2 if name == "chrf++" else 0)
        case "rouge1" | "rouge2" | "rougeL" | "rougeLsum":
            return Rouge(name, lang)
        case "exact_match" | "f1":
            return QuestionAnswering(name, lang)
        case "accuracy" | "macro_f1" | "micro_f1":
            return Classification(name, lang, labels)
    known = [*(own or {}), *_NAMES]
    raise MetricError(f"there is no metric {name!r}{_suggest(str(name), known)} Known are {', '.join(known)}")


def _suggest(name: str, known: Sequence[str]) -> str:
    plain = {one.lower().replace("_", ""): one for one in known}
    wanted = name.lower().replace("_", "").replace("-", "").replace(" ", "")
    close = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.6)
    return f": did you mean {plain[close[0]]!r}?" if close else "."
