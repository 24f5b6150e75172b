"""BLEU and chrF equal sacrebleu's, its signature too."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from llama_tasks import metrics
from llama_tasks.errors import MetricError

EN = [
    ("The cat sat on the mat.", ["The cat is on the mat.", "There is a cat on the mat."]),
    ("It rained for 3,5 hours (again)!", ["It rained 3,5 hours again."]),
    ("", ["Nothing was said about it."]),
    ("hello", ["hello"]),
    ("...", ["What is this?", "...", ""]),
    ("a much longer answer than the reference asked for, by far", ["a short answer"]),
]
ZH = [
    ("今天的天气非常好，我们去公园。", ["今天天气很好，我们去公园吧。"]),
    ("公司2023年收入100万元", ["该公司2023年的收入为100万元。", "公司在2023年收入100万。"]),
    ("", ["没有答案"]),
    ("。", ["你好，世界！"]),
]
JA = [("今日はとてもいい天気です。", ["今日はいい天気ですね。"]), ("東京へ行きます", ["東京に行きます"])]
HI = [("आज मौसम बहुत अच्छा है।", ["आज का मौसम अच्छा है।"]), ("मैं दिल्ली जा रहा हूँ", ["मैं दिल्ली जाता हूँ"])]


def columns(rows):
    return [prediction for prediction, _ in rows], [references for _, references in rows]


def streams(references):
    """sacrebleu's shape: one list a reference, filled up with None."""
    width = max(map(len, references))
    return [[row[i] if i < len(row) else None for row in references] for i in range(width)]


@pytest.mark.parametrize(
    ("rows", "lang", "tokenizer"),
    [
        (EN, "en", "13a"),
        (ZH, "zh", "zh"),
        (ZH, "zh-CN", "zh"),
        (HI, "hi", "13a"),
        (JA, "th", "char"),
        (EN[:1], "de", "13a"),
    ],
)
def test_bleu_equals_sacrebleu(rows, lang, tokenizer):
    predictions, references = columns(rows)
    metric = metrics.create("bleu", lang)
    expected = sacrebleu.corpus_bleu(predictions, streams(references), tokenize=tokenizer)
    stats = metric.statistics(predictions, references)
    assert stats.shape == (len(rows), 10)
    assert metric.aggregate(stats.sum(0)) == pytest.approx(expected.score, abs=1e-9)


@pytest.mark.parametrize("name", ["chrf", "chrf++"])
@pytest.mark.parametrize("rows", [EN, ZH, JA, HI])
def test_chrf_equals_sacrebleu(name, rows):
    predictions, references = columns(rows)
    metric = metrics.create(name, "en")
    expected = sacrebleu.corpus_chrf(predictions, streams(references), word_order=2 if name == "chrf++" else 0)
    assert metric.aggregate(metric.statistics(predictions, references).sum(0)) == pytest.approx(
        expected.score, abs=1e-9
    )


@pytest.mark.parametrize(("name", "scorer"), [("bleu", BLEU()), ("chrf", CHRF())])
def test_each_resample_equals_sacrebleu(name, scorer):
    metric = metrics.create(name, "en")
    stats = metric.statistics(*columns(EN))
    sums = np.random.default_rng(0).integers(3, size=(200, len(EN))) @ stats
    expected = [scorer._compute_score_from_stats(list(row)).score for row in sums]
    np.testing.assert_allclose(metric.aggregate(sums), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "scorer"), [("bleu", BLEU()), ("chrf", CHRF()), ("chrf++", CHRF(word_order=2))])
@pytest.mark.parametrize("rows", [EN, EN[3:4], [("a b", ["a b", "c"]), ("d", ["d", "e f"])]])
def test_signature_is_sacrebleus(name, scorer, rows, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    predictions, references = columns(rows)
    scorer.corpus_score(predictions, streams(references), n_bootstrap=10)
    score = metrics.score(metrics.create(name, "en"), predictions, references, n_resamples=10, seed=7)
    assert score.signature == str(scorer.get_signature())


@pytest.mark.parametrize("name", ["bleu", "chrf", "chrf++"])
def test_identical_text_is_100(name, identical):
    lang, text = identical
    score = metrics.score(metrics.create(name, lang), [text], [[text]], n_resamples=5)
    assert score.value == pytest.approx(100)
    assert score.interval == pytest.approx((100, 100))


@pytest.mark.parametrize(
    ("prediction", "reference", "bleu", "chrf"),
    [
        ("", "", 0.0, 0.0),
        ("", "a b c d", 0.0, 0.0),
        ("a b c d", "", 0.0, 0.0),
        ("?!", "a b c d", 0.0, 0.0),
        ("hello", "hello", 0.0, 100.0),  # fewer than four tokens: BLEU has no 4-grams to count
        # by hand: BLEU (1/5 * 1/8 * 1/12 * 1/16) ** (1/4); chrF F2 of precision 0.08107 and recall 0.21944
        ("the the the the the", "the cat", 10.6822, 16.3600),
    ],
)
def test_degenerate(prediction, reference, bleu, chrf):
    for name, expected in (("bleu", bleu), ("chrf", chrf)):
        score = metrics.score(metrics.create(name, "en"), [prediction], [[reference]], n_resamples=5)
        assert score.value == pytest.approx(expected, abs=1e-3)


def test_a_space_tokenizer_refuses_chinese():
    with pytest.raises(MetricError, match=r"set `lang:`"):
        metrics.create("bleu", "en").statistics(*columns(ZH))


def test_japanese_and_korean_fall_back_to_characters_openly():
    for lang in ("ja", "ko"):
        signature = metrics.create("bleu", lang).signature
        assert "tok:char" in signature or "tok:ja-mecab" in signature or "tok:ko-mecab" in signature
