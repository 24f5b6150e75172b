"""Patience: a run ends where its score no longer grows, its checkpoints know how long it has waited."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from faulty_runs import ROWS
from tiny import make_base, make_rows, recipe_text

from llama_tasks import cli


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    base, rows = make_base(folder / "base"), make_rows(folder / "rows.jsonl", ROWS)
    settings = {"eval_times": 6, "num_train_epochs": 6, "preflight": False, "save_steps": 1000}
    (folder / "mine.yaml").write_text(recipe_text("summarize", base, rows, **settings), encoding="utf-8")
    return folder


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def finetune(place: Path, *arguments: str) -> int:
    return cli.main(["finetune", str(place / "mine.yaml"), f"output={place / 'run'}", *arguments])


def test_a_run_that_does_not_grow_better_ends(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At a learning rate of 0 the first value stays the best one."""
    assert finetune(place, "train.learning_rate=0", "train.early_stopping_patience=2") == 0
    run = place / "run"
    evaluations, steps = events(run, "evaluation"), events(run, "step")
    assert len(evaluations) == 3
    assert steps[-1]["step"] == evaluations[-1]["step"] < steps[-1].get("total_steps", 10**6)
    assert events(run, "end")[0]["best_step"] == evaluations[0]["step"]
    state = json.loads((run / "checkpoints" / f"step-{steps[-1]['step']}" / "state.json").read_text(encoding="utf-8"))
    assert state["extra"]["waited"] == 2
    assert "stopped early, nothing better in 2 evaluations" in " ".join(capsys.readouterr().out.split())
    assert (run / "adapter/adapter_model.safetensors").is_file()


def test_a_resumed_run_has_waited_as_long(place: Path) -> None:
    """Cut off after its last checkpoint, it takes no further step."""
    run = place / "run"
    last = events(run, "step")[-1]["step"]
    for path in (run / "adapter", run / "eval"):
        shutil.rmtree(path)
    for path in run.glob("report.*"):
        path.unlink()
    assert finetune(place, "train.learning_rate=0", "train.early_stopping_patience=2", "--resume") == 0
    assert events(run, "step")[-1]["step"] == last
    assert len(events(run, "evaluation")) == 3
    assert (run / "adapter/adapter_model.safetensors").is_file()
