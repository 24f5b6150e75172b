"""BLEU and chrF as sacrebleu computes them (Post 2018), from its own row statistics.

sacrebleu counts; the formulas from counts to score are restated here for many resamples at a time, and tested to equal
`sacrebleu.corpus_bleu` and `corpus_chrf` to 1e-9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import check_rows, divide
from llama_tasks.metrics.bootstrap import Array
from llama_tasks.metrics.text import base_language, refuse_unspaced

TOKENIZERS = ("13a", "zh", "char", "intl", "none", "ja-mecab", "ko-mecab", "flores101", "flores200", "spBLEU-1K")
_BY_LANGUAGE = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"} | dict.fromkeys(("th", "lo", "km", "my"), "char")
_BLEU_ORDER = 4
_CHRF_BETA = 2


class Bleu:
    """Corpus BLEU (Papineni et al. 2002); statistics `[n, 10]`: both lengths, then matches and totals of 4 orders.

    Tokenizer by language: zh `zh`; ja and ko MeCab where installed, otherwise `char`; th, lo, km and my `char`; `13a`
    for all others; `tok` names another one of sacrebleu's. The signature tells which.

    Raises:
        MetricError: the tokenizer asked for by name is not installed.
    """

    def __init__(self, name: str, lang: str, tok: str = "", case: str = "mixed") -> None:
        self.name = name
        self.lang = lang
        language = base_language(lang)
        self._scorer = _named(name, tok, case) if tok else _default(language, case)
        self.signature = signature(self._scorer)

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """See `Metric.statistics`; refuses references that the tokenizer cannot cut into words."""
        check_rows(self.name, predictions, references)
        if self._scorer.tokenizer_signature in ("13a", "intl", "none"):
            refuse_unspaced(self.name, self.lang, references)
        return row_statistics(self._scorer, predictions, references)

    def aggregate(self, sums: Array) -> Array:
        """BLEU with exponential smoothing (NIST's, method 3 of Chen and Cherry 2014); 0 without any match."""
        lengths, references = sums[..., 0], sums[..., 1]
        correct, total = sums[..., 2 : 2 + _BLEU_ORDER], sums[..., 2 + _BLEU_ORDER :]
        halvings = np.cumsum(correct == 0, axis=-1)  # the k-th order without a match counts as 1 / 2^k of a match
        matches = np.where(correct > 0, correct, 0.5**halvings)
        defined = (correct.max(axis=-1) > 0) & (total.min(axis=-1) > 0)
        precisions = np.where(total > 0, matches / np.maximum(total, 1), 1.0)
        brevity = np.exp(np.minimum(0.0, 1.0 - references / np.maximum(lengths, 1)))
        return np.where(defined, 100.0 * brevity * np.exp(np.log(precisions).mean(axis=-1)), 0.0)


class Chrf:
    """chrF (Popović 2015), and with words chrF++ (Popović 2017): statistics `[n, 3 * orders]` of
    prediction, reference and matching n-grams; the reference with the best row score counts."""

    def __init__(self, name: str, lang: str, case: str = "mixed") -> None:
        from sacrebleu.metrics.chrf import CHRF

        base_language(lang)
        self.name = name
        self.lang = lang
        self._scorer = CHRF(word_order=2 if name == "chrf++" else 0, beta=_CHRF_BETA, lowercase=case == "lc")
        self.signature = signature(self._scorer)

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """See `Metric.statistics`."""
        check_rows(self.name, predictions, references)
        return row_statistics(self._scorer, predictions, references)

    def aggregate(self, sums: Array) -> Array:
        """F2 of precision and recall, both averaged over the orders that occur on both sides."""
        n_hyp, n_ref, n_match = (sums[..., start::3] for start in range(3))
        present = (n_hyp > 0) & (n_ref > 0)
        orders = np.maximum(present.sum(axis=-1), 1)
        precision = np.where(present, divide(n_match, n_hyp), 0.0).sum(axis=-1) / orders
        recall = np.where(present, divide(n_match, n_ref), 0.0).sum(axis=-1) / orders
        weight = _CHRF_BETA**2
        return 100.0 * divide((1 + weight) * precision * recall, weight * precision + recall)


def _default(language: str, case: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    try:
        return BLEU(tokenize=_BY_LANGUAGE.get(language, "13a"), lowercase=case == "lc")
    except RuntimeError:  # MeCab is an extra of sacrebleu; characters need nothing, and the signature says so
        return BLEU(tokenize="char", lowercase=case == "lc")


def _named(name: str, tok: str, case: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    try:
        return BLEU(tokenize=tok, lowercase=case == "lc")
    except RuntimeError:
        raise MetricError(f'{name}: MeCab is not installed; pip install "llama-tasks[ja-ko]"') from None
    except ImportError:
        raise MetricError(f'{name}: sentencepiece is not installed; pip install "llama-tasks[convert]"') from None
    except OSError as error:
        raise MetricError(
            f"{name}: sacrebleu downloads the model of this tokenizer once, and the download failed: {error}"
        ) from None


def row_statistics(scorer: Any, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
    """The one place that uses a private method of sacrebleu: it has no public way to a row's statistics.

    sacrebleu wants one stream a reference, so rows with fewer references are filled with None, which it leaves out.
    """
    width = max(len(row) for row in references)
    streams = [[row[i] if i < len(row) else None for row in references] for i in range(width)]
    return np.asarray(scorer._extract_corpus_statistics(predictions, streams), dtype=np.float64)


def signature(scorer: Any) -> str:
    """sacrebleu's signature without the number of references, which only the data can tell (`base.score` adds it)."""
    scorer.num_refs = 1
    whole = scorer.get_signature()
    whole.update("nrefs", None)
    return str(whole.format())
