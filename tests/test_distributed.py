"""Two processes (gloo, CPU) are the same mathematics as one with twice the accumulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny import make_base, make_rows, recipe_text

ROOT = Path(__file__).resolve().parents[1]
# 41 batches: the last step has one batch for two processes, so one of them runs without a target.
ROWS = [
    {"document": f"Anna has {n} apples and lives in Oakfield.", "summary": f"Anna has {n} apples."} for n in range(160)
]


def finetune(folder: Path, launcher: list[str], *overrides: str) -> Path:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, str(ROOT / "recipes/finetune.py"), "mine.yaml", *overrides]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / overrides[0].removeprefix("output=")


def test_two_processes_equal_one(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    data = make_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "mine.yaml").write_text(recipe_text("summarize", base, data, tokens_per_batch=100), encoding="utf-8")
    one = finetune(tmp_path, [], "output=one", "train.gradient_accumulation_steps=2")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = finetune(tmp_path, launcher, "output=two")
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, two)]
    steps = [[(e["step"], e["loss"], e["grad_norm"]) for e in log if e["event"] == "step"] for log in logs]
    assert len(steps[0]) == len(steps[1]) > 10
    for alone, together in zip(*steps, strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)
    weights = [load_file(run / "adapter/adapter_model.safetensors") for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-2, atol=1e-4)
