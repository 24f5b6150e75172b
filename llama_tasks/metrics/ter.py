"""Translation edit rate (Snover et al. 2006) as sacrebleu computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import check_rows, divide
from llama_tasks.metrics.bleu import row_statistics, signature
from llama_tasks.metrics.bootstrap import Array
from llama_tasks.metrics.text import base_language, refuse_unspaced

_ASIAN = ("zh", "ja")  # tercom cuts Han into characters; of other unspaced scripts it knows nothing
_UNCUT = ("th", "lo", "km", "my")


class Ter:
    """Edits (insertions, deletions, substitutions, shifts of phrases) per 100 reference words; 0 is identical text.

    Statistics `[n, 2]`: the fewest edits over the references, and the references' mean length. Words stand between
    spaces; in zh and ja tercom's normalisation also cuts Han into characters (`norm`, `asian`). `punct=no` drops
    punctuation, `case=mixed` keeps the case.
    """

    higher_is_better = False

    def __init__(
        self, name: str, lang: str, norm: str = "", asian: str = "", punct: str = "yes", case: str = "lc"
    ) -> None:
        from sacrebleu.metrics.ter import TER

        language = base_language(lang)
        if language in _UNCUT:
            raise MetricError(f"{name} cannot cut `lang: {lang}` into words; use chrf, or bleu:tok=char")
        by_language = "yes" if language in _ASIAN else "no"
        self.name = name
        self.lang = lang
        self._asian = (norm or by_language) == (asian or by_language) == "yes"
        self._scorer = TER(
            normalized=(norm or by_language) == "yes",
            asian_support=(asian or by_language) == "yes",
            no_punct=punct == "no",
            case_sensitive=case == "mixed",
        )
        self.signature = signature(self._scorer)

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """See `Metric.statistics`; refuses references that are not cut into words."""
        check_rows(self.name, predictions, references)
        if not self._asian:
            refuse_unspaced(self.name, self.lang, references)
        return row_statistics(self._scorer, predictions, references)

    def aggregate(self, sums: Array) -> Array:
        """100 x edits / reference words; without any reference word, 100 if something was said and 0 otherwise."""
        edits, words = sums[..., 0], sums[..., 1]
        return 100.0 * np.where(words > 0, divide(edits, words), edits > 0)
