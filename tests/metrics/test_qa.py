"""Exact match and F1 equal the official scripts, re-stated here independently."""

from __future__ import annotations

import random
import re
import string
import unicodedata
from collections import Counter

import pytest
from nltk.tokenize import word_tokenize

from llama_tasks import metrics
from llama_tasks.errors import MetricError
from llama_tasks.metrics import normalise


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
        "en": ["a", "an", "the"],
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


def squad1(prediction, golds):
    """(EM, F1) by the rules of evaluate-v1.1.py: no answer is left out, and two empty ones share nothing."""

    def words(text):
        kept = "".join(char for char in text.lower() if char not in set(string.punctuation))
        return [word for word in re.split(r"\s+", re.sub(r"\b(a|an|the)\b", " ", kept)) if word]

    def f1(gold):
        left, same = words(gold), 0
        for word in words(prediction):
            if word in left:
                left.remove(word)
                same += 1
        if same == 0:
            return 0.0
        precision, recall = same / len(words(prediction)), same / len(words(gold))
        return 2 * precision * recall / (precision + recall)

    return float(any(words(gold) == words(prediction) for gold in golds)), max(f1(gold) for gold in golds)


def cmrc(prediction, golds):
    """(EM, F1) by the rules of cmrc2018_evaluate.py, in Python 3."""
    dropped = ["-", ":", "_", "*", "^", "/", "\\", "~", "`", "+", "="]
    dropped += ["，", "。", "：", "？", "！", "“", "”", "；", "’", "《", "》", "·", "、"]
    dropped += ["「", "」", "（", "）", "－", "～", "『", "』"]

    def bare(text):
        for char in dropped:
            text = text.replace(char, "")
        return text

    def tokens(text):
        found, other = [], ""
        for char in [*bare(text.lower().strip()), None]:
            if char is not None and not "\u4e00" <= char <= "\u9fa5":
                other += char
                continue
            found += word_tokenize(other, preserve_line=True) if other else []
            found += [char] if char else []
            other = ""
        return found

    def f1(gold):
        a, b = tokens(gold), tokens(prediction)
        runs = [
            n
            for n in range(len(a) + 1)
            for i in range(len(a) - n + 1)
            for j in range(len(b))
            if a[i : i + n] == b[j : j + n]
        ]
        longest = max(runs, default=0)
        if not longest:
            return 0
        precision, recall = longest / len(b), longest / len(a)
        return 2 * precision * recall / (precision + recall)

    exact = any(bare(gold.lower().strip()) == bare(prediction.lower().strip()) for gold in golds)
    return float(exact), max(f1(gold) for gold in golds)


def drawn(seed, pieces, references):
    """500 random predictions with their references."""
    rng = random.Random(seed)
    for _ in range(500):
        prediction, *golds = (
            "".join(rng.choices(pieces, k=rng.randrange(6))) for _ in range(rng.choice(references) + 1)
        )
        yield prediction, golds


ENGLISH = ["the ", "A ", " an", "Paris", " paris,", "U.S.", "'", "-", " in ", "1,000", "é", "  ", "“x”", ".", "theatre"]
ENGLISH += ["\t", "\u3000"]
CHINESE = [
    "北京",
    "大学",
    "是",
    "，",
    "。",
    "《",
    "》",
    "…",
    "—",
    "GDP",
    " iPhone 4s",
    "5.2%",
    "1,000",
    "-",
    "don't",
    '"x"',
]
CHINESE += [" ", "〇", "龥龦", "カ"]


@pytest.mark.parametrize(
    ("norm", "lang", "expected", "pieces"),
    [("squad1", "en", squad1, ENGLISH), ("squad2", "en", squad2, ENGLISH), ("cmrc", "zh", cmrc, CHINESE)],
)
def test_equals_the_official_script_on_random_answers(norm, lang, expected, pieces):
    exact, f1 = (metrics.create(f"{name}:norm={norm}", lang) for name in ("exact_match", "f1"))
    for prediction, golds in drawn(0, pieces, references=[1, 1, 2, 3] if norm != "squad2" else [0, 1, 2, 3]):
        if lang == "en" and not any(char.isascii() for gold in golds for char in gold):
            continue
        found = exact.statistics([prediction], [golds])[0, 0], f1.statistics([prediction], [golds])[0, 0]
        assert found == pytest.approx(expected(prediction, golds), abs=1e-9), (prediction, golds)


@pytest.mark.parametrize("lang", ["en", "de", "es", "vi", "hi", "ar", "zh"])
def test_mlqa_by_name_equals_the_official_script(lang):
    pieces = [
        "the ",
        " der",
        " einen ",
        "la ",
        " những ",
        "الكتاب ",
        "दिल्ली ",
        "北京",
        "カナ",
        "〇",
        "x",
        "？",
        "।",
        " ",
    ]
    f1 = metrics.create("f1:norm=mlqa", lang)
    for prediction, golds in drawn(1, pieces, references=[1, 2]):
        try:
            found = f1.statistics([prediction], [golds])[0, 0]
        except MetricError:
            assert lang != "zh"  # mostly Chinese, read by rules for words between spaces
            continue
        assert found == pytest.approx(max(mlqa_f1(prediction, gold, lang) for gold in golds), abs=1e-9)


@pytest.mark.parametrize(
    ("norm", "lang", "prediction", "references", "exact", "f1"),
    [
        ("squad1", "en", "", [""], 100, 0),  # equal, but no word is shared
        ("squad1", "en", "the", ["a."], 100, 0),
        ("squad1", "en", "", ["Paris", ""], 100, 0),
        ("squad2", "en", "the", ["a."], 100, 100),
        ("squad2", "en", "", ["Paris", ""], 0, 0),
        ("mlqa", "zh", "。", ["，"], 100, 0),
        ("mlqa", "de", "der", ["die"], 100, 0),
        ("cmrc", "zh", "。", ["，"], 100, 0),
        ("cmrc", "zh", "", [""], 100, 0),
        ("cmrc", "zh", "大学北京", ["北京大学"], 0, 50),  # the longest common run is two characters
        ("cmrc", "zh", "北京…", ["北京"], 0, 80),  # the list holds the ellipsis as a pair, which no character equals
        ("cmrc", "zh", "《红楼梦》", ["红楼梦。"], 100, 100),
        ("cmrc", "zh", "售价5.2%", ["5.2%"], 0, 200 / 3),  # 售 价 5.2 %
        ("cmrc", "zh", "北 京", ["北京"], 0, 100),
        ("cmrc", "zh", "Hello world. Bye", ["hello world"], 0, 200 / 3),  # hello world . bye
        ("cmrc", "zh", "J. K. 罗琳", ["罗琳"], 0, 400 / 7),  # j. k . 罗 琳
        ("squad1", "de", "Über the Fluss", ["über Fluss"], 100, 100),  # English rules, by name
    ],
)
def test_named_rules(norm, lang, prediction, references, exact, f1):
    assert value(f"exact_match:norm={norm}", lang, prediction, references) == pytest.approx(exact)
    assert value(f"f1:norm={norm}", lang, prediction, references) == pytest.approx(f1)


def test_parts_of_squad2():
    rows = ["Paris", "", "", "Rome city"], [["Paris"], [], ["Berlin"], ["Rome"]]

    def part(name):
        score = metrics.score(metrics.create(name, "en"), *rows, n_resamples=50)
        return score.value, score.n

    assert part("exact_match:rows=hasans") == (pytest.approx(100 / 3), 3)
    assert part("f1:norm=squad2:rows=hasans") == (pytest.approx(100 * (1 + 2 / 3) / 3), 3)
    assert part("f1:rows=noans") == (100, 1)
    assert part("f1") == (pytest.approx(100 * (2 + 2 / 3) / 4), 4)
    assert "rows:noans" in metrics.create("f1:rows=noans", "en").signature


def test_the_list_says_what_is_answerable():
    """evaluate-v2.0.py: has_ans = bool(answers), and golds that normalise to nothing are [""] together."""
    rows = ["", "", "x", ""], [[""], ["the", "?"], [""], []]
    for name in ("exact_match", "f1"):
        has = metrics.score(metrics.create(f"{name}:norm=squad2:rows=hasans", "en"), *rows, n_resamples=50)
        no = metrics.score(metrics.create(f"{name}:norm=squad2:rows=noans", "en"), *rows, n_resamples=50)
        assert (has.value, has.n, no.value, no.n) == (pytest.approx(200 / 3), 3, 100, 1)


def test_an_empty_part_is_said_and_not_0():
    with pytest.raises(metrics.NoRows, match="none of the 1 rows"):
        value("f1:rows=noans", "en", "Paris", ["Paris"])


@pytest.mark.parametrize(
    ("name", "lang"), [("f1:norm=mlqa", "ja"), ("f1:norm=cmrc", "en"), ("exact_match:norm=cmrc", "ja")]
)
def test_rules_of_other_languages_are_refused(name, lang):
    with pytest.raises(MetricError, match="is defined for"):
        metrics.create(name, lang)


@pytest.mark.parametrize("norm", ["squad1", "mlqa"])
def test_rules_without_unanswerable_rows_refuse_them(norm):
    with pytest.raises(MetricError, match="row 0 has no reference"):
        metrics.create(f"f1:norm={norm}", "en").statistics(["a"], [[]])


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


# As nltk 3.10's `word_tokenize` cuts them with its English sentence model; without the model ours must cut them so too: with
# abbreviations that the model knows (a.c, wis) and without those that it does not (mon, sgt, o.j).
CUT = [
    ("hello world. bye", "hello world . bye"),
    ("it's 4s. next, e-mail. end.", "it 's 4s . next , email . end ."),
    ("about 2018. then 5. 3 apples", "about 2018. then 5 . 3 apples"),
    ("at 3 p.m. in the u.s. by dr. w. smith, m.d.", "at 3 p.m. in the u.s. by dr. w. smith , m.d ."),
    ('wait... what? "yes. no." (ok. ) end.', "wait ... what ? `` yes . no . '' ( ok. ) end ."),
    ("ａｂ. ５. ｃｄ", "ａｂ . ５. ｃｄ"),
    ("é. 😀. naïve", "é . 😀 . naïve"),
    ("kg. \u3000next", "kg . next"),
    ("a.\nb. c", "a. b. c"),
    ("etc. however. and so on.", "etc . however . and so on ."),
    ("j. k. rowling. done", "j. k. rowling . done"),
    ("a.c. milan", "a.c. milan"),
    ("washington d.c. area", "washington d.c. area"),
    ("j.k. rowling", "j.k. rowling"),
    ("o.j. simpson", "o.j . simpson"),
    ("sgt. pepper", "sgt . pepper"),
    ("mon. morning in wis. and mass. too", "mon . morning in wis. and mass . too"),
    ("北京. 售价5.2%。", "北 京 . 售 价 5.2 %"),
]


@pytest.mark.parametrize(("text", "tokens"), CUT)
def test_cmrc_cuts_sentences_and_words_as_nltk_does(text, tokens):
    assert normalise.cmrc_tokens(text) == tokens.split()


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [("Milan", "A.C. Milan", 200 / 3), ("Rowling", "J.K. Rowling", 200 / 3), ("Pepper", "Sgt. Pepper", 50)],
)
def test_cmrc_f1_knows_the_abbreviations_of_the_official_script(prediction, gold, expected):
    assert value("f1:norm=cmrc", "zh", prediction, [gold]) == pytest.approx(expected)


HOSTILE = [
    "", " ", "\u3000", "\u00a0", "\u200b", "\x1c", "\n", "．", "？", "１２", "Ａｂ", "a", "é", "e\u0301", "🙂", "👩‍👩‍👧", "北",
    "京", "龥", "龦", "〇", "𠀀", "カ", "의", "0.5", "1,000", "-3", "U.S", "don't", "“", "”", "…", "——", "%", "$", "İ", "ß", "ﬁ",
    "the",
]  # fmt: skip


@pytest.mark.parametrize(
    ("norm", "lang", "expected"), [("squad1", "en", squad1), ("squad2", "en", squad2), ("cmrc", "zh", cmrc)]
)
def test_equals_the_official_script_on_hostile_answers(norm, lang, expected):
    exact, f1 = (metrics.create(f"{name}:norm={norm}", lang) for name in ("exact_match", "f1"))
    rows = [*drawn(7, HOSTILE, references=[1, 2, 4]), ("北" * 40, ["北" * 39 + "京"]), ("", [""]), ("。？", ["", "北"])]
    compared = 0
    for prediction, golds in rows:
        try:
            found = exact.statistics([prediction], [golds])[0, 0], f1.statistics([prediction], [golds])[0, 0]
        except MetricError:
            assert lang == "en"  # mostly unspaced, read by English rules
            continue
        assert found == pytest.approx(expected(prediction, golds), abs=1e-9), (prediction, golds)
        compared += 1
    assert compared > 100


def test_mlqa_equals_the_official_script_on_hostile_answers():
    exact, f1 = (metrics.create(f"{name}:norm=mlqa", "zh") for name in ("exact_match", "f1"))
    for prediction, golds in drawn(8, HOSTILE, references=[1, 2, 4]):
        found = f1.statistics([prediction], [golds])[0, 0]
        assert found == pytest.approx(max(mlqa_f1(prediction, gold, "zh") for gold in golds), abs=1e-9)
        same = any(normalise.mlqa_tokens(gold, "zh") == normalise.mlqa_tokens(prediction, "zh") for gold in golds)
        assert exact.statistics([prediction], [golds])[0, 0] == same
