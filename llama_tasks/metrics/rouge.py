"""ROUGE (Lin 2004) as rouge_score computes it, with words for every language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import best_over_references, check_rows, mean_aggregate
from llama_tasks.metrics.bootstrap import Array
from llama_tasks.metrics.text import base_language, mostly, split_sentences, word_cutter


class Rouge:
    """Plain mean of F1 over rows; of several references the best counts.

    Words (`tok`): English by rouge_score's own tokenizer ([a-z0-9]+), every other language by `text.words`, Chinese so by
    character; `tok=jieba` cuts Chinese into words. `stem=yes` is Porter's stemmer, for rouge_score's tokenizer only. For
    rougeLsum sentences are found by `text.split_sentences`; `sent=newline` takes line breaks alone, as rouge_score does.

    Raises:
        MetricError: a stemmer for words that it was not made for; a word cutter that does not fit or is not installed.
    """

    aggregate = staticmethod(mean_aggregate)

    def __init__(self, name: str, lang: str, tok: str = "", stem: str = "no", sent: str = "rule") -> None:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        self.name = name
        self.lang = lang
        self._kind = name
        self._splits = name == "rougeLsum" and sent == "rule"
        tok = tok or ("rouge_score" if base_language(lang) == "en" else "unicode")
        self._ascii = tok == "rouge_score"
        if stem == "yes" and not (self._ascii and base_language(lang) == "en"):
            raise MetricError(f"{name}: the stemmer is for English; leave `stem` out for `lang: {lang}`, `tok: {tok}`")
        tokenizer: Any = DefaultTokenizer(use_stemmer=stem == "yes")
        if not self._ascii:
            cut, tok = word_cutter(name, lang, tok)
            tokenizer = _Words(cut)
        self._scorer: Any = RougeScorer([name], tokenizer=tokenizer)
        stemmer = "porter" if stem == "yes" else "no"
        sentences = f"|sent:{sent}" if name == "rougeLsum" else ""
        self.signature = f"stemmer:{stemmer}|tok:{tok}{sentences}|agg:mean|version:rouge_score-{version('rouge_score')}"

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """Statistics `[n, 2]`: F1 and 1. An empty prediction scores 0 and counts.

        Raises:
            MetricError: also when a row is mostly in letters that rouge_score's tokenizer drops, which would score 0
                however good the prediction.
        """
        check_rows(self.name, predictions, references)
        if self._ascii:
            self._refuse_other_scripts(references)
        return best_over_references(self._f1, predictions, references)

    def _f1(self, prediction: str, reference: str) -> float:
        if self._splits:
            prediction, reference = split_sentences(prediction), split_sentences(reference)
        return float(self._scorer.score(reference, prediction)[self._kind].fmeasure)

    def _refuse_other_scripts(self, references: Sequence[Sequence[str]]) -> None:
        foreign = [index for index, row in enumerate(references) if mostly(row, lambda char: not char.isascii())]
        if foreign:
            raise MetricError(
                f"{self.name}: `lang: {self.lang}` reads only the letters a-z, but the references of {len(foreign)} of "
                f"{len(references)} rows (the first is row {foreign[0]}) are mostly in others; "
                "set `lang:` to their language (zh, ja, ru, ...; in a recipe: data.constants.lang=zh, or a column `lang`)"
            )


class _Words:
    """A word cutter in the form that RougeScorer takes."""

    def __init__(self, cut: Callable[[str], list[str]]) -> None:
        self.tokenize = cut
