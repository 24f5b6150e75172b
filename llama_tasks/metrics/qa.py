"""Exact match and F1 of short answers: SQuAD's definition in English, MLQA's in other languages.

Sources: Rajpurkar et al. 2016 and 2018 (evaluate-v2.0.py), Lewis et al. 2020 (mlqa_evaluation_v1.py).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from llama_tasks.metrics.base import Array, best_over_references, check_rows, mean_aggregate
from llama_tasks.metrics.text import base_language, refuse_unspaced, unspaced

# What is dropped as an article. SQuAD: English; MLQA: the others (Arabic: the prefix, wherever it stands).
_ARTICLES = {
    "en": r"\b(?:a|an|the)\b",
    "de": r"\b(?:der|die|das|des|dem|den|eine?|eine[nmsr])\b",
    "es": r"\b(?:el|la|los|las|una?|un[oa]s)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "ar": "ال",
}


class QuestionAnswering:
    """`exact_match` or `f1`; of several references the best counts. Statistics `[n, 2]`: value and 1.

    A row without references, or with only empty ones, is unanswerable: the right prediction is empty. When prediction
    or reference is empty after normalisation, F1 = EM = whether both are (SQuAD 2).
    """

    aggregate = staticmethod(mean_aggregate)

    def __init__(self, name: str, lang: str) -> None:
        self.name = name
        self.lang = lang
        self._language = base_language(lang)
        kind = "squad" if self._language == "en" else "mlqa"
        articles = self._language if self._language in _ARTICLES else "no"
        self.signature = f"norm:{kind}|articles:{articles}|noanswer:squad2|agg:mean"

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """See `Metric.statistics`; refuses English rules for references written without spaces."""
        check_rows(self.name, predictions, references, unanswerable=True)
        if self._language == "en":
            refuse_unspaced(self.name, self.lang, references)
        # As in SQuAD 2: answers that normalise to nothing count only where there is no other.
        answers = [[answer for answer in row if self._tokens(answer)] or [""] for row in references]
        return best_over_references(self._value, predictions, answers)

    def _value(self, prediction: str, reference: str) -> float:
        found, wanted = self._tokens(prediction), self._tokens(reference)
        if self.name == "exact_match" or not found or not wanted:
            return float(found == wanted)
        common = (Counter(found) & Counter(wanted)).total()
        return 2 * common / (len(found) + len(wanted))

    def _tokens(self, text: str) -> list[str]:
        return answer_tokens(text, self._language)


def answer_tokens(text: str, language: str) -> list[str]:
    """Tokens of an answer, normalised: lower case, no punctuation, no articles, cut at spaces.

    English drops ASCII punctuation only, as SQuAD does, and keeps unspaced characters together. Other languages drop
    all punctuation of Unicode and make each unspaced character a token: "《红楼梦》, 120回" -> 红 楼 梦 120 回.
    """
    if language == "en":
        text = "".join(char for char in text.lower() if char not in string.punctuation)
        return re.sub(_ARTICLES["en"], " ", text).split()
    text = "".join(char for char in text.lower() if not _is_punctuation(char))
    if language in _ARTICLES:
        text = re.sub(_ARTICLES[language], " ", text)
    return "".join(f" {char} " if unspaced(char) else char for char in text).split()


@lru_cache(maxsize=1 << 16)
def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")
