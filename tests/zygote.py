"""A process that has imported everything and forks a run for every line it reads, so that a run starts in no time.

A line is JSON: {"job": folder, "argv": [...], "cwd": ..., "fault": {...}}. The run's output goes to `out` and `err` in the
job's folder, its process id to `pid`, and its exit code (negative: the signal that ended it) to `status`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from operations import Operations


def main() -> None:
    """Fork for every line of stdin, with a process between that waits for the end."""
    import peft  # noqa: F401 - with bitsandbytes, which imports torch's compiler
    import torch
    from transformers import Trainer  # noqa: F401 - asked for the optimizer

    import llama_tasks.finetune  # noqa: F401 - what a run needs, once
    from llama_tasks import cli, metrics

    metrics.create("rougeL", "en")  # every import here takes longer than a run
    torch.set_num_threads(1)
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        if os.fork() == 0:
            wait_for(json.loads(line), cli.main)


def wait_for(request: dict[str, Any], command: Any) -> None:
    """Start the run and write what became of it."""
    job = Path(request["job"])
    pid = os.fork()
    if pid == 0:
        run(request, command)
    put(job / "pid", pid)
    _, status = os.waitpid(pid, 0)
    put(job / "status", os.waitstatus_to_exitcode(status))
    os._exit(0)


def run(request: dict[str, Any], command: Any) -> None:
    """The run itself, with its fault."""
    code = 70
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(Path(request["job"]) / name, os.O_WRONLY | os.O_CREAT), number)
        os.chdir(request["cwd"])
        prepare(request.get("fault", {}), Path(request["job"]))
        code = command(request["argv"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def prepare(fault: dict[str, Any], job: Path) -> None:
    """Arrange what shall go wrong in this process, whose files are in `job`."""
    os.environ.update(fault.get("environment", {}))
    if "mount" in fault:
        mount(*fault["mount"])
    if "memory" in fault:  # bytes of address space beyond what the process has now, as `ulimit -v` would say
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + fault["memory"],) * 2)
    if "slow_steps" in fault:
        slow_down(fault["slow_steps"], job / "slow")
    if "slow_rows" in fault:
        slow_down_rows(*fault["slow_rows"])
    if "signal_in" in fault:
        signal_in(*fault["signal_in"])
    if "fill_after_checkpoint" in fault:
        fill(after=fault["fill_after_checkpoint"])
    if "hog" in fault:
        fill(after=fault["hog"], really=True)
    if "operation" in fault:
        Operations(fault["operation"], fault["how"]).install()


def slow_down(seconds: float, begun: Path) -> None:
    """Steps after the first take so long; the file is there once one has begun."""
    from llama_tasks.train import Training

    step = Training._optimizer_step

    def slow(self: Any, *planned: Any) -> Any:
        if self.step:
            begun.touch()
            time.sleep(seconds)
        return step(self, *planned)

    Training._optimizer_step = slow  # type: ignore[method-assign]


def signal_in(work: str, number: int, step: int) -> None:
    """The process gets the signal in the evaluation after a step, or while that step is saved."""
    from llama_tasks import checkpoint
    from llama_tasks.supervise import watch

    place, name = {"evaluation": (watch, "_measure"), "save": (checkpoint, "save")}[work]
    do, validate = getattr(place, name), watch.Watch.validate_if_due
    done = -1

    def noting(self: Any) -> None:
        nonlocal done
        done = self.training.step
        validate(self)

    def signalled(*arguments: Any) -> Any:
        if done == step:
            os.kill(os.getpid(), number)
        return do(*arguments)

    for kind, method, changed in ((watch.Watch, "validate_if_due", noting), (place, name, signalled)):
        setattr(kind, method, changed)


def slow_down_rows(seconds: float, log: str) -> None:
    """Rows of a predictions file take so long; each that was kept is named in a log."""
    from llama_tasks.rundir.journal import Journal

    append = Journal.append

    def slow(self: Any, index: int, row: Any) -> None:
        append(self, index, row)
        with open(log, "a") as file:
            file.write(f"{self.target}:{index}\n")
        time.sleep(seconds)

    Journal.append = slow  # type: ignore[method-assign]


def fill(after: int, really: bool = False) -> None:
    """So many renames to a checkpoint's name go well; then the disk is full: another program takes all that is free, or
    (where the disk is everybody's) writing refuses."""
    from llama_tasks import files

    rename, write = files.rename, files.write
    saved: list[Path] = []

    def counted(old: Path, new: Path) -> None:
        rename(old, new)
        if new.name.startswith("step-") and len(saved) < after:
            saved.append(new)
            if really and len(saved) == after:
                take_all(new.parents[2] / "hog")

    def refusing(path: Path, how: Any) -> None:
        if len(saved) >= after and not really:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # SIGXFSZ is ignored by Python: EFBIG
        write(path, how)

    files.rename, files.write = counted, refusing


def take_all(path: Path) -> None:
    """Write until nothing more goes."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def mount(place: str, kind: str, options: str, flags: int = 0) -> None:
    """Mount a file system that this process alone sees."""
    system = ctypes.CDLL(None, use_errno=True)
    private = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
    calls = [
        lambda: system.unshare(0x20000),  # CLONE_NEWNS
        lambda: system.mount(b"none", b"/", None, private, None),
        lambda: system.mount(place.encode() if kind == "bind" else b"none", place.encode(),
                             None if kind == "bind" else kind.encode(), flags, options.encode()),
    ]  # fmt: skip
    for call in calls:
        if call():
            raise OSError(ctypes.get_errno(), "mount")


def put(path: Path, value: int) -> None:
    """Write a number whole or not at all."""
    path.with_suffix(".tmp").write_text(str(value))
    path.with_suffix(".tmp").rename(path)


if __name__ == "__main__":
    main()
