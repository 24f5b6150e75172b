"""The embedded samples: reproducible, well formed, and no hidden row in training or in the practice text."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "llama_tasks" / "embedded" / "samples"
RECIPES = ROOT / "recipes" / "embedded"
FIELDS = {
    "translate": ("source", "target"),
    "summarize": ("document", "summary"),
    "qa": ("context",),
    "classify": ("text",),
}
TASKS = sorted(FIELDS)
SIZES = {"train": 2400, "validation": 120, "test": 300}


@cache
def rows(task: str, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def texts(task: str, split: str) -> set[str]:
    return {row[field] for row in rows(task, split) for field in FIELDS[task]}


def words(text: str) -> list[str]:
    """English words without case, Chinese characters, digits."""
    return re.findall(r"[a-z]+|[\u4e00-\u9fff]|\d", text.lower())


def language(row: dict[str, Any]) -> str:
    return str(row.get("lang") or row["source_lang"])


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(RECIPES / script), *arguments], check=True, capture_output=True)


def test_generator_reproduces_the_committed_bytes(tmp_path: Path) -> None:
    run("make_samples.py", "--output", str(tmp_path))
    made = {
        path.relative_to(tmp_path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tmp_path.glob("*/*.jsonl")
    }
    kept = {
        path.relative_to(SAMPLES).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in SAMPLES.glob("*/*.jsonl")
    }
    assert len(made) == len(TASKS) * len(SIZES)
    assert made == kept


def test_all_files_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.glob("*/*.jsonl")) <= 2_300_000


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", SIZES)
def test_size_and_languages(task: str, split: str) -> None:
    found = rows(task, split)
    assert len(found) == SIZES[split]
    assert Counter(map(language, found)) == {"en": SIZES[split] // 2, "zh": SIZES[split] // 2}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("one", "other"), [("train", "test"), ("train", "validation"), ("validation", "test")])
def test_splits_share_no_text(task: str, one: str, other: str) -> None:
    """For translation either side of either direction; for summarization document and summary."""
    assert not texts(task, one) & texts(task, other)


@pytest.mark.parametrize("task", TASKS)
def test_no_input_occurs_twice(task: str) -> None:
    inputs = [row[FIELDS[task][0]] + row.get("question", "") for split in SIZES for row in rows(task, split)]
    assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize("task", TASKS)
def test_hidden_rows_have_only_words_of_training(task: str) -> None:
    known = {word for text in texts(task, "train") for word in words(text)}
    hidden = {word for split in ("validation", "test") for text in texts(task, split) for word in words(text)}
    assert hidden <= known


def test_translations_are_in_the_languages_they_name() -> None:
    for row in rows("translate", "test") + rows("translate", "train"):
        chinese, english = (
            (row["source"], row["target"]) if row["source_lang"] == "zh" else (row["target"], row["source"])
        )
        assert {row["source_lang"], row["target_lang"]} == {"en", "zh"}
        assert re.fullmatch(r"[A-Z][A-Za-z ,]+[.?]", english)
        assert re.fullmatch(r"[\u4e00-\u9fff，]+[。？]", chinese)
        assert 5 <= len(english.split()) <= 14


def test_articles_agree_with_the_next_word() -> None:
    everything = " ".join(text for task in TASKS for split in SIZES for text in texts(task, split))
    assert not re.findall(r"\b[Aa] [aeio]\w+", everything)
    assert not re.findall(r"\b[Aa]n (?!hour)[b-df-hj-np-tv-z]\w+", everything)


def test_summaries_are_short_and_documents_are_not_long() -> None:
    for row in rows("summarize", "train"):
        if row["lang"] == "en":
            assert 5 <= len(row["summary"].split()) <= 13
            assert len(row["document"].split()) <= 60
        assert row["summary"] not in row["document"]
        assert 3 <= len(re.findall(r'[.。!！](?=["”]? ?|$)', row["document"])) <= 6


def test_answers_occur_in_the_context_and_one_in_eight_questions_has_none() -> None:
    for split in SIZES:
        assert all(answer in row["context"] for row in rows("qa", split) for answer in row["answers"])
    empty = sum(not row["answers"] for row in rows("qa", "train"))
    assert 0.10 < empty / SIZES["train"] < 0.14


def test_labels_are_balanced_and_the_same_in_both_languages() -> None:
    for lang in ("en", "zh"):
        counts = Counter(row["label"] for row in rows("classify", "test") if row["lang"] == lang)
        assert counts == dict.fromkeys(("food", "health", "music", "sports", "travel", "weather"), 25)


def test_practice_text_holds_no_hidden_text(tmp_path: Path) -> None:
    run("make_practice.py", "--output", str(tmp_path), "--size", "0.4")
    text = (tmp_path / "practice.train.txt").read_text(encoding="utf-8").casefold()
    documents = text.split("<|endoftext|>\n")
    assert len(documents) > 500
    assert documents[-1] == ""
    hidden = [value for task in TASKS for split in ("validation", "test") for value in texts(task, split)]
    assert not [value for value in hidden if value.casefold() in text]


def test_practice_filter_refuses_a_hidden_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))
    from make_practice import Filter  # type: ignore[import-not-found]

    practice = Filter(SAMPLES)
    hidden = rows("summarize", "test")[0]["summary"]
    assert practice.allows("Anna said hello. 安娜说你好。")
    assert not practice.allows(f"Anna said hello.\nIn short, {hidden[0].lower() + hidden[1:]}\nGood night.")
    assert not practice.allows(f"a word\n{rows('qa', 'test')[0]['context']}\nWho?")
