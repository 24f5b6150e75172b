"""Prompts on the disk are the prompts that were put there."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from llama_tasks.dataset.spool import Spool
from llama_tasks.prompts import Prompt
from llama_tasks.tasks import Example
from llama_tasks.tasks.base import Turn

FULL = Example(
    id="predict:0", fields={"question": "谁？\n\u2028", "context": "🙂 Anna"}, target="Anna", references=("Anna", ""), lang="zh",
    choices=("a", "b"), turns=(Turn({"question": "who"}, "she"),), variant="pair", weight=0.5,
    meta={"domain": "sports", "year": 2020, "tags": ["x"]}, spans=("Anna",),
)  # fmt: skip
PLAIN = Example(id="predict:1", fields={"text": ""}, target="-", references=(), lang="en")
PROMPTS = [
    Prompt(FULL, "{context} {question}", "context", "be brief", "solved ", "my.jsonl:1"),
    Prompt(PLAIN, "{text}", "text", where="my.jsonl:2"),
    Prompt(FULL, "{question}", "context"),
]


def test_what_comes_back_is_what_went_in() -> None:
    spool = Spool(iter(PROMPTS))
    assert list(spool) == PROMPTS and len(spool) == 3
    assert [prompt.where for prompt in spool] == ["my.jsonl:1", "my.jsonl:2", ""]
    assert spool[1:] == PROMPTS[1:] and spool[-1] == PROMPTS[-1]
    assert spool[0].segments == PROMPTS[0].segments
    with pytest.raises(IndexError):
        spool[3]


def test_memory_does_not_grow_with_the_texts() -> None:
    template = "Summarise: {text}"

    def many(count: int) -> int:
        tracemalloc.start()
        spool = Spool(
            Prompt(Example(f"predict:{i}", {"text": f"{i} " * 200}, "-", (), "en"), template, "text")
            for i in range(count)
        )
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(spool) == count
        return held

    assert many(5_000) - many(500) < 5_000 * 20  # bytes, of prompts of a kilobyte
