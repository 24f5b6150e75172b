"""Perplexity and bits per byte of plain text, from each text's negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import divide
from llama_tasks.metrics.bootstrap import Array

NAMES = ("perplexity", "bits_per_byte", "loss")


class LanguageModel:
    """`loss` (nats a token), `perplexity` (its exponential; Jelinek et al. 1977) or `bits_per_byte`, which alone compares
    across tokenizers, of all texts together. The smaller the better."""

    higher_is_better = False

    def __init__(self, name: str, lang: str = "mul") -> None:
        if name not in NAMES:
            raise MetricError(f"there is no measure of language models {name!r}; known are {', '.join(NAMES)}")
        self.name = name
        self.lang = lang
        self.signature = {"bits_per_byte": "per:byte|log:2|bytes:utf-8"}.get(name, "per:token|log:e") + "|agg:corpus"

    def statistics(self, nll: Sequence[float], tokens: Sequence[int], n_bytes: Sequence[int]) -> Array:
        """Statistics `[n, 3]` of n texts: -log P(text) in nats, tokens that were predicted, bytes of UTF-8.

        Raises:
            MetricError: lengths differ, no texts, or a number that is negative or not finite.
        """
        if not len(nll) == len(tokens) == len(n_bytes) > 0:
            raise MetricError(
                f"{self.name}: {len(nll)} losses, {len(tokens)} and {len(n_bytes)} sizes; give one a text"
            )
        stats = np.column_stack([np.asarray(part, dtype=np.float64) for part in (nll, tokens, n_bytes)])
        wrong = np.flatnonzero(~np.isfinite(stats).all(axis=1) | (stats < 0).any(axis=1))
        if len(wrong):
            raise MetricError(f"{self.name}: row {wrong[0]} has a loss or size that is negative or not finite")
        return stats

    def aggregate(self, sums: Array) -> Array:
        """The value of summed statistics; NaN without tokens (bytes)."""
        if self.name == "bits_per_byte":
            return divide(sums[..., 0], sums[..., 2], empty=np.nan) / math.log(2)
        loss = divide(sums[..., 0], sums[..., 1], empty=np.nan)
        return loss if self.name == "loss" else np.exp(loss)
