"""Runs of the command that are killed, signalled, starved of disk or memory; each a process of its own, forked when ready."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny import ROOT, make_base, make_rows, recipe_text

ROWS = [
    {"document": f"Anna has {n} apples and {n + 1} pears. She lives in Oakfield.", "summary": f"Anna has {n} apples.",
     "lang": "en"}
    for n in range(90)
]  # fmt: skip
SETTINGS = {"max_steps": 8, "save_steps": 2, "eval_times": 2}


@dataclass
class Run:
    """A started run."""

    job: Path

    @property
    def pid(self) -> int:
        """Its process id, as soon as there is one."""
        return int(wait_for(self.job / "pid"))

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return (self.job / "status").exists()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        pid = self.pid
        if not self.ended:
            os.kill(pid, number)

    def wait(self) -> int:
        """The exit code; negative: the signal that ended it."""
        return int(wait_for(self.job / "status"))

    @property
    def error(self) -> str:
        """What it wrote on stderr."""
        return (self.job / "err").read_text()

    @property
    def output(self) -> str:
        """What it wrote on stdout."""
        return wait_for(self.job / "out")


class Zygote:
    """Starts runs; see `zygote.py`. They have this process's environment, or another that is given."""

    def __init__(self, folder: Path, inherited: Mapping[str, str] = os.environ) -> None:
        self.folder = folder
        self.jobs = 0
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        environment = {
            **inherited,
            **threads,
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "CUDA_VISIBLE_DEVICES": "",
            # glibc else keeps large blocks once freed, and a limit of memory meets how it was cut, not how much is used.
            "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
        }
        environment.pop("LLAMA_TASKS_COMMAND", None)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/zygote.py")], env=environment, cwd=folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def start(self, *argv: str, cwd: Path, **fault: Any) -> Run:
        """Start `llama-tasks ARGV`."""
        self.jobs += 1
        job = self.folder / f"job{self.jobs}"
        job.mkdir()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"job": str(job), "argv": argv, "cwd": str(cwd), "fault": fault}) + "\n")
        self.process.stdin.flush()
        return Run(job)

    def run(self, *argv: str, cwd: Path, **fault: Any) -> Run:
        """Start it and wait for its end."""
        started = self.start(*argv, cwd=cwd, **fault)
        started.wait()
        return started

    def close(self) -> None:
        """End the process; runs that are under way go on."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def wait_for(path: Path, seconds: float = 300) -> str:
    """What a file holds, once it is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not come"
        time.sleep(0.003)
    return path.read_text()


def make_workplace(folder: Path, base: Path | None = None, rows: list[dict] | None = None, **train: object) -> Path:
    """A folder with a base, rows and `mine.yaml`, with dropout in the adapter and accumulation."""
    folder.mkdir(exist_ok=True)
    data = make_rows(folder / "rows.jsonl", rows or ROWS)
    text = recipe_text("summarize", base or make_base(folder / "base"), data, **{**SETTINGS, **train})
    text += "adapter:\n  r: 4\n  lora_dropout: 0.1\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return folder


def result(run: Path) -> tuple[bytes, bytes]:
    """What training left: the adapter's weights and the predictions."""
    return (run / "adapter/adapter_model.safetensors").read_bytes(), (
        run / "eval/adapter/predictions.jsonl"
    ).read_bytes()


def go_on(zygote: Zygote, place: Path, output: str, *more: str, **fault: object) -> Run:
    """Start the run, or resume it where it had begun."""
    begun = ["--resume"] if (place / output / "recipe.yaml").exists() else []
    return zygote.start("finetune", "mine.yaml", f"output={output}", *begun, *more, cwd=place, **fault)


def refused(run: Run, *words: str, code: int = 2) -> str:
    """The one sentence of a run that ended with the code."""
    assert run.wait() == code, run.error
    assert run.error.startswith("llama-tasks: ")
    assert run.error.count("\n") == 1, run.error
    for word in words:
        assert word in run.error, run.error
    return run.error
