"""Paired tests: right in known cases, sacrebleu's where they should be, and honest about equal systems."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest
from scipy.stats import binomtest

from llama_tasks import metrics
from llama_tasks.errors import MetricError
from llama_tasks.metrics.base import mean_statistics
from llama_tasks.metrics.bootstrap import resampled_sums
from llama_tasks.significance import (
    approximate_randomisation,
    compare,
    compare_systems,
    detectable_difference,
    holm,
    mcnemar,
)

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


@pytest.mark.parametrize(("n", "least"), [(1, 1), (2, 0.5), (3, 0.25), (5, 0.0625), (8, 2**-7)])
def test_few_rows_are_not_significant_because_they_agree(n, least):
    """A constant gain on n rows: of the 2^n ways to swap outputs two are as extreme, so p cannot be less than 2 / 2^n."""
    comparison = compare(ACCURACY, mean_statistics([0.2] * n), mean_statistics([0.6] * n), n_resamples=2000)
    assert comparison.p_value == pytest.approx(least, abs=0.02)
    assert comparison.detectable == pytest.approx(2.8016 * 40 / n**0.5, rel=0.05)  # swaps are +-40 on each row
    assert comparison.method.startswith("approximate-randomisation|ar:2000|bs:2000|")


@pytest.mark.parametrize(("answered", "method"), [(49, "approximate-randomisation|"), (50, "paired-bootstrap|")])
def test_rows_are_those_that_the_metric_is_about(answered, method):
    rows = np.zeros((400, 2))
    rows[:answered] = mean_statistics([0.5] * answered)
    assert compare(ACCURACY, rows, rows, n_resamples=20).method.startswith(method)


@pytest.mark.parametrize("n", [3, 10])
def test_false_alarms_on_few_rows(n):
    """The bootstrap alone called equal systems different in 31 (n = 3) and 10 (n = 10) of 100 trials."""
    rng = np.random.default_rng(n)
    pairs = [(mean_statistics(rng.random(n)), mean_statistics(rng.random(n))) for _ in range(400)]
    alarms = [compare(ACCURACY, *pair, n_resamples=300, seed=seed).p_value < 0.05 for seed, pair in enumerate(pairs)]
    assert np.mean(alarms) < 0.08


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


@pytest.mark.parametrize("nll", [(1e5, 2e5), (900.0, 1.0)])
def test_values_too_large_to_compare_are_a_sentence(nll):
    """Perplexities that no float holds, and those that only a resample reaches."""
    measure = metrics.LanguageModel("perplexity")
    stats_a, stats_b = (measure.statistics(losses, [2, 2], [4, 4]) for losses in ((1.0, 2.0), nll))
    with pytest.raises(metrics.TooLarge, match=r"over 1e\+150 and say nothing any more; compare `loss`"):
        compare(measure, stats_a, stats_b)
    assert compare(metrics.LanguageModel("loss"), stats_a, stats_b).difference > 0


def test_comparison_is_json_and_names_its_method():
    comparison = compare(ACCURACY, mean_statistics([1, 0]), mean_statistics([1, 1]), n_resamples=10, seed=1)
    assert json.loads(json.dumps(comparison.to_dict())) == comparison.to_dict()
    assert comparison.method == "approximate-randomisation|ar:10|bs:10|seed:1"


def test_holm_golden():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_keeps_the_false_alarms_of_many_systems_down():
    """Of 400 families of five equal systems about 5% may hold an alarm; without correction about 22% do."""
    rng = np.random.default_rng(3)
    p_values = rng.random((400, 5))
    assert np.mean([min(holm(list(row))) < 0.05 for row in p_values]) < 0.08
    assert np.mean(p_values.min(axis=1) < 0.05) > 0.15


def test_several_systems():
    rng = np.random.default_rng(4)
    base = mean_statistics(rng.random(200))
    systems = {"same": base, "better": base + np.array([0.2, 0.0]), "other": mean_statistics(rng.random(200))}
    found = compare_systems(ACCURACY, base, systems, n_resamples=500)
    assert list(found) == ["same", "better", "other"]
    alone = compare(ACCURACY, base, systems["better"], n_resamples=500)
    assert found["better"].p_value == pytest.approx(3 * alone.p_value)
    assert found["same"].p_value == 1
    assert found["better"].method == "paired-bootstrap|bs:500|seed:12345|holm:3"
    assert found["better"].interval == alone.interval


def test_detectable_difference_is_found_in_four_of_five_trials():
    """Systems that truly differ by as much as is called detectable are told apart about as often as it promises."""
    rng = np.random.default_rng(5)

    def trial(shift, seed):
        stats_a, stats_b = (mean_statistics(rng.normal(mean, 0.2, 150)) for mean in (0.4, 0.4 + shift / 100))
        return compare(ACCURACY, stats_a, stats_b, n_resamples=300, seed=seed)

    detectable = np.mean([trial(0, seed).detectable for seed in range(30)])
    assert detectable == pytest.approx(2.8016 * 100 * 0.2 * (2 / 150) ** 0.5, rel=0.05)
    share = np.mean([trial(detectable, seed).p_value < 0.05 for seed in range(300)])
    assert 0.7 < share < 0.9


def test_detectable_difference_follows_level_and_power():
    resampled = np.array([-1.0, 0.0, 1.0])  # standard error 1
    assert detectable_difference(resampled) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert detectable_difference(resampled, level=0.01, power=0.9) == pytest.approx(2.575829 + 1.281552, abs=1e-5)
    assert detectable_difference(np.array([3.0])) == 0


def test_parts_of_the_rows():
    metric = metrics.create("f1:rows=noans", "en")
    references = [["x"]] * 20 + [[]] * 3
    stats_a, stats_b = (metric.statistics(texts, references) for texts in (["x"] * 23, ["x"] * 21 + [""] * 2))
    comparison = compare(metric, stats_a, stats_b, n_resamples=200)
    assert comparison.difference == pytest.approx(200 / 3)
    assert 0 < comparison.p_value <= 1
    with pytest.raises(MetricError, match="no rows of the part"):
        compare(metric, stats_a[:20], stats_b[:20])


@pytest.mark.parametrize("test", [compare, approximate_randomisation])
def test_ten_thousand_resamples_of_ten_thousand_rows_take_seconds(test):
    """Processor time, since the machine may be busy: under 5 s on one core, so under 5 s on two."""
    rng = np.random.default_rng(6)
    stats = rng.integers(1, 30, size=(10_000, 10)).astype(float)
    better = stats + rng.integers(0, 2, size=(10_000, 1)) * [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    start = time.process_time()
    test(metrics.create("bleu", "en"), stats, better, n_resamples=10_000)
    assert time.process_time() - start < 5


def test_resamples_of_many_labels_are_the_same_sums_in_less_time():
    rng = np.random.default_rng(7)
    metric = metrics.create("macro_f1", "en", [str(label) for label in range(150)])
    truth = rng.integers(150, size=10_000)
    stats = [
        metric.statistics(
            [str(label) for label in np.where(rng.random(10_000) < share, truth, 0)], [[str(label)] for label in truth]
        )
        for share in (0.70, 0.72)
    ]
    both = np.concatenate(stats, axis=1)
    draws = np.random.default_rng(3).integers(10_000, size=(20, 10_000))
    expected = np.stack([both[drawn].sum(axis=0) for drawn in draws])
    np.testing.assert_array_equal(resampled_sums(both, 20, 3), expected)
    start = time.process_time()
    compare(metric, *stats, n_resamples=2_000)
    assert time.process_time() - start < 1.2  # 10,000 in less than 6 s of one core, so under 5 s on two
