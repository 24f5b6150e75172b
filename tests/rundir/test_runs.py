"""`llama-tasks runs` on run directories of every state, made by hand; and that it stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llama_tasks import cli
from llama_tasks.rundir.lock import locked


def make(folder: Path, score: float | None, *, ended: bool = True, rate: float = 1e-3) -> Path:
    """A run directory with recipe, environment, log, adapter and report."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(f"task: summarize\nbase:\n  model: org/base\ntrain:\n  learning_rate: {rate}\n")
    (folder / "environment.json").write_text(json.dumps({"created": "2026-01-02T03:04:05+00:00", "data": {}}))
    lines = [{"event": "step", "step": n, "loss": 1.0} for n in (1, 2, 3)] + (
        [{"event": "end", "step": 3}] if ended else []
    )
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if ended:
        (folder / "adapter/adapter_model.safetensors").write_bytes(b"")
    if score is not None:
        scores = [
            {"metric": "rougeL", "lang": "en", "base": {"value": 3.0}, "adapter": {"value": score, "interval": [1, 99]}}
        ]
        (folder / "report.json").write_text(json.dumps({"scores": scores}))
    return folder


def shown(capsys: pytest.CaptureFixture, *argv: str) -> str:
    assert cli.main(["runs", *argv]) == 0
    return capsys.readouterr().out


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f" {name} "))


def test_runs_of_every_state(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make(tmp_path / "good", 42.0)
    make(tmp_path / "stopped", None, ended=False)
    broken = make(tmp_path / "broken", 1.0)
    (broken / "report.json").write_text("{")
    for name, text in (("list", "[]"), ("empty", '{"scores": [{"metric": "x"}]}')):
        (make(tmp_path / name, 1.0) / "report.json").write_text(text)
    make(tmp_path / "group/inner", 7.0)
    lost = make(tmp_path / "lost", 1.0)
    (lost / "adapter/adapter_model.safetensors").unlink()
    busy = make(tmp_path / "busy", None, ended=False)
    (tmp_path / "no run").mkdir()
    with locked(busy):
        text = shown(capsys, str(tmp_path))
    assert "trained" in line_of(text, "good") and "rougeL 3.0 → 42.0" in line_of(text, "good")
    assert "org/base" in line_of(text, "good") and "2026-01-02 03:04" in line_of(text, "good")
    assert "interrupted at step 3" in line_of(text, "stopped")
    assert "damaged" in line_of(text, "broken") and "report.json" in line_of(text, "broken")
    assert "damaged" in line_of(text, "list") and "damaged" in line_of(text, "empty")
    for name in ("list", "empty"):
        assert "42.00" in shown(capsys, str(tmp_path / "good"), str(tmp_path / name))
    assert "the adapter is missing" in line_of(text, "lost")
    assert "running" in line_of(text, "busy")
    assert "7.0" in line_of(text, "group/inner")
    assert "no run" not in text


def test_a_run_that_trained_all_weights(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its only system stands in the base's place."""
    run = make(tmp_path / "whole", None)
    with (run / "recipe.yaml").open("a") as file:
        file.write("adapter: null\n")
    scores = [{"metric": "rougeL", "lang": "en", "base": {"value": 98.1, "interval": [97, 99]}}]
    (run / "report.json").write_text(json.dumps({"scores": scores}))
    line = line_of(shown(capsys, str(tmp_path)), "whole")
    assert "damaged" not in line and "rougeL – → 98.1" in line
    assert "98.10" in shown(capsys, str(run), str(make(tmp_path / "other", 42.0)))


def test_two_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one, other = make(tmp_path / "one", 42.0), make(tmp_path / "other", 43.5, rate=1e-4)
    text = shown(capsys, str(one), str(other))
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["train.learning_rate"] == ["train.learning_rate", "0.001", "0.0001"]
    assert "42.00" in rows["rougeL"] and "43.50" in rows["rougeL"]
    assert not any(key.startswith(("task", "base", "train.seed")) for key in rows)


def test_a_prompt_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """rich would read markup in it."""
    one, other = make(tmp_path / "one", 42.0), make(tmp_path / "other", 43.5)
    with (one / "recipe.yaml").open("a") as file:
        file.write('prompt:\n  template:\n    default: "[INST] {document} [/INST]"\n')
    assert "[INST] {document} [/INST]" in shown(capsys, str(one), str(other))


def test_where_there_is_none_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["runs", str(tmp_path)]) == 2
    assert cli.main(["runs", str(tmp_path / "absent")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_it_is_light() -> None:
    check = "import llama_tasks.rundir.runs, sys\nassert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
