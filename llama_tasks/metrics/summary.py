"""What a summary is made of: how long, how new, how much of it copied from its source. None of them is good or bad.

Words are those of ROUGE for languages other than English (`text.words`; `tok=jieba` cuts Chinese by dictionary).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import check_rows, divide, mean_aggregate, mean_statistics
from llama_tasks.metrics.bootstrap import Array
from llama_tasks.metrics.text import word_cutter


class _Described:
    higher_is_better = None

    def __init__(self, name: str, lang: str, tok: str = "unicode") -> None:
        self.name = name
        self.lang = lang
        self._cut, cutter = word_cutter(name, lang, tok)
        self.signature = f"tok:{cutter}"


class LengthRatio(_Described):
    """100 x words of all predictions / words of the references, of several the closest in length (100: as long).

    Statistics `[n, 2]`: words of prediction and reference.
    """

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """See `Metric.statistics`."""
        check_rows(self.name, predictions, references)
        return np.array([self._row(*row) for row in zip(predictions, references, strict=True)], dtype=np.float64)

    def aggregate(self, sums: Array) -> Array:
        """The ratio; NaN where no reference has a word."""
        return 100.0 * divide(sums[..., 0], sums[..., 1], empty=np.nan)

    def _row(self, prediction: str, references: Sequence[str]) -> tuple[int, int]:
        length = len(self._cut(prediction))
        return length, min((len(self._cut(text)) for text in references), key=lambda n: (abs(n - length), n))


class _AgainstSource(_Described):
    needs = "sources"

    def statistics(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], sources: Sequence[str]
    ) -> Array:
        """Statistics `[n, 2]`: the value of the row and 1; references are not read. An empty prediction counts 0.

        Raises:
            MetricError: also when `sources` are not one text a row, or a source has no word.
        """
        check_rows(self.name, predictions, references, unanswerable=True)
        if isinstance(sources, str) or len(sources) != len(predictions):
            raise MetricError(f"{self.name}: {len(predictions)} predictions need a list of as many sources")
        words = [self._cut(source) if isinstance(source, str) else [] for source in sources]
        if not all(words):
            raise MetricError(f"{self.name}: the source of row {words.index([])} is not a text with words")
        pairs = zip(predictions, words, strict=True)
        return mean_statistics([self._value(self._cut(prediction), source) for prediction, source in pairs])

    def _value(self, summary: list[str], source: list[str]) -> float:
        raise NotImplementedError


class Novelty(_AgainstSource):
    """Share of a summary's different n-grams that its source does not have (See et al. 2017; as SummEval counts, Fabbri
    et al. 2021), 0..100, mean over rows; `n` words, 2 where nothing is said."""

    aggregate = staticmethod(mean_aggregate)

    def __init__(self, name: str, lang: str, tok: str = "unicode", n: str = "2") -> None:
        super().__init__(name, lang, tok)
        self._n = int(n)
        self.signature = f"n:{n}|{self.signature}|agg:mean"

    def _value(self, summary: list[str], source: list[str]) -> float:
        grams = self._grams(summary)
        return len(grams - self._grams(source)) / max(len(grams), 1)

    def _grams(self, words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + self._n]) for i in range(len(words) - self._n + 1)}


class Copying(_AgainstSource):
    """Extractive fragments (Grusky et al. 2018), mean over rows: runs of words shared with the source, found greedily.

    `copy_rate` is their coverage, the share of the summary's words that lie in one, 0..100. `copy_density` is the mean
    length, in words, of the fragment that a word of the summary lies in (no percentage).
    """

    def __init__(self, name: str, lang: str, tok: str = "unicode") -> None:
        super().__init__(name, lang, tok)
        self._power = 1 if name == "copy_rate" else 2
        self.signature = f"{self.signature}|agg:mean"

    def aggregate(self, sums: Array) -> Array:
        """The mean over rows, for `copy_rate` in percent."""
        mean = mean_aggregate(sums)
        return mean if self._power == 1 else mean / 100.0

    def _value(self, summary: list[str], source: list[str]) -> float:
        return sum(length**self._power for length in fragments(summary, source)) / max(len(summary), 1)


def fragments(summary: Sequence[str], source: Sequence[str]) -> list[int]:
    """Lengths of the extractive fragments, by the paper's procedure: at each word of the summary the longest run that
    also stands in the source, where the search goes on behind a run that it has tried."""
    places = defaultdict(list)
    for place, word in enumerate(source):
        places[word].append(place)
    lengths, start = [], 0
    while start < len(summary):
        longest = tried = 0
        for place in places.get(summary[start], ()):
            if place >= tried:
                length = _common(summary, start, source, place)
                longest, tried = max(longest, length), place + length
        if longest:
            lengths.append(longest)
        start += max(longest, 1)
    return lengths


def _common(summary: Sequence[str], start: int, source: Sequence[str], place: int) -> int:
    length = 0
    while start + length < len(summary) and place + length < len(source):
        if summary[start + length] != source[place + length]:
            break
        length += 1
    return length
