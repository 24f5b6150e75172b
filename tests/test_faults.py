"""Faults done to real runs: each ends with one sentence, loses nothing that was saved, and goes on to the same bytes."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_runs import Run, Zygote, make_workplace, result, wait_for

from llama_tasks import checkpoint

KILLS = int(os.environ.get("LLAMA_TASKS_KILLS", "10"))


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("jobs"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workplace(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def whole(zygote: Zygote, place: Path) -> tuple[bytes, bytes]:
    """What the undisturbed run leaves."""
    done = zygote.run("finetune", "mine.yaml", "output=whole", cwd=place)
    assert done.wait() == 0, done.error
    return result(place / "whole")


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
        assert word in run.error
    return run.error


def test_killed_at_random_moments_a_run_ends_as_if_undisturbed(zygote: Zygote, place: Path, whole: tuple[bytes, bytes]) -> None:
    began = time.monotonic()
    zygote.run("finetune", "mine.yaml", "output=timed", cwd=place)
    seconds = time.monotonic() - began
    moments = random.Random(7)
    kills = finished = 0
    while kills < KILLS:
        output = f"killed{finished}"
        run = go_on(zygote, place, output)
        time.sleep(moments.uniform(0, seconds))
        run.send(signal.SIGKILL)
        if run.wait() == -signal.SIGKILL:
            kills += 1
        else:
            assert run.wait() == 0, run.error
            assert result(place / output) == whole
            finished += 1
    last = go_on(zygote, place, f"killed{finished}")
    assert last.wait() == 0, last.error
    assert result(place / f"killed{finished}") == whole
