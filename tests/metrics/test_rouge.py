"""ROUGE equals rouge_score's in English and is never zero for want of a tokenizer."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from llama_tasks import metrics
from llama_tasks.errors import MetricError

NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ROWS = [
    ("The cat sat on the mat. It was happy!", ["A cat was on the mat. The cat was happy."]),
    ("Police killed the gunman", ["The gunman was killed by police.", "Police kill the gunman."]),
    ("", ["Nothing to see here."]),
    ("?!", ["Nothing to see here."]),
    ("word", ["word"]),
    ("the the the", ["the"]),
]


def value(name, lang, prediction, *references):
    return metrics.score(metrics.create(name, lang), [prediction], [references], n_resamples=2).value


@pytest.mark.parametrize("name", NAMES)
def test_equals_rouge_score(name):
    scorer = RougeScorer([name])

    def lines(text):
        return text.replace(". ", ".\n")

    expected = [
        max(scorer.score(lines(reference), lines(prediction))[name].fmeasure for reference in references)
        for prediction, references in ROWS
    ]
    metric = metrics.create(name, "en")
    stats = metric.statistics([row[0] for row in ROWS], [row[1] for row in ROWS])
    assert stats[:, 0].tolist() == expected
    assert metric.aggregate(stats.sum(0)) == pytest.approx(100 * sum(expected) / len(ROWS))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stem", ["yes", "no"])
def test_stemmer_and_lines_equal_rouge_score_on_random_texts(name, stem):
    """With several references by `score_multi`; texts that have lines are split there, and nowhere else."""
    rng = random.Random(0)
    pieces = [
        "running",
        "runs",
        "ran",
        "cats",
        "cat",
        "the",
        "Mr. Fox",
        "U.S. policies",
        "3.5",
        "é",
        "\n",
        "\n",
        ".",
        "generous",
    ]
    scorer = RougeScorer([name], use_stemmer=stem == "yes")
    metric = metrics.create(f"{name}:stem={stem}", "en")
    for _ in range(100):
        texts = [" ".join(rng.choices(pieces, k=rng.randrange(12))) + "\nlast" for _ in range(3)]
        expected = scorer.score_multi(texts[1:], texts[0])[name].fmeasure
        assert metric.statistics(texts[:1], [texts[1:]])[0, 0] == pytest.approx(expected, abs=1e-12), texts


def test_lines_alone_by_name():
    plain = RougeScorer(["rougeLsum"]).score("He came. She left.", "She left. He came.")["rougeLsum"].fmeasure
    assert value("rougeLsum:sent=newline", "en", "She left. He came.", "He came. She left.") == 100 * plain == 50


@pytest.mark.parametrize(("name", "lang"), [("rouge1:stem=yes", "de"), ("rouge1:stem=yes:tok=unicode", "en")])
def test_the_stemmer_is_english(name, lang):
    with pytest.raises(MetricError, match="the stemmer is for English"):
        metrics.create(name, lang)


def test_chinese_by_words():
    found = value("rouge1:tok=jieba", "zh", "我爱北京大学！", "北京大学在北京")
    assert found == pytest.approx(100 * 2 * 1 / (3 + 3))  # 我 爱 北京大学, 北京大学 在 北京
    assert value("rouge1", "zh", "我爱北京大学！", "北京大学在北京") == pytest.approx(100 * 2 * 4 / (6 + 7))
    assert "tok:jieba-rjieba-" in metrics.create("rouge1:tok=jieba", "zh").signature


@pytest.mark.parametrize("name", NAMES)
def test_identical_text_is_100(name, identical):
    lang, text = identical
    assert value(name, lang, text, text) == 100


@pytest.mark.parametrize(
    ("name", "lang", "prediction", "reference", "expected"),
    [
        ("rouge1", "zh", "今天天气好", "今天天气不错", 800 / 11),  # 4 of 5 and of 6 characters
        ("rouge2", "zh", "今天天气好", "今天天气不错", 600 / 9),
        ("rougeL", "zh", "ABC公司亏损", "abc公司", 600 / 8),  # abc 公 司 are three of five
        ("rouge1", "zh", "亏损2023年裁员100人", "公司2023年收入100万元", 100 * 2 * 3 / 17),  # 2023 年 100 of 8 and 9
        ("rouge1", "de", "Über allem", "über Allen", 50.0),
        ("rouge1", "hi", "हिन्दी भाषा", "हिन्दी", 200 / 3),
        ("rouge1", "ru", "Привет, мир!", "привет мир", 100.0),
        ("rouge1", "en", "café", "caf", 100.0),  # the field's English tokenizer drops é
        ("rouge1", "en", "...", "!!!", 0.0),
        ("rouge1", "en", "", "", 0.0),
        ("rougeLsum", "zh", "乙说了。甲来了。", "甲来了。乙说了。", 100.0),  # order of sentences does not matter
        ("rougeL", "zh", "乙说了。甲来了。", "甲来了。乙说了。", 50.0),
        ("rougeLsum", "en", "She left. He came.", "He came. She left.", 100.0),
    ],
)
def test_golden(name, lang, prediction, reference, expected):
    assert value(name, lang, prediction, reference) == pytest.approx(expected)


def test_best_reference_counts():
    assert value("rouge1", "en", "b", "a", "b", "c") == 100


@pytest.mark.parametrize("reference", ["今天天气很好", "公司2023年收入100万元", "Привет"])
def test_english_refuses_other_scripts(reference):
    with pytest.raises(MetricError, match=r"1 of 2 rows \(the first is row 1\).*set `lang:`"):
        metrics.create("rouge1", "en").statistics(["fine", "x"], [["fine"], [reference]])


def test_signature_names_tokenizer_and_stemmer():
    assert metrics.create("rougeL", "en").signature.startswith(
        "stemmer:no|tok:rouge_score|agg:mean|version:rouge_score-"
    )
    assert "tok:unicode|sent:rule" in metrics.create("rougeLsum", "zh").signature
