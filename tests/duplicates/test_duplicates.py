"""Groups of exact and near duplicates: what joins, what does not, in English and Chinese."""

from __future__ import annotations

import random
import time

import pytest

from llama_tasks.duplicates import near_duplicate_groups, normalised

EN = "The committee met on Tuesday to discuss the budget for the new library in the old town hall."
ZH = "委员会星期二在旧市政厅开会，讨论新图书馆的预算和开放时间，并决定下个月再次开会。"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], []),
        ([""], [0]),
        (["", "", "a"], [0, 0, 2]),
        (["Yes!", "yes", "no"], [0, 0, 2]),
        (["?", "!", "?"], [0, 1, 0]),  # nothing but punctuation: the texts themselves are compared
        ([EN, ZH, EN.upper() + "\n"], [0, 1, 0]),
        ([EN, EN.replace("Tuesday", "Monday")], [0, 0]),
        ([ZH, ZH.replace("星期二", "星期三"), "今天的天气很好。"], [0, 0, 2]),
        ([ZH, "。" + ZH.replace("，", " ")], [0, 0]),
        (["ｆｕｌｌ　ｗｉｄｔｈ", "full width"], [0, 0]),
        (["what is my balance", "where is my card"], [0, 1]),
        (["\ud800", "\ud800", "x"], [0, 0, 2]),
    ],
)
def test_what_joins(texts: list[str], expected: list[int]) -> None:
    assert near_duplicate_groups(texts) == expected


def test_groups_are_closed_over_chains() -> None:
    words = [f"word{i}" for i in range(60)]
    steps = [" ".join(["other"] * n + words[n:]) for n in range(0, 40, 2)]
    assert set(near_duplicate_groups(steps)) == {0}
    assert near_duplicate_groups([steps[0], steps[-1]]) == [0, 1]


def test_threshold() -> None:
    pair = [EN, EN.replace("Tuesday", "Monday")]
    assert near_duplicate_groups(pair, 0.98) == [0, 1]
    assert near_duplicate_groups([*pair, EN.lower()], 1) == [0, 1, 0]
    for wrong in (0, 1.1, -1):
        with pytest.raises(ValueError, match="threshold must lie in"):
            near_duplicate_groups(pair, wrong)


def test_normalised_keeps_symbols_and_vowel_signs() -> None:
    assert normalised("3 + 4 = 7.") == "3+4=7"
    assert normalised("हिन्दी।") == "हिन्दी"
    assert normalised("  ") == "  "


def test_planted_duplicates_are_found_and_nothing_else() -> None:
    """3,000 random texts of 30 words, each tenth followed later by a copy with one word changed."""
    rng = random.Random(7)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(3000)]
    texts = [rng.choices(words, k=30) for _ in range(3000)]
    copies = [[*text[:7], rng.choice(words), *text[8:]] for text in texts[::10]]
    started = time.process_time()
    groups = near_duplicate_groups(" ".join(text) for text in texts + copies)
    assert groups[:3000] == list(range(3000))
    found = sum(group == 10 * i for i, group in enumerate(groups[3000:]))
    assert found >= 295
    assert time.process_time() - started < 20


def test_one_template_for_all_is_one_group_in_reasonable_time() -> None:
    numbers = range(50, 90)
    texts = [
        f"Please tell me what the total of {i} and {j} and {i * j} is, when all three are added up."
        for i in numbers
        for j in numbers
    ]
    started = time.process_time()
    assert len(set(near_duplicate_groups(texts, 0.7))) < 50
    assert time.process_time() - started < 20
