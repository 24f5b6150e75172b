"""What an evaluation writes down of itself, and what a report says of it: by what its numbers were made, and the training before.

eval/SYSTEM/decoding.json   beside predictions.jsonl: how they were made, and by which evaluation
eval/data.json              of the last evaluation: which it was, its test rows, what asked for it and what it ran with
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks.errors import RunError
from llama_tasks.recipe import Recipe, Suite
from llama_tasks.rundir import RunDirectory, command_line, environment, read_json

if TYPE_CHECKING:
    from llama_tasks.dataset import Dataset

DECODING, LAST = "decoding.json", "data.json"
RAN_WITH = ("llama_tasks", "versions", "hardware", "git")


def decoding_of(predictions: Path) -> dict[str, Any]:
    """The `fingerprint` of the evaluation that made predictions (None: older than such marks), and their `decoding`; empty where
    rows were replaced and what they are was not yet written down."""
    path = predictions.with_name(DECODING)
    if not path.is_file():
        return {}
    decoding = read_json(path)
    return {"fingerprint": decoding.pop("fingerprint", None), "decoding": decoding}


def about(dataset: Dataset, suite: Suite, command: str | None) -> dict[str, Any]:
    """What an evaluation says of itself: its test rows, which may be others than the training's; and, where it is not the end of
    the training, what asked for it and what it ran with."""
    test = {"test": dataset.fingerprints["test"]}
    return {**test, **({"command": command, "environment": environment(test, suite.seed)} if command else {})}


def last(run: RunDirectory) -> dict[str, Any]:
    """What the last evaluation that ended says of itself."""
    path = run.path / "eval" / LAST
    return read_json(path) if path.is_file() else {}


def asked(run: RunDirectory, said: dict[str, Any]) -> dict[str, Any]:
    """`command` and `environment` of an evaluation: its own, or the training's."""
    trained = run.environment()
    known = {key: trained.get(key) for key in ("created", *RAN_WITH, "seed", "data")}
    return {
        "command": said.get("command") or trained.get("command", command_line()),
        "environment": said.get("environment", known),
    }


def check_one(run: RunDirectory) -> None:
    """Raise RunError where an evaluation was stopped after it had replaced some of an older one's answers."""
    answers = [run.path / "eval" / name / "predictions.jsonl" for name in ("base", "adapter")]
    made_by = {decoding_of(path).get("fingerprint", "") for path in answers if path.is_file()}
    mark = last(run).get("fingerprint")  # evaluations that are older than such marks have none
    if len(made_by | {mark} if mark else made_by) > 1:
        raise RunError(
            f"{run.path} holds answers of two evaluations, because the last one was stopped; run `llama-tasks evaluate "
            f"{run.path}` again."
        )


def training_summary(run: RunDirectory) -> dict[str, Any] | None:
    """log.jsonl as the report's `training`, or None where nothing was trained."""
    log = run.read_log()
    steps = [entry for entry in log if entry["event"] == "step"]
    if not steps:
        return None
    evaluations = [{k: e[k] for k in ("step", "metric", "value")} for e in log if e["event"] == "evaluation"]
    end: dict[str, Any] = next((entry for entry in reversed(log) if entry["event"] == "end"), {})
    return {
        "steps": [{k: e[k] for k in ("step", "loss", "learning_rate", "tokens_per_second")} for e in steps],
        "evaluations": evaluations,
        **{k: end.get(k) for k in ("best_step", "trainable_parameters", "total_parameters", "seconds")},
    }


def provenance(run: RunDirectory, recipe: Recipe) -> dict[str, Any]:
    """Everything needed to make the numbers again; where an evaluation of its own made them, the training's part stands apart."""
    trained, said = run.environment(), last(run)
    ran = said.get("environment", trained)
    apart = {"training": {key: trained.get(key) for key in ("command", *RAN_WITH)}} if "environment" in said else {}
    return {
        "decoding": {p.parent.name: decoding_of(p)["decoding"] for p in sorted(run.path.glob(f"eval/*/{DECODING}"))},
        **{key: ran.get(key) for key in RAN_WITH},
        "seed": trained.get("seed"),
        "data": {**trained["data"], **({"test": said["test"]} if said else {})},
        **apart,
        "base_model": recipe.base.model,
        "base_revision": recipe.base.revision,
        "recipe": {**dataclasses.asdict(recipe), "task": Path(recipe.task).name},
    }
