"""The log of a run that is resumed."""

from __future__ import annotations

import math
from pathlib import Path

from llama_tasks.rundir import RunDirectory


def test_a_loss_of_nan_stays_in_a_log_that_is_rewound(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step, loss in ((1, math.nan), (2, 0.5), (3, 0.25)):
        run.log({"event": "step", "step": step, "loss": loss})
    run.rewind_log(2, 2)
    assert [entry["step"] for entry in run.read_log()] == [1, 2]
    assert math.isnan(run.read_log()[0]["loss"])


def test_an_evaluation_that_is_done_again_is_told_once(tmp_path: Path) -> None:
    """Of a run that ended between an evaluation and the save after it."""
    run = RunDirectory(tmp_path)
    for step in (2, 4):
        for event in ("step", "evaluation"):
            run.log({"event": event, "step": step})
    run.rewind_log(4, 2)
    assert [(entry["event"], entry["step"]) for entry in run.read_log()] == [
        ("step", 2),
        ("evaluation", 2),
        ("step", 4),
    ]
