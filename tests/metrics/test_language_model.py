"""Perplexity and bits per byte by hand; they add up and have intervals."""

from __future__ import annotations

import math

import pytest

from llama_tasks import metrics
from llama_tasks.errors import MetricError


def score(name, nll, tokens, n_bytes):
    measure = metrics.LanguageModel(name)
    return metrics.score_statistics(measure, measure.statistics(nll, tokens, n_bytes), n_resamples=50, seed=1)


def test_golden():
    rows = [math.log(2) * 8, math.log(2) * 4], [4, 2], [8, 16]
    assert score("perplexity", *rows).value == pytest.approx(4)
    assert score("loss", *rows).value == pytest.approx(math.log(4))
    assert score("bits_per_byte", *rows).value == pytest.approx(0.5)
    low, high = score("bits_per_byte", *rows).interval
    assert (low, high) == pytest.approx((0.25, 1))
    assert score("bits_per_byte", *rows).signature == "bs:50|seed:1|per:byte|log:2|bytes:utf-8|agg:corpus"


def test_texts_are_taken_together():
    assert score("perplexity", [1.0, 9.0], [1, 3], [1, 1]).value == pytest.approx(math.exp(10 / 4))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (([], [], []), "0 losses"),
        (([1.0], [1, 2], [1]), "1 losses, 2 and 1 sizes"),
        (([float("nan")], [1], [1]), "row 0 has a loss or size that is negative or not finite"),
        (([1.0, -1.0], [1, 1], [1, 1]), "row 1 has"),
        (([1.0], [0], [1]), "none of the 1 rows"),
    ],
)
def test_refusals(rows, message):
    with pytest.raises(MetricError, match=message):
        score("perplexity", *rows)
    with pytest.raises(MetricError, match="no measure of language models 'ppl'"):
        metrics.LanguageModel("ppl")
