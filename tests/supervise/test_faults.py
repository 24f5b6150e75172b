"""Faults done to real runs: each ends with one sentence, loses nothing that was saved, and goes on to the same bytes."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from faulty_runs import Run, Zygote, go_on, refused, result, wait_for

from llama_tasks import checkpoint

KILLS = int(os.environ.get("LLAMA_TASKS_KILLS", "10"))


def test_killed_at_random_moments_a_run_ends_as_if_undisturbed(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes]
) -> None:
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


def test_killed_at_an_operation_of_a_whole_run(zygote: Zygote, place: Path, whole: tuple[bytes, bytes]) -> None:
    """Every operation of the whole run, in strides: the run's own files, best weights, checkpoints, adapter."""
    for fatal in range(1, 200, int(os.environ.get("LLAMA_TASKS_STRIDE", "61"))):
        output = f"operation{fatal}"
        run = go_on(zygote, place, output, operation=fatal, how="kill")
        if run.wait() == 0:
            break
        assert run.wait() == -signal.SIGKILL
        again = go_on(zygote, place, output)
        assert again.wait() == 0, again.error
        assert result(place / output) == whole
        assert not [path.name for path in (place / output).rglob(".*")]
    else:
        pytest.fail("the run has more operations than were tried")
    assert fatal > 37


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_at_random_moments(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes], number: signal.Signals
) -> None:
    moments = random.Random(int(number))
    output = f"signal{number}"
    stops, longest = 0, 1.5
    while (run := go_on(zygote, place, output)) and stops < 3:
        wait_for(run.job / "err")  # before it there is no command yet that could answer
        time.sleep(moments.uniform(longest / 8, longest))
        run.send(number)
        if run.wait() == 0 and stops:
            break
        if run.wait() == 0:  # over before the signal came: once more, sooner
            output, longest = f"{output}again", longest / 2
            assert longest > 0.02
            continue
        refused(run, "--resume", code=128 + number)
        stops += 1
    assert stops
    assert run.wait() == 0, run.error
    assert result(place / output) == whole


def test_a_signal_while_training_saves_and_a_second_one_leaves_now(zygote: Zygote, place: Path) -> None:
    run = zygote.start("finetune", "mine.yaml", "output=stopped", "train.max_steps=3000", cwd=place)
    wait_for(place / "stopped/log.jsonl")
    run.send(signal.SIGTERM)
    error = refused(run, "and saved", code=143)
    step = int(error.split("Stopped at step ")[1].split()[0])
    assert (checkpoint.newest(place / "stopped/checkpoints") or place).name == f"step-{step}"

    run = zygote.start("finetune", "mine.yaml", "output=twice", "train.max_steps=3000", cwd=place, slow_steps=30)
    wait_for(run.job / "slow")  # in the middle of a step: between two of them the first signal would be answered
    began = time.monotonic()
    run.send(signal.SIGINT)
    time.sleep(0.3)
    run.send(signal.SIGTERM)
    refused(run, "Stopped at once", code=143)
    assert time.monotonic() - began < 15


def test_a_signal_in_an_evaluation_or_in_the_last_save_stops_the_run(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes]
) -> None:
    """Also in the evaluation that a resumed run begins with; the one that was cut off is done when the run goes on."""
    for step in (4, 4, 8, 8):
        stopped = go_on(zygote, place, "cut", signal_in=("evaluation", signal.SIGTERM, step))
        refused(stopped, f"Stopped at step {step} of 8, and saved", "--resume", code=143)
        assert (checkpoint.newest(place / "cut/checkpoints") or place).name == f"step-{step}"
    late = go_on(zygote, place, "late", signal_in=("save", signal.SIGINT, 8))
    refused(late, "Stopped at step 8 of 8, and saved", "--resume", code=130)
    for output in ("cut", "late"):
        done = go_on(zygote, place, output)
        assert done.wait() == 0, done.error
        assert result(place / output) == whole


def test_two_runs_in_one_directory(zygote: Zygote, place: Path) -> None:
    first = zygote.start("finetune", "mine.yaml", "output=shared", "train.max_steps=3000", cwd=place)
    wait_for(place / "shared/log.jsonl")
    for how in ("--resume", "--overwrite"):
        second = zygote.run("finetune", "mine.yaml", "output=shared", how, "train.max_steps=3000", cwd=place)
        refused(second, "is in use", f"process {first.pid} on ", "output=DIR")
    first.send(signal.SIGKILL)
    first.wait()
    assert (place / "shared/run.lock").exists()  # stale: its process is gone
    kept = checkpoint.newest(place / "shared/checkpoints")
    again = zygote.start("finetune", "mine.yaml", "output=shared", "--resume", "train.max_steps=3000", cwd=place)
    while checkpoint.newest(place / "shared/checkpoints") == kept and not again.ended:
        time.sleep(0.02)
    again.send(signal.SIGINT)
    refused(again, "and saved", code=130)
    assert not (place / "shared/run.lock").exists()


def needs_mount(run: Run) -> None:
    """Skip where this user may not mount."""
    if "OSError: [Errno 1]" in run.error and "mount" in run.error:
        pytest.skip("this user may not mount a file system")


def test_a_full_disk_keeps_the_last_good_checkpoint(zygote: Zygote, place: Path, whole: tuple[bytes, bytes]) -> None:
    """The disk fills while the run goes on: room was there before, so the check before training says nothing."""
    run = zygote.run("finetune", "mine.yaml", "output=full", cwd=place, fill_after_checkpoint=3)
    error = refused(run, "There is no room for a checkpoint", "needs", "are free", "--resume")
    kept = checkpoint.find(place / "full/checkpoints", print)
    assert kept is not None
    assert f"Last good checkpoint: {Path('full/checkpoints') / kept.name}" in error
    again = go_on(zygote, place, "full")
    assert again.wait() == 0, again.error
    assert result(place / "full") == whole


def test_a_small_disk_is_seen_before_training(zygote: Zygote, place: Path) -> None:
    (place / "small").mkdir()
    disk = [str(place / "small"), "tmpfs", "size=100k"]
    run = zygote.run("finetune", "mine.yaml", "output=small/run", cwd=place, mount=disk)
    needs_mount(run)
    refused(run, "small/run needs", "are free", "output=DIR")


def test_a_disk_that_fills_for_real(zygote: Zygote, place: Path) -> None:
    """A small tmpfs: the check before training passes, the disk is full a while later."""
    (place / "tmpfs").mkdir()
    disk = [str(place / "tmpfs"), "tmpfs", "size=2m"]
    run = zygote.run("finetune", "mine.yaml", "output=tmpfs/run", "train.max_steps=3000", cwd=place, mount=disk, hog=8)
    needs_mount(run)
    refused(run, "There is no room for a checkpoint", "Last good checkpoint: tmpfs/run/checkpoints/step-")


def test_a_read_only_directory_is_refused_before_training(zygote: Zygote, place: Path) -> None:
    (place / "readonly").mkdir()
    run = zygote.run(
        "finetune", "mine.yaml", "output=readonly/run", cwd=place, mount=[str(place / "readonly"), "tmpfs", "", 1]
    )
    needs_mount(run)
    refused(run, "readonly/run cannot be written")
