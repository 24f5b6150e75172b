"""Evaluations that are killed go on at the row; several processes write the file of one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from faulty_runs import ROWS, Run, Zygote, result
from tiny import ROOT, make_rows

from llama_tasks.cli import main
from llama_tasks.evaluation import prediction


def kill_until_done(
    zygote: Zygote, place: Path, argv: list[str], log: Path, seed: int, again: Sequence[str] = ()
) -> int:
    """Run a command, killed at random moments after it has kept a row, until it ends; returns the number of kills.
    Every time but the first it is given what `again` says besides."""
    rng, kills = random.Random(seed), 0
    while True:
        before = log.stat().st_size if log.exists() else 0
        run: Run = zygote.start(*argv, *(again if kills else ()), cwd=place, slow_rows=[0.03, str(log)])
        while not run.ended and (log.stat().st_size if log.exists() else 0) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.25))
        run.send(signal.SIGKILL)
        if run.wait() == 0:
            return kills
        assert run.wait() == -signal.SIGKILL, run.error
        kills += 1


def check_each_row_kept_once(log: Path, rows: int, kills: int) -> None:
    """No row was made again once it was kept. The log may lack one line for every kill: a row is kept before it is
    logged, and a kill may come between."""
    made = log.read_text().split()
    assert len(made) == len(set(made))
    assert rows - kills <= len(made) <= rows


def test_a_killed_evaluation_goes_on_at_the_row(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    log, folder = tmp_path / "log", place / "whole/eval"
    texts = {name: (folder / name / "predictions.jsonl").read_bytes() for name in ("base", "adapter")}
    kills = kill_until_done(zygote, place, ["evaluate", "whole"], log, seed=1)
    assert kills >= 2
    assert texts == {name: (folder / name / "predictions.jsonl").read_bytes() for name in texts}
    check_each_row_kept_once(log, sum(text.count(b"\n") for text in texts.values()), kills)
    assert not list(folder.rglob(".*"))
    scores = json.loads((folder / "adapter/scores.json").read_text())
    assert scores["decoding"]["engine"] == "native"
    assert scores["decoding"]["alone"]["differ"] == 0 < scores["decoding"]["alone"]["sample"]
    assert scores["decoding"]["max_new_tokens"] == 4


def test_a_killed_prediction_goes_on_at_the_row(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    make_rows(place / "new.jsonl", ROWS[:20])
    command = ["predict", "whole", "--input", "new.jsonl", "--output"]
    kills = kill_until_done(zygote, place, [*command, "killed.jsonl"], log, seed=2)
    assert kills >= 1
    assert zygote.run(*command, "at_once.jsonl", cwd=place).wait() == 0
    assert (place / "killed.jsonl").read_bytes() == (place / "at_once.jsonl").read_bytes()
    check_each_row_kept_once(log, 20, kills)


def test_another_suite_begins_anew(zygote: Zygote, place: Path, whole: tuple[bytes, bytes], tmp_path: Path) -> None:
    """What a killed evaluation left is not mixed with another one's."""
    log = tmp_path / "log"
    run = zygote.start("evaluate", "whole", "eval.max_new_tokens=2", cwd=place, slow_rows=[0.05, str(log)])
    while not log.exists():
        time.sleep(0.002)
    run.send(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert zygote.run("evaluate", "whole", cwd=place).wait() == 0
    assert (place / "whole/eval/adapter/predictions.jsonl").read_bytes() == whole[1]


@pytest.mark.parametrize("asked", [([], ["eval.max_new_tokens=2"]), (["eval.max_new_tokens=2"], [])])
def test_rows_that_another_evaluation_replaced(
    place: Path, whole: tuple[bytes, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
    asked: list[list[str]],
) -> None:  # fmt: skip
    """One is stopped once it has the base's rows, another once it has replaced them; then the first one again."""
    run = Path(shutil.copytree(place / "whole", tmp_path / "run"))
    one, other = (["evaluate", str(run), *more] for more in asked)
    rows, describe = run / "eval/base/predictions.jsonl", prediction.describe

    def stopped(command: list[str], described: int) -> bytes:
        left = [describe] * described

        def stop(*arguments: Any) -> dict[str, Any]:
            if not left:
                raise KeyboardInterrupt
            return left.pop()(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(prediction, "describe", stop)
            assert main(command) == 130
        return rows.read_bytes()

    kept = stopped(one, 1)
    assert stopped(other, 0) != kept
    assert main(["report", str(run)]) == 2
    assert (
        f"two evaluations, because the last one was stopped; run `llama-tasks evaluate {run}`"
        in capsys.readouterr().err
    )
    assert main(one) == 0
    assert rows.read_bytes() == kept
    (run / "eval/data.json").unlink()  # made before there were marks
    for path in run.glob("eval/*/decoding.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": None}))
    assert main(["report", str(run)]) == 0


def test_a_stopped_evaluation_says_how_it_goes_on(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    shutil.copytree(place / "whole", place / "stopped")
    run = zygote.start("evaluate", "stopped", cwd=place, slow_rows=[0.05, str(log)])
    while not log.exists():
        time.sleep(0.002)
    run.send(signal.SIGTERM)
    assert run.wait() == 143
    assert run.error == (
        "llama-tasks: Stopped. Type the same command again, and it goes on at the row; nothing is lost.\n"
    )


def test_another_scale_of_the_adapter_begins_anew(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    """Killed among the adapter's rows; its weights stay as they are, their scale does not."""
    log, folder = tmp_path / "log", place / "scaled"
    shutil.copytree(place / "whole", folder)
    rows = (folder / "eval/base/predictions.jsonl").read_bytes().count(b"\n")
    run = zygote.start("evaluate", "scaled", cwd=place, slow_rows=[0.05, str(log)])
    while not log.exists() or len(log.read_text().split()) < rows + 2:
        time.sleep(0.002)
    run.send(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    (folder / "adapter/adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 100_000}))
    found = []
    for _ in range(2):
        assert zygote.run("evaluate", "scaled", cwd=place).wait() == 0
        found.append((folder / "eval/adapter/predictions.jsonl").read_bytes())
    assert found[0] == found[1] != whole[1]


def test_two_processes_write_what_one_writes(place: Path, whole: tuple[bytes, bytes]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, str(ROOT / "eval/run.py"), "whole"]
    target = place / "whole/eval/adapter/predictions.jsonl"
    target.unlink()
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert target.read_bytes() == whole[1]
    assert not list((place / "whole/eval").rglob(".*"))


def test_a_kill_inside_the_evaluation_that_ends_a_finetune_goes_on_at_the_row(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes], tmp_path: Path
) -> None:
    log, command = tmp_path / "log", ["finetune", "mine.yaml", "output=ended"]
    kills = kill_until_done(zygote, place, command, log, seed=3, again=["--resume"])
    assert kills >= 2
    assert result(place / "ended") == whole
    rows = [
        (place / "ended/eval" / name / "predictions.jsonl").read_bytes().count(b"\n") for name in ("base", "adapter")
    ]
    check_each_row_kept_once(log, sum(rows), kills)
