"""Creating, validating, scoring and counting, for every metric alike."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from llama_tasks import metrics
from llama_tasks.errors import MetricError
from llama_tasks.metrics import base, bootstrap

TEXT = "one two three four"


# What the metrics that read more than predictions and references are given, whatever the rows.
EXTRA = {"sources": "five " + TEXT, "choices": {TEXT: -1.0, "other": -2.0, "text": -3.0}}


@pytest.fixture(params=metrics.names())
def metric(request):
    return metrics.create(request.param, "en", labels=[TEXT, "other"])


def extra(metric, rows):
    """The column that the metric needs, by name, for that many rows."""
    needs = getattr(metric, "needs", None)
    return {needs: [EXTRA[needs]] * rows} if needs else {}


def bounds(metric):
    low = -100 if metric.name == "mcc" else 0
    return low, 500 if metric.name in ("copy_density", "length_ratio", "ter") else 100 + 1e-9


def test_score_is_complete_json(metric):
    score = metrics.score(metric, [TEXT, "other"], [[TEXT], [TEXT]], n_resamples=50, seed=3, **extra(metric, 2))
    assert (score.metric, score.lang, score.n) == (metric.name, "en", 2)
    low, high = bounds(metric)
    assert low <= score.interval[0] <= score.value <= score.interval[1] <= high
    assert score.signature == f"nrefs:1|bs:50|seed:3|{metric.signature}"
    assert json.loads(json.dumps(score.to_dict())) == score.to_dict()
    assert set(score.to_dict()) == {"metric", "lang", "value", "interval", "n", "signature"}


def test_same_seed_same_interval(metric):
    rows = [TEXT, "other", "other"], [[TEXT], [TEXT], ["other"]]
    first, second = (metrics.score(metric, *rows, n_resamples=20, **extra(metric, 3)) for _ in range(2))
    assert first == second


def test_one_row_has_a_degenerate_interval(metric):
    score = metrics.score(metric, ["other"], [[TEXT]], n_resamples=5, **extra(metric, 1))
    assert score.interval == (score.value, score.value)


def test_aggregate_is_vectorised(metric):
    stats = metrics.statistics(metric, [TEXT, "other"], [[TEXT], [TEXT]], **extra(metric, 2))
    sums = np.stack([[stats[0], stats[1]], [stats.sum(0), 2 * stats[0]], [stats[1], stats[1]]])
    values = metric.aggregate(sums)
    assert values.shape == (3, 2)
    assert values[1, 0] == metric.aggregate(stats.sum(0))


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ("text", [["text"]], "predictions must be a list"),
        (["text"], "text", "references must be a list"),
        (["text"], ["text"], "references of row 0 must be a list.*in brackets"),
        (["text"], [[["text"]]], "a reference of row 0 must be a text, not list"),
        (["text", "b"], [["text"]], "2 predictions but references for 1 rows"),
        (["text", "b", "c"], [["text", "b", "c"]], "one list of references a row"),
        ([None], [["text"]], "the prediction of row 0 must be a text, not None"),
        (["text"], [[None]], "a reference of row 0 must be a text, not None"),
        (["text"], [None], "references of row 0 must be a list, not None"),
        (["text"], None, "references must be a list, not None"),
        ([], [], "no rows"),
        ([3], [["3"]], "must be a text, not int 3"),
    ],
)
def test_malformed_rows_are_refused(metric, predictions, references, message):
    with pytest.raises(MetricError, match=message) as caught:
        metrics.score(metric, predictions, references, **extra(metric, len(predictions)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bleu", "chrf", "rougeL", "accuracy"])
def test_a_row_without_reference_is_refused(name):
    with pytest.raises(MetricError, match="row 1 has no reference"):
        metrics.create(name, "en", labels=["a"]).statistics(["a", "a"], [["a"], []])


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("rouge-l", "rougeL"),
        ("ROUGE1", "rouge1"),
        ("bleau", "bleu"),
        ("macro f1", "macro_f1"),
        ("exactmatch", "exact_match"),
    ],
)
def test_unknown_name_is_met_with_a_guess(name, guess):
    with pytest.raises(MetricError, match=f"did you mean '{guess}'"):
        metrics.create(name, "en")


def test_unknown_name_without_a_guess_lists_the_known():
    with pytest.raises(MetricError, match=r"no metric 'xyzzy'\. Known are bleu, chrf"):
        metrics.create("xyzzy", "en")


@pytest.mark.parametrize("lang", ["", "english", "e", "中文", None])
def test_not_a_language(metric, lang):
    with pytest.raises(MetricError, match="is not a language code"):
        metrics.create(metric.name, lang, labels=["a"])


TEXT_METRICS = [
    *(name for name in metrics.names() if not metrics.compares_labels(name) and name != "calibration_error"),
    *(
        "bleu:tok=char",
        "chrf:case=lc",
        "rougeLsum:sent=newline",
        "rouge1:tok=unicode",
        "f1:norm=mlqa",
        "exact_match:norm=mlqa",
    ),
]
IDENTICAL_IS = {
    "ter": 0,
    "novelty": 0,
    "copy_density": None,
}  # a text is one fragment of itself: as long as it has words


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_identical_text_is_perfect_in_every_language(name, identical):
    lang, text = identical
    if (lang == "th" and name == "ter") or (lang in ("ja", "th") and "mlqa" in name):
        with pytest.raises(MetricError):  # refused, not 0
            metrics.create(name, lang)
        return
    metric = metrics.create(name, lang)
    columns = {"sources": [text]} if getattr(metric, "needs", None) else {}
    score = metrics.score(metric, [text], [[text]], n_resamples=3, **columns)
    expected = IDENTICAL_IS.get(name, 100)
    assert score.value == pytest.approx(expected) if expected is not None else score.value > 3


@pytest.mark.parametrize(
    "name", ["rouge1:tok=jieba", "f1:norm=cmrc", "exact_match:norm=cmrc", "length_ratio:tok=jieba"]
)
def test_identical_chinese_is_perfect(name):
    text = "今天的天气非常好，我们去公园。"
    assert metrics.score(metrics.create(name, "zh"), [text], [[text]], n_resamples=3).value == pytest.approx(100)


@pytest.mark.parametrize("name", TEXT_METRICS)
@pytest.mark.parametrize("text", ["", " ", "\n", "?!", "。", "\u3000", "a\u2028b"])
def test_degenerate_predictions_are_scored(name, text):
    """No prediction is left out, whatever it is: as many rows as there are, and a number for each."""
    metric = metrics.create(name, "en")
    columns = {"sources": ["a source", "a source"]} if getattr(metric, "needs", None) else {}
    score = metrics.score(metric, [text, TEXT], [[TEXT], [TEXT]], n_resamples=5, **columns)
    assert score.n == 2
    assert np.isfinite(score.value)


def test_bootstrap_covers_the_mean_of_a_coin():
    """95% of intervals hold the true value, give or take."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        stats = base.mean_statistics(rng.random(200) < 0.6)
        low, high = bootstrap.percentile_interval(base.mean_aggregate(bootstrap.resampled_sums(stats, 200, seed)))
        covered += low <= 60 <= high
    assert 88 <= covered <= 100


def test_chunks_change_nothing(monkeypatch):
    stats = base.mean_statistics(np.arange(50) / 50)
    whole = bootstrap.resampled_sums(stats, 100, 1)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 130)
    # The matrix product may add in another order in another shape.
    np.testing.assert_allclose(bootstrap.resampled_sums(stats, 100, 1), whole, rtol=1e-12)


def test_resamples_must_be_positive():
    with pytest.raises(MetricError, match="n_resamples is 0"):
        bootstrap.resampled_sums(np.ones((2, 2)), 0, 1)


def test_counts():
    rows = [
        {"prediction": "a", "finish": "stop"},
        {"prediction": " \n", "finish": "length"},
        {"prediction": "A", "finish": "choice"},
    ]
    assert metrics.count(rows) == {"rows": 3, "empty": 1, "truncated": 1, "unparsable": 0, "shortened": 0}
    assert metrics.count(rows, labels=["a"]) == {"rows": 3, "empty": 1, "truncated": 1, "unparsable": 2, "shortened": 0}
    assert metrics.count([]) == {"rows": 0, "empty": 0, "truncated": 0, "unparsable": 0, "shortened": 0}
    assert metrics.count([{"prediction": "a", "shortened": True, "answer_cut": True}])["answer_cut"] == 1


def test_failures_of_a_task_are_counted_by_name() -> None:
    rows = [
        {"prediction": "a", "finish": "stop", **extra} for extra in ({}, {"failure": "copied"}, {"failure": "copied"})
    ]
    assert metrics.count(rows)["copied"] == 2


def test_public_names_are_sorted_and_exist():
    assert metrics.__all__ == sorted(metrics.__all__)
    assert all(hasattr(metrics, name) for name in metrics.__all__)


def test_importing_needs_neither_torch_nor_the_scorers():
    code = (
        "import sys, llama_tasks.metrics, llama_tasks.significance; "
        "print([name for name in ('torch', 'transformers', 'sacrebleu', 'nltk', 'sklearn', 'evaluate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
