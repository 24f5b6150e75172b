"""Words, sentences and scripts."""

from __future__ import annotations

import pytest

from llama_tasks.metrics.text import base_language, mostly, split_sentences, unspaced, words


@pytest.mark.parametrize(
    ("lang", "expected"),
    [
        ("en", "en"),
        ("EN-us", "en"),
        ("zh_Hans", "zh"),
        ("zho_Hant", "zh"),
        ("yue", "zh"),
        ("jpn_Jpan", "ja"),
        ("fil", "fil"),
    ],
)
def test_base_language(lang, expected):
    assert base_language(lang) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Über 3,5 km", ["über", "3", "5", "km"]),
        ("GDP增长5.2%", ["gdp", "增", "长", "5", "2"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("مَرْحَبًا بك", ["مَرْحَبًا", "بك"]),
        ("コーヒー・カップ", ["コ", "ー", "ヒ", "ー", "カ", "ッ", "プ"]),
        ("안녕 세계", ["안녕", "세계"]),
        ("don't", ["don", "t"]),
        ("Donau\u00addampf", ["donaudampf"]),  # soft hyphen
        ("می\u200cخواهم", ["میخواهم"]),  # zero-width non-joiner
        ("\u200fشكرا\u200e \ufeffbon\u200bjour", ["شكرا", "bon", "jour"]),  # only the zero-width space parts
        ("，。！ \n", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他来了。她说：“好！”然后走了；完", "他来了。\n她说：“好！”\n然后走了；\n完"),
        ("It is 3.5 km. Really? Yes!", "It is 3.5 km.\nReally?\nYes!"),
        ('He said "no." Then left.', 'He said "no."\nThen left.'),
        ("आज अच्छा है। कल नहीं।", "आज अच्छा है।\nकल नहीं।"),
        ("two\nlines", "two\nlines"),
        ("It has lines. Really.\nSo it is split.", "It has lines. Really.\nSo it is split."),
        (
            "U.S. troops left. Dr. J. Smith of Acme Inc. in Rome, e.g. he, stayed.",
            "U.S. troops left.\nDr. J. Smith of Acme Inc. in Rome, e.g. he, stayed.",
        ),
        (
            "He works for Acme Inc. She does not. It is 5 p.m. We go.",
            "He works for Acme Inc.\nShe does not.\nIt is 5 p.m.\nWe go.",
        ),
        ("so am I. they left . she came .", "so am I.\nthey left .\nshe came ."),
        ("", ""),
    ],
)
def test_split_sentences(text, expected):
    assert split_sentences(text) == expected


def test_mostly():
    assert mostly(["公司2023GDP", "增长"], unspaced)
    assert not mostly(["2023!"], unspaced)
    assert not mostly(["ab中文"], unspaced)
