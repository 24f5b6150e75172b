"""Exact match and F1 equal the official scripts, re-stated here independently."""

from __future__ import annotations

import random
import re
import string
import unicodedata
from collections import Counter

import pytest

from llama_tasks import metrics
from llama_tasks.errors import MetricError


def value(name, lang, prediction, references):
    return metrics.score(metrics.create(name, lang), [prediction], [references], n_resamples=2).value


def squad2(prediction, golds):
    """(EM, F1) by the rules of evaluate-v2.0.py."""

    def normal(text):
        text = text.lower().translate({ord(char): None for char in string.punctuation})
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def f1(gold):
        gold_tokens, tokens = normal(gold).split(), normal(prediction).split()
        if not gold_tokens or not tokens:
            return int(gold_tokens == tokens)
        same = sum(min(tokens.count(word), gold_tokens.count(word)) for word in set(tokens))
        if same == 0:
            return 0
        precision, recall = same / len(tokens), same / len(gold_tokens)
        return 2 * precision * recall / (precision + recall)

    golds = [gold for gold in golds if normal(gold)] or [""]
    return max(int(normal(gold) == normal(prediction)) for gold in golds), max(map(f1, golds))


def mlqa_f1(prediction, gold, lang):
    """F1 by the rules of mlqa_evaluation_v1.py, for two answers that are not empty."""
    articles = {
        "de": ["ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den", "dem", "des"],
        "es": ["un", "una", "unos", "unas", "el", "la", "los", "las"],
        "vi": ["của", "là", "cái", "chiếc", "những"],
    }

    def tokens(text):
        text = "".join(
            char for char in text.lower() if not (unicodedata.category(char)[0] == "P" or char in string.punctuation)
        )
        if lang in articles:
            text = re.sub(r"\b(" + "|".join(articles[lang]) + r")\b", " ", text)
        if lang == "ar":
            text = text.replace("ال", " ")
        if lang == "zh":
            text = re.sub(r"([\u4e00-\u9fa5])", r" \1 ", text)
        return text.split()

    found, wanted = tokens(prediction), tokens(gold)
    same = sum((Counter(found) & Counter(wanted)).values())
    return 0 if same == 0 else 2 * same / (len(found) + len(wanted))


def test_equals_squad2_on_random_answers():
    rng = random.Random(0)
    pieces = ["the", "A", "an", "Paris", "paris,", "U.S.", "'", "-", "in", "1,000", "é", "  ", "“x”", "."]
    exact, f1 = metrics.create("exact_match", "en"), metrics.create("f1", "en")
    for _ in range(500):
        prediction, *golds = (" ".join(rng.choices(pieces, k=rng.randrange(5))) for _ in range(rng.randrange(1, 4)))
        expected = squad2(prediction, golds)
        assert exact.statistics([prediction], [golds])[0, 0] == expected[0], (prediction, golds)
        assert f1.statistics([prediction], [golds])[0, 0] == pytest.approx(expected[1]), (prediction, golds)


@pytest.mark.parametrize(
    ("lang", "prediction", "gold"),
    [
        ("zh", "《红楼梦》共120回", "红楼梦，120 回。"),
        ("zh", "GDP 增长5.2%", "gdp增长了5.2％"),
        ("de", "Der Großteil einer schönen Stadt", "eine schöne Stadt"),
        ("de", "eines Tages", "einen Tag, eines Tages"),
        ("es", "unas casas de la ciudad", "las casas"),
        ("vi", "những con mèo của tôi", "con mèo là tôi"),
        ("ar", "الكتاب في المدرسة", "كتاب، المدرسة"),
        ("hi", "दिल्ली में।", "दिल्ली"),
    ],
)
def test_equals_mlqa(lang, prediction, gold):
    expected = mlqa_f1(prediction, gold, lang)
    assert expected > 0
    assert value("f1", lang, prediction, [gold]) == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("lang", "prediction", "references", "exact", "f1"),
    [
        ("en", "the Eiffel Tower!", ["Eiffel tower"], 100, 100),
        ("en", "Eiffel", ["Eiffel tower", "Louvre"], 0, 200 / 3),
        ("en", "", [], 100, 100),  # unanswerable, and so answered
        ("en", "", [""], 100, 100),
        ("en", "The.", [""], 100, 100),  # nothing after normalisation
        ("en", "Paris", [], 0, 0),
        ("en", "", ["Paris"], 0, 0),
        ("en", "?!", ["Paris"], 0, 0),
        ("en", "", ["Paris", ""], 0, 0),  # SQuAD 2 drops empty answers beside real ones
        ("zh", "北京大学。", ["《北京 大学》"], 100, 100),
        ("zh", "北京", ["北京大学"], 0, 200 / 3),
        ("zh", "2023年", ["2023"], 0, 200 / 3),
        ("zh", "的", ["的"], 100, 100),
        ("ja", "東京タワー", ["東京"], 0, 400 / 7),
        ("ru", "в Москве", ["Москве"], 0, 200 / 3),
        ("zh", "", [], 100, 100),
    ],
)
def test_golden(lang, prediction, references, exact, f1):
    assert value("exact_match", lang, prediction, references) == pytest.approx(exact)
    assert value("f1", lang, prediction, references) == pytest.approx(f1)


@pytest.mark.parametrize("name", ["exact_match", "f1"])
def test_identical_text_is_100(name, identical):
    lang, text = identical
    assert value(name, lang, text, [text]) == 100


def test_english_rules_refuse_chinese_answers():
    with pytest.raises(MetricError, match="set `lang:`"):
        metrics.create("f1", "en").statistics(["北京"], [["北京大学"]])


def test_signature():
    assert metrics.create("f1", "en").signature == "norm:squad|articles:en|noanswer:squad2|agg:mean"
    assert metrics.create("f1", "zh").signature == "norm:mlqa|articles:no|noanswer:squad2|agg:mean"
