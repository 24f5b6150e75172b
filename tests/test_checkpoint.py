"""Checkpoints against every way a save can end: killed or refused at each operation, torn, flipped, missing, touched."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from loops import CONFIG, training
from operations import Operations

from llama_tasks import checkpoint, files
from llama_tasks.errors import RunError
from llama_tasks.train import Training

SHORT = replace(CONFIG, max_steps=6, gradient_accumulation_steps=2)
FIRST, SECOND = 2, 4  # steps whose state is saved
Weights = dict[str, torch.Tensor]
States = tuple["State", "State", "Weights"]


@dataclass
class State:
    """A training after some steps, with dropout and accumulation, and the random state then."""

    run: Training
    random: Weights

    def save(self, folder: Path, needs: Sequence[str] = ()) -> Path:
        return checkpoint.save(folder, self.run, {}, self.random, needs)


def begun(step: int) -> State:
    run = training(SHORT, dropout=0.1)
    advance(run, step)
    return State(run, checkpoint.random_states())


def advance(run: Training, step: int) -> None:
    for report in run.run():
        if report.step == step:
            return


def save_all(folder: Path, state: State) -> None:
    """What a run does after an evaluation that found better weights: those, the checkpoint, then older ones go."""
    best = f"best-{state.run.step}"
    checkpoint.save_weights(folder / best, checkpoint.trained_weights(state.run))
    state.save(folder, needs=[best])
    checkpoint.keep_newest(folder, 1)


@pytest.fixture(scope="module")
def states() -> States:
    """A training at each saved step, and the weights at the end of an undisturbed one."""
    end = begun(SHORT.max_steps)
    return begun(FIRST), begun(SECOND), checkpoint.trained_weights(end.run)


def go_on(folder: Path, expected: Weights, told: list[str]) -> int:
    """Resume as a run does, to the end, which must be the undisturbed one; returns the step resumed from."""
    files.sweep(folder)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    path = checkpoint.find(folder, told.append)
    assert path is not None
    resumed = training(SHORT, dropout=0.1)
    checkpoint.restore(path, resumed)
    step = resumed.step
    advance(resumed, SHORT.max_steps)
    found = checkpoint.trained_weights(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    return step


def operations_of_a_save(folder: Path, states: States) -> list[str]:
    save_all(folder, states[0])
    with Operations(None).active() as counted:
        save_all(folder, states[1])
    return counted.done


@pytest.mark.parametrize("how", ["kill", "full"])
def test_every_operation_of_a_save_may_be_the_last(tmp_path: Path, states: States, how: str) -> None:
    """Also those that replace best weights of the same name, as a resumed run does."""
    first, second, expected = states
    done = operations_of_a_save(tmp_path / "counted", states)
    assert len(done) > 20
    assert {name.split()[0] for name in done} == {"write", "flush", "rename"}
    steps = []
    for fatal in range(len(done)):
        folder = tmp_path / f"{how}{fatal}"
        save_all(folder, first)
        broken_save(folder, second, fatal, how)
        told: list[str] = []
        steps.append(go_on(folder, expected, told))
        assert told == []  # a torn checkpoint never has a checkpoint's name, so nothing is found damaged
    assert steps == sorted(steps)
    assert {FIRST, SECOND} == set(steps)


def broken_save(folder: Path, state: State, fatal: int, how: str) -> None:
    """A save whose operation `fatal` fails, in a process that dies of it or in this one."""
    if how == "full":
        with pytest.raises(OSError, match="No space left"), Operations(fatal, "full").active():
            save_all(folder, state)
        return
    pid = os.fork()
    if pid == 0:
        Operations(fatal).install()
        save_all(folder, state)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("fatal", range(4))
def test_a_replacement_is_never_without_both(tmp_path: Path, fatal: int) -> None:
    """Killed between the two renames that replace a folder, the old one comes back; a swept folder holds one of them."""
    target = tmp_path / "adapter"
    write_as(target, "old")
    pid = os.fork()
    if pid == 0:
        Operations(fatal + 2).install()  # after the write and the flush of its file
        write_as(target, "new")
        os._exit(0)
    os.waitpid(pid, 0)
    files.sweep(tmp_path)
    assert (target / "file").read_text() in ("old", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def write_as(target: Path, text: str) -> None:
    with files.staged(target) as staging:
        files.write(staging / "file", lambda path: path.write_text(text))


DAMAGE = {
    "empty": lambda whole: b"",
    "eight bytes": lambda whole: whole[:8],
    "half": lambda whole: whole[: len(whole) // 2],
    "one byte short": lambda whole: whole[:-1],
    "one bit": lambda whole: whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
    "zeros": lambda whole: whole[:8] + bytes(len(whole) - 8),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path: Path, states: States, damage: str) -> None:
    first, second, expected = states
    first.save(tmp_path)
    second.save(tmp_path)
    name = checkpoint.FILES[list(DAMAGE).index(damage) % len(checkpoint.FILES)]
    broken = tmp_path / f"step-{SECOND}" / name
    broken.write_bytes(DAMAGE[damage](broken.read_bytes()))
    told: list[str] = []
    assert go_on(tmp_path, expected, told) == FIRST
    assert len(told) == 1
    assert name in told[0]
    assert f"Going on from step-{FIRST} instead" in told[0]
    assert (tmp_path / f"damaged-step-{SECOND}").is_dir()


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_missing_file_refuses_exact_resume(tmp_path: Path, states: States, name: str) -> None:
    path = states[0].save(tmp_path)
    (path / name).unlink()
    with pytest.raises(RunError, match=f"No checkpoint in .* is whole: .*{name} is missing"):
        checkpoint.find(tmp_path, print)
    with pytest.raises(RunError, match=f"{name} is missing"):
        checkpoint.restore(path, states[1].run)
    files.write_manifest(path)  # a manifest that does not speak of the file does not help
    with pytest.raises(RunError, match=f"{name} is missing"):
        checkpoint.verify(path)


def test_damaged_best_weights_make_their_checkpoint_worth_nothing(tmp_path: Path, states: States) -> None:
    states[0].save(tmp_path)
    save_all(tmp_path / "other", states[1])
    for path in list((tmp_path / "other").iterdir()):
        path.rename(tmp_path / path.name)
    weights = tmp_path / f"best-{SECOND}/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    told: list[str] = []
    assert go_on(tmp_path, states[2], told) == FIRST
    assert f"best-{SECOND}/weights.safetensors is damaged" in told[0]


def test_the_clock_decides_nothing(tmp_path: Path, states: States) -> None:
    states[0].save(tmp_path)
    states[1].save(tmp_path)
    for step, stamp in ((FIRST, 4_000_000_000), (SECOND, 0)):
        os.utime(tmp_path / f"step-{step}", (stamp, stamp))
    assert checkpoint.find(tmp_path, print) == tmp_path / f"step-{SECOND}"
    checkpoint.keep_newest(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{SECOND}"]


def test_old_checkpoints_stay_where_the_newer_one_does_not_read_back(
    tmp_path: Path, states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that gives back another byte than it was given."""
    save_all(tmp_path, states[0])
    real = files.rename

    def spoil(old: Path, new: Path) -> None:
        real(old, new)
        if new.name == f"step-{SECOND}":
            damaged = (new / "optimizer.safetensors").read_bytes()
            (new / "optimizer.safetensors").write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))

    monkeypatch.setattr(files, "rename", spoil)
    with pytest.raises(RunError, match=r"optimizer\.safetensors is damaged"):
        save_all(tmp_path, states[1])
    monkeypatch.undo()
    assert go_on(tmp_path, states[2], []) == FIRST
