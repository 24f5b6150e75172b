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
from tiny import make_rows

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
    for fatal in range(1, 200, int(os.environ.get("LLAMA_TASKS_STRIDE", "37"))):
        output = f"operation{fatal}"
        run = go_on(zygote, place, output, operation=fatal, how="kill")
        if run.wait() == 0:
            break
        assert run.wait() == -signal.SIGKILL
        again = go_on(zygote, place, output)
        assert again.wait() == 0, again.error
        assert result(place / output) == whole
        assert not [path.name for path in (place / output).rglob(".*")]
    assert fatal > 37


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_at_random_moments(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes], number: signal.Signals
) -> None:
    moments = random.Random(int(number))
    output = f"signal{number}"
    stops = 0
    while (run := go_on(zygote, place, output)) and stops < 3:
        time.sleep(moments.uniform(0.2, 1.5))
        run.send(number)
        if run.wait() == 0:
            break
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
    wait_for(place / "twice/log.jsonl")
    began = time.monotonic()
    run.send(signal.SIGINT)
    time.sleep(0.3)
    run.send(signal.SIGTERM)
    refused(run, "Stopped at once", code=143)
    assert time.monotonic() - began < 15


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


def test_too_little_memory_is_met_before_step_1(zygote: Zygote, place: Path) -> None:
    """`ulimit -v`: the longest batch does not fit; the proposed setting does."""
    rows = [
        {"document": f"{n} " + "pears and apples " * 40, "summary": f"{n} pears.", "lang": "en"} for n in range(900)
    ]
    make_rows(place / "many.jsonl", rows)
    limits = {"memory": 500 << 20}
    big = [
        "finetune",
        "mine.yaml",
        "data.train=many.jsonl",
        "train.tokens_per_batch=65536",
        "train.max_steps=2",
        "prompt.allow=[leak]",
    ]
    run = zygote.run(*big, "output=memory", cwd=place, **limits)
    error = refused(run, "does not fit the memory", "Tried, and it fits: train.tokens_per_batch=")
    assert not (place / "memory").exists()
    proposed = error.rstrip(".\n").split("it fits: ")[1].split()
    done = zygote.run(*big, *proposed, "output=memory", cwd=place, **limits)
    assert done.wait() == 0, done.error


def test_the_preflight_changes_nothing(zygote: Zygote, place: Path, whole: tuple[bytes, bytes]) -> None:
    without = zygote.run("finetune", "mine.yaml", "output=unchecked", "train.preflight=false", cwd=place)
    assert without.wait() == 0, without.error
    assert result(place / "unchecked") == whole


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("train.seed", "train.seed=7"),
        ("train.tokens_per_batch", "train.tokens_per_batch=128"),
        ("adapter.r", "adapter.r=2"),
        ("train.metric_for_best_model", "eval.metrics=[rouge1]"),
        ("eval.max_new_tokens", "eval.max_new_tokens=5"),
        ("prompt.max_length", "prompt.max_length=200"),
    ],
)
def test_a_change_that_matters_is_named_with_both_values(
    zygote: Zygote, place: Path, whole: tuple[bytes, bytes], key: str, change: str
) -> None:
    run = zygote.run("finetune", "mine.yaml", "output=whole", "--resume", change, cwd=place)
    refused(run, "was made with another recipe", f"{key} was ", " and is now ")


def test_a_change_that_does_not_matter_resumes(zygote: Zygote, place: Path, whole: tuple[bytes, bytes]) -> None:
    free = ["train.save_steps=4", "train.logging_steps=2", "eval.n_resamples=10", "train.on_nonfinite=skip",
            "train.gradient_checkpointing=true", "eval.metrics=[rougeL, rouge1]"]  # fmt: skip
    first = zygote.run("finetune", "mine.yaml", "output=freely", cwd=place, operation=60, how="kill")
    assert first.wait() == -signal.SIGKILL
    run = zygote.run("finetune", "mine.yaml", "output=freely", "--resume", *free, cwd=place)
    assert run.wait() == 0, run.error
    assert result(place / "freely")[0] == whole[0]


CUTS = {"0 bytes": 0, "8 bytes": 8, "half": 0.5, "-1 byte": -1, "one bit": None}


def damaged(path: Path, cut: float | None) -> bytes:
    """Cut a file short, or flip one bit of it; returns what it held."""
    whole = path.read_bytes()
    if cut is None:
        path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:])
    else:
        path.write_bytes(whole[: int(len(whole) * cut)] if 0 < cut < 1 else whole[:cut])
    return whole


@pytest.mark.parametrize("cut", CUTS)
def test_damaged_weights_are_named(zygote: Zygote, place: Path, whole: tuple[bytes, bytes], cut: str) -> None:
    """The trained adapter and the base, at `evaluate` and at `--resume`."""
    adapter, base = place / "whole/adapter/adapter_model.safetensors", place / "base/model.safetensors"
    for path, argv in ((adapter, ["evaluate", "whole"]), (base, ["evaluate", "whole"]),
                       (base, ["finetune", "mine.yaml", "output=whole", "--resume"])):  # fmt: skip
        before = damaged(path, CUTS[cut])
        run = zygote.run(*argv, cwd=place)
        path.write_bytes(before)
        refused(run, str(path.relative_to(place)), "damaged", "again")


def test_a_base_cut_short_is_named_before_a_run_begins(zygote: Zygote, place: Path) -> None:
    base = place / "base/model.safetensors"
    before = damaged(base, -1)
    run = zygote.run("finetune", "mine.yaml", "output=new", cwd=place)
    base.write_bytes(before)
    refused(run, "base/model.safetensors is cut short", "copy the base again")
    assert not (place / "new").exists()
