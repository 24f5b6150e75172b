"""Trackers driven for real: what they keep is read back, and is what log.jsonl says."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from faulty_runs import Zygote, make_workplace

SETTINGS = ["train.max_steps=3", "train.eval_times=1", "train.preflight=false"]


def train(zygote: Zygote, place: Path, name: str, **environment: str) -> list[dict[str, Any]]:
    """Run with one tracker; the lines of log.jsonl."""
    run = zygote.run("finetune", "mine.yaml", f"output={name}", f"train.report_to=[{name}]", *SETTINGS, cwd=place,
                     environment=environment)  # fmt: skip
    assert run.wait() == 0, run.error
    return [json.loads(line) for line in (place / name / "log.jsonl").read_text().splitlines()]


def expected(log: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Loss and validation by step."""
    losses = [(line["step"], line["loss"]) for line in log if line["event"] == "step"]
    scores = [(line["step"], line["value"]) for line in log if line["event"] == "evaluation"]
    assert len(losses) == 3 and len(scores) == 1
    return {"loss": losses, "validation_rougeL": scores}


def test_tensorboard(zygote: Zygote, tmp_path: Path) -> None:
    place = make_workplace(tmp_path / "place")
    wanted = expected(train(zygote, place, "tensorboard"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for folder in {path.parent for path in (place / "tensorboard").rglob("events.out.tfevents.*")}:
        events = EventAccumulator(str(folder)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    assert {"learning_rate", "grad_norm", "tokens_per_second"} <= found.keys()
    for tag, values in wanted.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in values]
        assert [value for _, value in found[tag]] == pytest.approx([value for _, value in values], rel=1e-6)


def test_trackio(zygote: Zygote, tmp_path: Path) -> None:
    """Its database is a local file, made without a network."""
    pytest.importorskip("trackio", reason="pip install 'llama-tasks[track]' brings trackio")
    place = make_workplace(tmp_path / "place")
    wanted = expected(train(zygote, place, "trackio", TRACKIO_DIR=str(tmp_path / "kept"), HF_HUB_OFFLINE="1"))
    with closing(sqlite3.connect(tmp_path / "kept/trackers.db")) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    found: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in rows:
        for tag, value in json.loads(metrics).items():
            found.setdefault(tag, []).append((step, value))
    assert {"learning_rate", "grad_norm", "tokens_per_second"} <= found.keys()
    assert {tag: found[tag] for tag in wanted} == wanted
