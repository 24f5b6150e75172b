"""`llama-tasks runs`: what run directories hold, and how two of them differ. Reads JSON and YAML alone; torch stays out."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from llama_tasks.errors import LlamaTasksError, RunError
from llama_tasks.recipe import Recipe, leaves
from llama_tasks.rundir.folder import RunDirectory, read_json
from llama_tasks.rundir.lock import LOCK_FILE


@dataclass(frozen=True)
class Summary:
    """One run. `state` is trained, interrupted at a step, running, or damaged with the reason."""

    name: str
    task: str
    base: str
    state: str
    steps: int
    metric: str
    before: float | None
    after: float | None
    created: str

    @property
    def score(self) -> str:
        """Leading metric, base -> trained."""
        if self.after is None:
            return ""
        return f"{self.metric} {'–' if self.before is None else f'{self.before:.1f}'} → {self.after:.1f}"


def find(folder: Path) -> list[RunDirectory]:
    """The runs in a folder and in the folders of it, oldest first. Raises RunError where there is none."""
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}; runs are made by `llama-tasks finetune`.")
    places = [path.parent for path in sorted([*folder.glob("*/recipe.yaml"), *folder.glob("*/*/recipe.yaml")])]
    runs = [RunDirectory(path) for path in places if (path / "environment.json").exists()]
    if not runs:
        raise RunError(f"{folder} holds no run.")
    return sorted(runs, key=lambda run: (run.path / "environment.json").stat().st_mtime)


def summarise(run: RunDirectory, under: Path) -> Summary:
    """What one run is; what cannot be read makes it damaged, not the list."""
    name = run.path.relative_to(under).as_posix() if run.path.is_relative_to(under) else str(run.path)
    try:
        recipe, environment, log = run.recipe(), run.environment(), run.read_log()
        report = _report(run) if (run.path / "report.json").exists() else {}
        metric, before, after = _leading(report, _trained(recipe))
    except (LlamaTasksError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return Summary(name, "", "", f"damaged: {error}", 0, "", None, None, "")
    step = max((entry.get("step", 0) for entry in log), default=0)
    created = str(environment.get("created", ""))[:16].replace("T", " ")
    return Summary(name, recipe.task, recipe.base.model, _state(run, log, step), step, metric, before, after, created)


def table(summaries: list[Summary]) -> Table:
    """The list, as a terminal shows it."""
    made = Table("run", "task", "base", "state", "steps", "score", "begun", box=None, header_style="bold")
    for row in summaries:
        cells = (row.name, row.task, row.base, row.state, f"{row.steps:,}", row.score, row.created)
        made.add_row(*map(Text, cells))
    return made


def compare(one: RunDirectory, other: RunDirectory) -> Table:
    """Keys of the recipes that differ, then every score that both or either have."""
    made = Table("", *(escape(run.path.name) for run in (one, other)), box=None, header_style="bold")
    left, right = (dict(leaves(asdict(run.recipe()))) for run in (one, other))
    for key in sorted({*left, *right} - {"output"}):
        if left.get(key) != right.get(key):
            made.add_row(*map(Text, (key, _shown(left.get(key)), _shown(right.get(key)))))
    scores = [_scores(run) for run in (one, other)]
    for key in dict.fromkeys([*scores[0], *scores[1]]):
        made.add_row(*map(Text, (key, *(found.get(key, "–") for found in scores))))
    return made


def _state(run: RunDirectory, log: list[dict[str, Any]], step: int) -> str:
    if _is_held(run.path):
        return "running"
    if not any(entry.get("event") == "end" for entry in log):
        return f"interrupted at step {step}"
    if not any(
        (run.adapter / name).exists() for name in ("adapter_model.safetensors", "model.safetensors", "config.json")
    ):
        return "damaged: the adapter is missing"
    return "trained"


def _is_held(folder: Path) -> bool:
    """Whether a process of this machine holds the lock; nothing is changed."""
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _report(run: RunDirectory) -> dict[str, Any]:
    """What report.json says. Raises RunError where it is no report."""
    path = run.path / "report.json"
    found = read_json(path)
    if not isinstance(found, dict):
        raise RunError(f"{path} holds no report.")
    return found


def _trained(recipe: Recipe) -> str:
    """Which system of a report was trained: the adapter; where all weights were, the only one, which has the base's place."""
    return "base" if recipe.adapter is None else "adapter"


def _leading(report: dict[str, Any], trained: str) -> tuple[str, float | None, float | None]:
    """The first score of a report: its name, the base's value, the trained system's."""
    for score in report.get("scores", []):
        base = (score.get("base") or {}).get("value") if trained != "base" else None
        return score["metric"], base, score[trained]["value"]
    return ("loss", None, float(report["loss"])) if "loss" in report else ("", None, None)


def _scores(run: RunDirectory) -> dict[str, str]:
    """Name and language of each score: the trained system's value with its interval."""
    found: dict[str, str] = {}
    trained = _trained(run.recipe())
    with suppress(RunError, KeyError, TypeError, AttributeError):
        for score in _report(run).get("scores", []):
            value, interval = score[trained]["value"], score[trained].get("interval")
            around = f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""
            found[f"{score['metric']} {score.get('lang') or ''}".strip()] = f"{value:.2f}{around}"
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
