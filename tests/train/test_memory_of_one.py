"""The memory of one process of two ends: both leave, with its sentence where they can be told, and none waits for the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import ranks
from faulty_runs import Zygote, make_workplace, refused
from tiny import make_rows

#: Of the last process, beyond what it has when it starts; the first one has none.
LIMIT = {"memory": 400 << 20}
BIG = ("finetune", "mine.yaml", "data.train=many.jsonl", "train.tokens_per_batch=65536", "train.max_steps=2")
MORE = ("data.validation=few.jsonl", "data.test=few.jsonl", "prompt.allow=[leak]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace with long rows, enough for one batch that is too big."""
    folder = make_workplace(tmp_path_factory.mktemp("starved") / "place")
    text = "pears and apples " * 40
    rows = [{"document": f"{n} {text}", "summary": f"{n} pears.", "lang": "en"} for n in range(900)]
    make_rows(folder / "many.jsonl", rows)
    make_rows(folder / "few.jsonl", rows[:8])
    return folder


def test_before_step_1_both_are_told_whose_memory_it_is(zygote: Zygote, place: Path) -> None:
    two = ranks.start(zygote, "ddp.yaml", *BIG, *MORE, "output=both", cwd=place, **LIMIT)
    for run in two.runs:
        refused(run, "does not fit the memory of process 1. Tried, and it fits: train.tokens_per_batch=")
    assert not (place / "both").exists()


@pytest.mark.parametrize(("file", "preflight", "says"), [
    ("ddp.yaml", "false", "The memory of process 1 is full, after step 0. Last good checkpoint: none"),
    ("fsdp2.yaml", "true", "The run does not fit the memory of process 1. Halve train.tokens_per_batch"),
])  # fmt: skip
def test_in_the_middle_of_a_step_the_other_one_does_not_wait(
    zygote: Zygote, place: Path, file: str, preflight: str, says: str
) -> None:
    two = ranks.start(
        zygote, file, *BIG, *MORE, f"output=one-{file}", f"train.preflight={preflight}", cwd=place, **LIMIT
    )
    refused(two.runs[1], says)
    refused(two.runs[0], "Another process of this run is gone", "--resume")
