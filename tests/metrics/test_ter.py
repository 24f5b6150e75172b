"""TER equals sacrebleu's, its signature too."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics.ter import TER

from llama_tasks import metrics
from llama_tasks.errors import MetricError

EN = [
    ("the cat on the mat sat", ["The cat sat on the mat .", "on the mat sat a cat ."]),
    ("it rained", ["It rained for three hours , again !"]),
    ("", ["nothing was said"]),
    ("something", [""]),
    ("", [""]),
    ("same words here", ["same words here", "others"]),
]
ZH = [("今天的天气很好，我们去公园。", ["今天天气非常好，我们去公园吧。"]), ("ABC公司", ["公司 ABC"]), ("。", ["你好"])]
JA = [("今日はいい天気です。", ["今日はとてもいい天気ですね。"])]


def sacrebleus(rows, **options):
    predictions, references = [row[0] for row in rows], [row[1] for row in rows]
    width = max(map(len, references))
    streams = [[row[i] if i < len(row) else None for row in references] for i in range(width)]
    scorer = TER(**options)
    return scorer, scorer.corpus_score(predictions, streams, n_bootstrap=10)


def ours(name, lang, rows):
    return metrics.score(metrics.create(name, lang), [row[0] for row in rows], [row[1] for row in rows], n_resamples=10)


@pytest.mark.parametrize(
    ("name", "lang", "rows", "options"),
    [
        ("ter", "en", EN, {}),
        ("ter", "de", EN, {}),
        ("ter:norm=yes", "en", EN, {"normalized": True}),
        ("ter:punct=no:case=mixed", "en", EN, {"no_punct": True, "case_sensitive": True}),
        ("ter", "zh", ZH, {"normalized": True, "asian_support": True}),
        ("ter:punct=no", "zh-CN", ZH, {"normalized": True, "asian_support": True, "no_punct": True}),
        ("ter", "ja", JA, {"normalized": True, "asian_support": True}),
    ],
)
def test_equals_sacrebleu(name, lang, rows, options, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    scorer, expected = sacrebleus(rows, **options)
    score = ours(name, lang, rows)
    assert score.value == pytest.approx(expected.score, abs=1e-9)
    assert score.signature == str(scorer.get_signature())


def test_each_resample_equals_sacrebleu():
    metric = metrics.create("ter", "en")
    stats = metric.statistics([row[0] for row in EN], [row[1] for row in EN])
    sums = np.random.default_rng(0).integers(3, size=(100, len(EN))) @ stats
    expected = [TER()._compute_score_from_stats(list(row)).score for row in sums]
    np.testing.assert_allclose(metric.aggregate(sums), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("", "", 0),
        ("", "a b", 100),
        ("a b", "", 100),
        ("c a b", "a b c", 100 / 3),
        ("a b c d", "x", 400),
        ("?!", "?!", 0),
    ],
)
def test_golden(prediction, reference, expected):
    assert ours("ter", "en", [(prediction, [reference])]).value == pytest.approx(expected)


def test_identical_text_is_0(identical):
    lang, text = identical
    if lang != "th":
        assert ours("ter", lang, [(text, [text])]).value == 0


@pytest.mark.parametrize("lang", ["th", "km", "lo", "my"])
def test_scripts_that_tercom_cannot_cut_are_refused(lang):
    with pytest.raises(MetricError, match="cannot cut.*chrf"):
        metrics.create("ter", lang)


@pytest.mark.parametrize(("name", "lang"), [("ter", "en"), ("ter:asian=no", "zh"), ("ter:norm=no", "zh")])
def test_uncut_chinese_is_refused(name, lang):
    with pytest.raises(MetricError, match="set `lang:`"):
        ours(name, lang, ZH)
