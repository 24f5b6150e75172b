"""ROUGE (Lin 2004) as rouge_score computes it, with words for every language."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import Array, best_over_references, check_rows, mean_aggregate
from llama_tasks.metrics.text import base_language, mostly, split_sentences, words


class Rouge:
    """Plain mean of F1 over rows; of several references the best counts. No stemmer.

    English is cut by rouge_score's own tokenizer ([a-z0-9]+), every other language by `text.words`. For rougeLsum
    sentences are found by `text.split_sentences`; newlines in the text end sentences too.
    """

    aggregate = staticmethod(mean_aggregate)

    def __init__(self, name: str, lang: str) -> None:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        self.name = name
        self.lang = lang
        self._english = base_language(lang) == "en"
        self._scorer: Any = RougeScorer([name], tokenizer=DefaultTokenizer() if self._english else _Words())
        tokenizer = "rouge_score" if self._english else "unicode"
        sentences = "|sent:rule" if name == "rougeLsum" else ""
        self.signature = f"stemmer:no|tok:{tokenizer}{sentences}|agg:mean|version:rouge_score-{version('rouge_score')}"

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """Statistics `[n, 2]`: F1 and 1. An empty prediction scores 0 and counts.

        Raises:
            MetricError: also when English is said but a row is mostly in letters that its tokenizer drops, which would
                score 0 however good the prediction.
        """
        check_rows(self.name, predictions, references)
        if self._english:
            self._refuse_other_scripts(references)
        return best_over_references(self._f1, predictions, references)

    def _f1(self, prediction: str, reference: str) -> float:
        if self.name == "rougeLsum":
            prediction, reference = split_sentences(prediction), split_sentences(reference)
        return float(self._scorer.score(reference, prediction)[self.name].fmeasure)

    def _refuse_other_scripts(self, references: Sequence[Sequence[str]]) -> None:
        foreign = [index for index, row in enumerate(references) if mostly(row, lambda char: not char.isascii())]
        if foreign:
            raise MetricError(
                f"{self.name}: `lang: {self.lang}` reads only the letters a-z, but the references of {len(foreign)} of "
                f"{len(references)} rows (the first is row {foreign[0]}) are mostly in others; "
                "set `lang:` to their language (zh, ja, ru, ...; in a recipe: data.constants.lang=zh, or a column `lang`)"
            )


class _Words:
    """`text.words` in the form that RougeScorer takes."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)
