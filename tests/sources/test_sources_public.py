"""Every public set is read whole: as many rows as its description says, no bad row, each one an Example of its task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llama_tasks import tasks
from llama_tasks.recipe import DataConfig
from llama_tasks.sources import load_splits

SETS = {
    "translation/multi30k-en-de": ("translate", {"source_lang": "en", "target_lang": "de"}, (28995, 1014, 1000)),
    "translation/tatoeba-en-zh": ("translate", {"source_lang": "en", "target_lang": "zh"}, (26564, 1000, 1491)),
    "summarization/dialogsum": ("summarize", {}, (11744, 493, 500)),
    "summarization/csl-title-zh": ("summarize", {}, (900, 100, 1000)),
    "summarization/agnews-headline": ("summarize", {}, (6071, 500, 1000)),
    "qa/squad": ("qa", {}, (7175, 814, 1373)),
    "qa/cmrc2018-zh": ("qa", {}, (3118, 300, 801)),
    "classification/agnews": ("classify", {}, (8975, 998, 7600)),
    "classification/clinc150": ("classify", {}, (15044, 3093, 5500)),
    "classification/chnsenticorp-zh": ("classify", {}, (5965, 600, 1200)),
    "classification/csl-category-zh": ("classify", {}, (7999, 1000, 1000)),
}


@pytest.mark.parametrize("name", SETS)
def test_a_public_set_is_read_whole(name: str, shared: Callable[[str], Path]) -> None:
    task_name, constants, sizes = SETS[name]
    task = tasks.create(task_name)
    data = DataConfig(train=[str(shared(f"data/public/{name}"))], constants=constants)
    splits = load_splits(data, task_name, task.main_field, 42, task.columns)
    assert tuple(len(splits[split].rows) for split in ("train", "validation", "test")) == sizes
    assert all(split.set_aside.count == 0 for split in splits.values())
    if task_name == "classify":
        task = tasks.create(task_name, tasks.labels_of(splits["train"].rows))
    assert all(task.example(row).target for split in splits.values() for row in split.rows)


def test_no_public_set_is_forgotten(shared: Callable[[str], Path]) -> None:
    folder = shared("data/public")
    assert {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*") if path.is_dir()} == set(SETS)


def test_every_questions_file_is_also_read_alone_and_carved(shared: Callable[[str], Path]) -> None:
    """A passage's questions stay on one side, in English and Chinese."""
    for name in ("qa/squad", "qa/cmrc2018-zh"):
        data = DataConfig(train=[str(shared(f"data/public/{name}/validation.jsonl"))])
        splits = load_splits(data, "qa", "context", 42, ("context", "question", "answers"))
        sides = [{row.values["context"] for row in split.rows} for split in splits.values()]
        assert all(sides) and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
