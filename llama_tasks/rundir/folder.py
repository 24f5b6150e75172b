"""A run directory, which is a public format: recipe.yaml, environment.json, log.jsonl, checkpoints/, adapter/, eval/, report."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from llama_tasks import files
from llama_tasks.clean import hook_parts
from llama_tasks.errors import RunError
from llama_tasks.files import json_line, write_text
from llama_tasks.recipe import Recipe, dump, load_recipe
from llama_tasks.rundir.lock import LOCK_FILE, refuse_if_held

TASK_FILE = "task.py"  # of a task of the user's own, beside the recipe that names it
HOOK_FILE = "hook.py"  # of `clean.hook`, likewise
_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "tokenizers",
    "sacrebleu",
    "rouge-score",
)


@dataclass(frozen=True)
class RunDirectory:
    """Paths and files of one run."""

    path: Path

    @property
    def adapter(self) -> Path:
        """The trained adapter (folder `model` where all weights were trained)."""
        whole = self.path / "model"
        return whole if whole.exists() else self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        """Resumable checkpoints, `step-N`."""
        return self.path / "checkpoints"

    @property
    def log_file(self) -> Path:
        """One JSON object a line: steps and evaluations."""
        return self.path / "log.jsonl"

    def create(self, recipe: Recipe, environment: dict[str, Any]) -> None:
        """Make the directory with the environment, copies of the user's own files (task, `clean.hook`), and the resolved recipe,
        which names the copies; the recipe is what makes it a run."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "environment.json", environment)
        own = {}
        if recipe.task.endswith(".py"):
            own[TASK_FILE], recipe = Path(recipe.task), replace(recipe, task=TASK_FILE)
        if recipe.clean.hook is not None:
            own[HOOK_FILE], name = hook_parts(recipe.clean.hook)
            recipe = replace(recipe, clean=replace(recipe.clean, hook=f"{HOOK_FILE}:{name}"))
        for name, source in own.items():
            write_text(self.path / name, source.read_text(encoding="utf-8"))
        write_text(self.path / "recipe.yaml", dump(recipe))
        for name in {TASK_FILE, HOOK_FILE} - own.keys():
            (self.path / name).unlink(missing_ok=True)  # of the run that was replaced

    def recipe(self) -> Recipe:
        """The resolved recipe. Raises RunError where this is no run directory."""
        if not (self.path / "recipe.yaml").is_file():
            raise RunError(
                f"{self.path} is no run directory: it has no recipe.yaml. Runs are made by `llama-tasks finetune`."
            )
        return load_recipe(self.path / "recipe.yaml")

    def environment(self) -> dict[str, Any]:
        """What environment.json says."""
        return read_json(self.path / "environment.json")

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to log.jsonl."""
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl; a last line cut by a crash is left out."""
        return list(read_jsonl(self.log_file)) if self.log_file.exists() else []

    def rewind_log(self, step: int, evaluated: int) -> None:
        """Drop lines of steps after `step` and of evaluations after `evaluated`, which a resumed run writes again."""
        last = {"evaluation": evaluated}
        kept = [entry for entry in self.read_log() if entry.get("step", 0) <= last.get(entry["event"], step)]
        # As `log` wrote them, a loss of NaN too: `files.json_line` would refuse it, and the run could not be resumed.
        write_text(self.log_file, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept))


def claim(path: Path, resume: bool, overwrite: bool, mine: bool = False) -> RunDirectory:
    """Decide whether a run may use this directory (`mine`: whose lock it holds); nothing is written or removed yet.

    Raises:
        RunError: it exists and neither --resume nor --overwrite was said, it is not a run directory, it cannot be
            written, or another run works in it.
    """
    run = RunDirectory(path)
    if resume and overwrite:
        raise RunError("--resume and --overwrite exclude each other.")
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; name another output.")
    if not mine:
        refuse_if_held(path)
    occupied = path.is_dir() and not _never_began(path)
    is_run = all((path / name).is_file() for name in ("recipe.yaml", "environment.json"))
    if (occupied and not is_run) or path.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise RunError(f"{path} exists and is no run directory; name another one with output=DIR.")
    if occupied and not (resume or overwrite):
        raise RunError(
            f"The run directory {path} exists. Continue it with --resume, replace it with --overwrite, or name another one "
            "with output=DIR (make: RESUME=1, OVERWRITE=1, OUT=DIR)."
        )
    if resume and not occupied:
        raise RunError(f"There is nothing to resume in {path}.")
    if not os.access(next(p for p in (path, *path.absolute().parents) if p.exists()), os.W_OK):
        raise RunError(f"{path} cannot be written (permission denied).")
    return run


def clear(run: RunDirectory) -> None:
    """Remove an older run (asked for by --overwrite), just before the new one begins.

    Recipe, the user's files and environment stay until new ones replace them, so that a kill in between leaves a run directory.
    """
    for path in run.path.iterdir() if run.path.exists() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("recipe.yaml", "environment.json", TASK_FILE, HOOK_FILE, LOCK_FILE):
            path.unlink()


def _never_began(path: Path) -> bool:
    """Whether a directory is empty but for what a run leaves that was killed before its recipe was written."""
    names = {entry.name for entry in path.iterdir() if not files.is_leftover(entry.name)}
    return names <= ({LOCK_FILE, "environment.json", TASK_FILE, HOOK_FILE} if LOCK_FILE in names else set())


def environment(data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Where and with what a run was made: versions, hardware, git commit, seed and data fingerprints."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "llama_tasks": _version("llama-tasks"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        "hardware": _hardware(),
        "git": _git_commit(),
        "seed": seed,
        "data": data,
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one object a line, whole or not at all. Raises RunError as `json_line`."""
    write_text(path, "".join(map(json_line, rows)))


def read_json(path: Path) -> Any:
    """Read JSON. Raises RunError where the file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; the run is not complete.") from None
    except ValueError as error:
        raise RunError(f"{path} is broken ({error}).") from None


def read_jsonl(path: Path, *, whole: bool = False) -> Iterator[dict[str, Any]]:
    """Read one object a line; a broken last line (a crash while appending) is left out, unless the file must be `whole`.

    Raises RunError for a missing file or a broken line elsewhere.
    """
    if not path.is_file():
        raise RunError(f"{path} is missing.")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    yield json.loads(line)
            except ValueError as error:
                if whole or line.endswith(b"\n"):
                    raise RunError(f"{path}:{number} is broken ({error}).") from None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(), "gpus": gpus}  # fmt: skip


def _git_commit() -> str | None:
    """Commit of the working directory, with `+` where it has changes; None outside a repository."""
    try:
        ask = [["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"]]
        commit, changes = (
            subprocess.run(a, capture_output=True, text=True, timeout=10, check=True).stdout for a in ask
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")


def command_line() -> str:
    """The command that runs now, as a user would type it again."""
    import shlex

    return os.environ.get("LLAMA_TASKS_COMMAND") or shlex.join(["llama-tasks", *sys.argv[1:]])
