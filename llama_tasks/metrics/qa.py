"""Exact match and F1 of short answers, as the data sets' own scripts define them (`normalise.py` has their rules)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import check_rows, mean_aggregate, mean_statistics
from llama_tasks.metrics.bootstrap import Array
from llama_tasks.metrics.normalise import (
    ARTICLES,
    MLQA_LANGUAGES,
    cmrc_text,
    cmrc_tokens,
    mlqa_tokens,
    sentence_splitter,
    squad_tokens,
)
from llama_tasks.metrics.text import base_language, refuse_unspaced

_Tokens = Callable[[str], list[str]]


class QuestionAnswering:
    """`exact_match` or `f1`; of several references the best counts. Statistics `[n, 2]`: value and 1.

    Where no `norm` is named: SQuAD's rules in English, MLQA's in every other language (Chinese too: a bag of characters
    as SQuAD's is one of words), and unanswerable rows as in SQuAD 2. A row without references is unanswerable,
    and the right prediction is empty, as it is where all references are empty. When prediction or reference is empty after
    normalisation, F1 = EM = whether both are.

    norm: `squad1` and `mlqa` follow evaluate-v1.1.py and mlqa_evaluation_v1.py, where nothing shared is F1 0, also
    between two empty answers; `squad2` evaluate-v2.0.py; `cmrc` cmrc2018_evaluate.py, whose F1 is over the longest
    common run.
    rows: `hasans` or `noans` averages only over rows with or without references; the others have statistics 0, 0.

    Raises:
        MetricError: a norm that the language does not have.
    """

    aggregate = staticmethod(mean_aggregate)

    def __init__(self, name: str, lang: str, norm: str = "", rows: str = "all") -> None:
        self.name = name
        self.lang = lang
        language = base_language(lang)
        self._exact = name == "exact_match"
        self._rows = rows
        self._no_answers = norm in ("", "squad2")
        self._cmrc = norm == "cmrc"
        kind = norm.rstrip("12") or ("squad" if language == "en" else "mlqa")
        if (norm == "mlqa" and language not in MLQA_LANGUAGES) or (self._cmrc and language != "zh"):
            known = ", ".join(MLQA_LANGUAGES) if norm == "mlqa" else "zh"
            raise MetricError(f"{name}: norm={norm} is defined for {known}, and this is `lang: {lang}`")
        self._spaced = kind == "squad" or (language in MLQA_LANGUAGES and language != "zh")
        tokens: dict[str, _Tokens] = {
            "squad": squad_tokens,
            "mlqa": partial(mlqa_tokens, language=language),
            "cmrc": cmrc_tokens,
        }
        self._tokens = tokens[kind]
        self.signature = f"norm:{kind}|{self._choices(kind, language)}|agg:mean"

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """See `Metric.statistics`; refuses rules for spaced words where the references are written without spaces."""
        check_rows(self.name, predictions, references, unanswerable=self._no_answers)
        if self._spaced:
            refuse_unspaced(self.name, self.lang, references)
        values = [self._best(*row) for row in zip(predictions, references, strict=True)]
        return mean_statistics(values) * self._counted(references)[:, None]

    def _best(self, prediction: str, references: Sequence[str]) -> float:
        if self._no_answers:  # as in SQuAD 2: answers that normalise to nothing count only where there is no other
            references = [answer for answer in references if self._tokens(answer)] or [""]
        return max(self._value(prediction, answer) for answer in references)

    def _value(self, prediction: str, reference: str) -> float:
        if self._exact and self._cmrc:
            return float(cmrc_text(prediction) == cmrc_text(reference))
        found, wanted = self._tokens(prediction), self._tokens(reference)
        if self._exact or (self._no_answers and not (found and wanted)):
            return float(found == wanted)
        common = longest_run(found, wanted) if self._cmrc else (Counter(found) & Counter(wanted)).total()
        return 2 * common / max(len(found) + len(wanted), 1)

    def _counted(self, references: Sequence[Sequence[str]]) -> Array:
        # evaluate-v2.0.py goes by the list alone: a row whose only answer is empty still has one.
        answerable = np.array([bool(row) for row in references], dtype=np.float64)
        return {"all": np.ones(len(references)), "hasans": answerable, "noans": 1.0 - answerable}[self._rows]

    def _choices(self, kind: str, language: str) -> str:
        articles = "en" if kind == "squad" else language if language in ARTICLES and kind == "mlqa" else "no"
        parts = [f"articles:{articles}", f"noanswer:{'squad2' if self._no_answers else 'no'}"]
        if self._cmrc:
            parts += [f"seg:han+nltk-{sentence_splitter()[1]}", *([] if self._exact else ["match:longest-run"])]
        return "|".join([*parts, *([] if self._rows == "all" else [f"rows:{self._rows}"])])


def longest_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest contiguous run that both have."""
    best, ending = 0, [0] * (len(second) + 1)  # ending[j]: length of the common run that ends before second[j]
    for token in first:
        ending = [0, *(ending[j] + 1 if token == other else 0 for j, other in enumerate(second))]
        best = max(best, *ending)
    return best
