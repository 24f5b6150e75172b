"""What an evaluation looks at beside its scores: leaks and general text (with the model), labels and slices (from the rows)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from llama_tasks import metrics
from llama_tasks.errors import MetricError
from llama_tasks.evaluation import forgetting, leaks, scoring, slices
from llama_tasks.recipe import Recipe, Suite
from llama_tasks.report import System
from llama_tasks.rundir import RunDirectory, read_json, read_jsonl, write_json, write_jsonl
from llama_tasks.tasks import Task

if TYPE_CHECKING:
    from llama_tasks.dataset import Dataset

LEAKS, GENERAL = "leaks.json", "general.jsonl"
SOURCE = "general.json"  # which set the losses are of
TOKENS_AT_ONCE = 256  # of general text: needs less memory than the evaluation that the pre-flight has tried


def observe(run: RunDirectory, recipe: Recipe, dataset: Dataset, model: Any) -> None:
    """Write eval/leaks.json, eval/general.json and eval/<system>/general.jsonl."""
    write_json(run.path / "eval" / LEAKS, leaks.check(dataset))
    source = recipe.eval.general_text
    for path in run.path.glob(f"eval/*/{GENERAL}"):
        path.unlink()  # of another set
    if source is None:
        return
    from llama_tasks.score import text_losses

    prompts = forgetting.read(source)
    write_json(run.path / "eval" / SOURCE, {"source": source})
    systems = ("base", "adapter") if hasattr(model, "disable_adapter") else ("base",)
    for name in systems:
        with model.disable_adapter() if name == "base" and len(systems) > 1 else nullcontext():
            rows = text_losses(model, dataset.encoder, prompts, min(recipe.eval.tokens_per_batch, TOKENS_AT_ONCE))
        write_jsonl(run.path / "eval" / name / GENERAL, rows)


def gather(
    run: RunDirectory,
    systems: Mapping[str, System],
    suite: Suite,
    task: Task,
    score: Callable[[list[Mapping[str, Any]]], list[dict[str, Any]]],
) -> dict[str, Any]:
    """The report's `labels`, `slices`, `leaks` and `general`; `score` gives the suite's scores of some rows."""
    rows = systems["base"].predictions
    values = {name: system.row_values for name, system in systems.items()}
    found = run.path / "eval" / LEAKS
    scored = {name: (system.predictions, system.scores) for name, system in systems.items()}

    def score_what_can_be(rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        try:
            return score(rows)
        except MetricError:  # every row that a metric is about has leaked; the others have their scores still
            return scoring.score(rows, suite, task, optional=suite.metrics)

    return {
        "labels": {name: _labels(system.predictions, task.labels) for name, system in systems.items()}
        if task.labels
        else {},
        "slices": {
            "metric": systems["base"].row_metric,
            "columns": slices.slices(rows, values, n_resamples=suite.n_resamples, seed=suite.seed),
        },
        "leaks": leaks.summary(read_json(found) if found.is_file() else None, scored, score_what_can_be),
        "general": _general(run, suite),
    }


def _labels(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """Per-label table and confusion matrix, and the reliability diagram's bins where the choices' likelihoods are known."""
    texts = [row["prediction"] for row in rows], [row["references"] for row in rows]
    found = {"table": metrics.label_table(*texts, labels), "confusion": metrics.confusion(*texts, labels)}
    if not all(row.get("choices") and row["prediction"] in row["choices"] for row in rows):
        return found
    stats = metrics.row_statistics(metrics.create("calibration_error:bins=10", "en"), rows)
    return found | {"reliability": metrics.reliability(stats)}


def _general(run: RunDirectory, suite: Suite) -> dict[str, Any]:
    paths = {name: run.path / "eval" / name / GENERAL for name in ("base", "adapter")}
    systems = {name: list(read_jsonl(path)) for name, path in paths.items() if path.is_file()}
    if not systems or suite.general_text is None:
        return {}
    # An evaluation may have had another set than the recipe's; older runs do not say.
    measured = run.path / "eval" / SOURCE
    source = read_json(measured)["source"] if measured.is_file() else suite.general_text
    return {"source": source, "scores": forgetting.compare(systems, suite.n_resamples, suite.seed)}
