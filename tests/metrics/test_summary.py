"""Length, novelty and copying: by hand, and equal to the definitions written down another way."""

from __future__ import annotations

import random

import pytest

from llama_tasks import metrics
from llama_tasks.errors import MetricError
from llama_tasks.metrics.summary import fragments

SOURCE = "the old man and the sea is a short novel about an old man"


def value(name, prediction, source=SOURCE, lang="en", references=("x",)):
    columns = {"sources": [source]} if getattr(metrics.create(name, lang), "needs", None) else {}
    return metrics.score(metrics.create(name, lang), [prediction], [list(references)], n_resamples=2, **columns).value


def greedy(summary, source):
    """The fragments by the words of Grusky et al.: at each place of the summary, the first longest match in the source,
    looking on behind each match."""
    found, i = [], 0
    while i < len(summary):
        best, j = 0, 0
        while j < len(source):
            if summary[i] != source[j]:
                j += 1
                continue
            k = 1
            while i + k < len(summary) and j + k < len(source) and summary[i + k] == source[j + k]:
                k += 1
            best, j = max(best, k), j + k
        found += [best] if best else []
        i += max(best, 1)
    return found


def test_fragments_equal_the_procedure():
    rng = random.Random(0)
    for _ in range(500):
        summary, source = (rng.choices("abcd", k=rng.randrange(size)) for size in (8, 16))
        assert fragments(summary, source) == greedy(summary, source)


def test_the_search_goes_on_behind_a_run_that_was_tried():
    assert fragments(list("aab"), list("aaab")) == [2, 1]  # the whole is there, from the second letter on


@pytest.mark.parametrize(
    ("name", "prediction", "expected"),
    [
        ("copy_rate", "a short novel of the sea", 100 * 5 / 6),
        ("copy_density", "a short novel of the sea", (9 + 4) / 6),
        ("copy_rate", "A short NOVEL!", 100),
        ("copy_density", "A short NOVEL!", 3),
        ("copy_rate", "unrelated", 0),
        ("copy_rate", "", 0),
        ("copy_density", "?!", 0),
        ("novelty", "a short novel of the sea", 40),  # novel of, of the: two of five
        ("novelty:n=1", "a short novel of the sea", 100 / 6),
        ("novelty:n=3", "a short novel of the sea", 75),
        ("novelty:n=1", "new new old", 50),  # different n-grams are counted
        ("novelty", "old", 0),
        ("novelty", "", 0),
    ],
)
def test_golden(name, prediction, expected):
    assert value(name, prediction) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("one two three", ["a b c d"], 75),
        ("one two three", ["a", "a b"], 150),
        ("one two three", ["a b", "a b c d"], 150),  # as near: the shorter
        ("", ["a b"], 0),
        ("今天天气", ["今天天气很好呀"], 100 * 4 / 7),
    ],
)
def test_length_ratio(prediction, references, expected):
    assert value("length_ratio", prediction, references=references, lang="zh") == pytest.approx(expected)


def test_lengths_are_those_of_all_rows_together():
    score = metrics.score(metrics.create("length_ratio", "en"), ["a", "a b c d"], [["a b"], ["a b"]], n_resamples=5)
    assert score.value == pytest.approx(125)


def test_chinese_by_character_and_by_word():
    source = "北京大学的学生去公园"
    assert value("copy_density", "北京大学", source, "zh") == 4
    assert value("copy_density:tok=jieba", "北京大学", source, "zh") == 1
    assert "tok:jieba-rjieba-" in metrics.create("novelty:tok=jieba", "zh").signature


def test_refusals():
    with pytest.raises(MetricError, match="novelty needs the texts that were summarised.*give `sources`"):
        metrics.score(metrics.create("novelty", "en"), ["a"], [["a"]])
    for source in (" . ", "", None, 3):
        with pytest.raises(MetricError, match="the source of row 0 is not a text with words"):
            value("novelty", "a", source)
    for sources in (["a", "b"], "a"):
        with pytest.raises(MetricError, match="1 predictions need a list of as many sources"):
            metrics.score(metrics.create("novelty", "en"), ["a"], [["a"]], sources=sources)
    with pytest.raises(MetricError, match="none of the 1 rows has what this metric is computed from"):
        value("length_ratio", "a", references=["?"])
    with pytest.raises(MetricError, match="jieba cuts Chinese only"):
        metrics.create("length_ratio:tok=jieba", "ja")
