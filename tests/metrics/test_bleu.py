"""BLEU and chrF equal sacrebleu's, its signature too."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

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


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "char", "none", "zh"])
@pytest.mark.parametrize("case", ["mixed", "lc"])
def test_tokenizers_by_name(tokenizer, case):
    predictions, references = columns(EN)
    metric = metrics.create(f"bleu:tok={tokenizer}:case={case}", "en")
    expected = sacrebleu.corpus_bleu(predictions, streams(references), tokenize=tokenizer, lowercase=case == "lc")
    assert metric.aggregate(metric.statistics(predictions, references).sum(0)) == pytest.approx(
        expected.score, abs=1e-9
    )
    assert f"case:{case}" in metric.signature and f"tok:{tokenizer}" in metric.signature


def test_a_tokenizer_that_is_not_there_is_refused(monkeypatch):
    """A download that cannot happen: the folder for models lies in a file."""
    from sacrebleu.tokenizers import tokenizer_spm

    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", __file__)
    with pytest.raises(MetricError, match="the download failed"):
        metrics.create("bleu:tok=flores200", "en")


def test_mecab_by_name_is_there_or_refused():
    if importlib.util.find_spec("MeCab"):
        assert "tok:ja-mecab" in metrics.create("bleu:tok=ja-mecab", "ja").signature
    else:
        with pytest.raises(MetricError, match=r'pip install "llama-tasks\[ja-ko\]"'):
            metrics.create("bleu:tok=ja-mecab", "ja")


def test_equals_sacrebleus_command(tmp_path):
    rows = [(prediction or "x", references[0]) for prediction, references in EN]
    for name, place in (("hyp", 0), ("ref", 1)):
        (tmp_path / name).write_text("".join(f"{row[place]}\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf", "ter", "-w", "9"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    texts = [row[0] for row in rows], [[row[1]] for row in rows]
    for found in json.loads(done.stdout):
        name = {"chrF2": "chrf"}.get(found["name"], found["name"].lower())
        score = metrics.score(metrics.create(name, "en"), *texts, n_resamples=2)
        assert score.value == pytest.approx(found["score"], abs=1e-6)
        assert score.signature == found["signature"].replace("nrefs:1|", "nrefs:1|bs:2|seed:12345|")


@pytest.mark.parametrize("name", ["chrf", "chrf++", "chrf:case=lc"])
@pytest.mark.parametrize("rows", [EN, ZH, JA, HI])
def test_chrf_equals_sacrebleu(name, rows):
    predictions, references = columns(rows)
    metric = metrics.create(name, "en")
    scorer = CHRF(word_order=2 if name == "chrf++" else 0, lowercase=name.endswith("lc"))
    expected = scorer.corpus_score(predictions, streams(references))
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
