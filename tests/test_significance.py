"""Paired tests: right in known cases, sacrebleu's where they should be, and honest about equal systems."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest
from scipy.stats import binomtest

from llama_tasks import metrics
from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import mean_statistics
from llama_tasks.significance import approximate_randomisation, compare, mcnemar

ACCURACY = metrics.create("accuracy", "en", ["a", "b"])


@pytest.fixture(scope="module")
def translations():
    """30 references, and two systems that spoil them differently."""
    rng = np.random.default_rng(0)
    words = np.array(["the", "a", "cat", "dog", "house", "sat", "ran", "on", "under", "big", "small", "red", "and"])
    references = [" ".join(rng.choice(words, size=rng.integers(6, 14))) for _ in range(30)]

    def spoil(share):
        return [
            " ".join(rng.choice(words) if rng.random() < share else word for word in line.split())
            for line in references
        ]

    return references, spoil(0.30), spoil(0.24)


@pytest.mark.parametrize(("kind", "sacre_type"), [("bootstrap", "bs"), ("randomisation", "ar")])
def test_equals_sacrebleu(translations, monkeypatch, kind, sacre_type):
    references, system_a, system_b = translations
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    systems = [("a", system_a), ("b", system_b)]
    test = PairedTest(systems, {"BLEU": BLEU()}, [references], test_type=sacre_type, n_samples=300)
    result_a, result_b = test()[1]["BLEU"]

    metric = metrics.create("bleu", "en")
    stats_a, stats_b = (metric.statistics(system, [[line] for line in references]) for system in (system_a, system_b))
    if kind == "bootstrap":
        ours = compare(metric, stats_a, stats_b, n_resamples=300, null="sacrebleu")
    else:
        ours = approximate_randomisation(metric, stats_a, stats_b, n_resamples=300)
    assert ours.difference == pytest.approx(result_b.score - result_a.score)
    assert 0.01 < ours.p_value < 0.9
    assert ours.p_value == pytest.approx(
        result_b.p_value, abs=0.004
    )  # one resample is 0.0033; sacrebleu sums in float32


def test_identical_systems():
    stats = mean_statistics([1, 0, 1, 1, 0])
    for null in ("shift", "sacrebleu"):
        assert compare(ACCURACY, stats, stats, null=null).p_value == 1
    assert approximate_randomisation(ACCURACY, stats, stats, n_resamples=50).p_value == 1
    same = mcnemar([True, False], [True, False])
    assert (same.p_value, same.difference, same.interval) == (1, 0, (0, 0))


def test_a_clear_difference():
    worse, better = mean_statistics([0.2] * 40), mean_statistics(np.linspace(0.3, 0.9, 40))
    for comparison in (compare(ACCURACY, worse, better), approximate_randomisation(ACCURACY, worse, better)):
        assert comparison.p_value < 0.01
        assert comparison.difference == pytest.approx(40)
        assert 30 < comparison.interval[0] < 40 < comparison.interval[1] < 50
    back = compare(ACCURACY, better, worse)
    assert back.difference == pytest.approx(-40)
    assert back.p_value < 0.01


@pytest.mark.parametrize(("null", "low", "high"), [("shift", 0.02, 0.09), ("sacrebleu", 0.085, 0.20)])
def test_false_alarms_between_equal_systems(null, low, high):
    """At p < 0.05 the shifted test errs in about 5 of 100 cases, sacrebleu's in about 10: why ours is the default."""
    rng = np.random.default_rng(1)
    alarms = 0
    for seed in range(400):
        stats_a, stats_b = mean_statistics(rng.random(100)), mean_statistics(rng.random(100))
        alarms += compare(ACCURACY, stats_a, stats_b, n_resamples=200, seed=seed, null=null).p_value < 0.05
    assert low < alarms / 400 < high


@pytest.mark.parametrize(
    ("gained", "lost", "expected"), [(0, 0, 1), (1, 0, 1), (6, 0, 2 / 64), (8, 2, 112 / 1024), (5, 5, 1)]
)
def test_mcnemar_golden(gained, lost, expected):
    correct_a = [False] * gained + [True] * lost + [True] * 3
    correct_b = [True] * gained + [False] * lost + [True] * 3
    comparison = mcnemar(correct_a, correct_b, n_resamples=10)
    assert comparison.p_value == pytest.approx(expected)
    assert comparison.difference == pytest.approx(100 * (gained - lost) / (gained + lost + 3))


def test_mcnemar_equals_the_binomial_test():
    rng = np.random.default_rng(2)
    correct_a, correct_b = rng.random(3000) < 0.5, rng.random(3000) < 0.53
    gained, lost = int((correct_b & ~correct_a).sum()), int((correct_a & ~correct_b).sum())
    expected = binomtest(gained, gained + lost).pvalue
    assert mcnemar(correct_a, correct_b, n_resamples=10).p_value == pytest.approx(expected)


def test_mcnemar_reads_a_column_of_statistics():
    stats = mean_statistics([1, 0, 1])
    assert mcnemar(stats[:, 0], stats[:, 0]).p_value == 1


def test_different_rows_are_refused():
    for call in (
        lambda: compare(ACCURACY, mean_statistics([1]), mean_statistics([1, 0])),
        lambda: approximate_randomisation(ACCURACY, mean_statistics([1]), mean_statistics([1, 0])),
        lambda: mcnemar([True], [True, False]),
    ):
        with pytest.raises(MetricError, match="not scored on the same rows"):
            call()
    with pytest.raises(MetricError, match="no rows"):
        mcnemar([], [])


def test_comparison_is_json_and_names_its_method():
    comparison = compare(ACCURACY, mean_statistics([1, 0]), mean_statistics([1, 1]), n_resamples=10, seed=1)
    assert json.loads(json.dumps(comparison.to_dict())) == comparison.to_dict()
    assert comparison.method == "paired-bootstrap|bs:10|seed:1"
