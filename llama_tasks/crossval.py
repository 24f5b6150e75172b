"""k-fold cross-validation: every training row is scored once, by an adapter that has not seen it.

Rows whose main text is the same or nearly the same lie in one fold, as they lie on one side of a carved split. A fold is a run
of its own (`folds/K`), with the recipe's validation split; the recipe's test split is not looked at.
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from llama_tasks import adapters, evaluation, files, rundir
from llama_tasks.adapters import integrity
from llama_tasks.dataset import SPLIT_SEED, Dataset, assemble, make_task, read
from llama_tasks.errors import RecipeError, RunError
from llama_tasks.finetune import fit, make_accelerator
from llama_tasks.model import NativeLlamaForCausalLM
from llama_tasks.recipe import Recipe, dump, load_recipe
from llama_tasks.sources import Row, Split
from llama_tasks.sources.carving import like_groups, text_of
from llama_tasks.sources.rows import sha256_of
from llama_tasks.supervise.resume import refuse_changes
from llama_tasks.supervise.settling import pin_all, pin_like
from llama_tasks.tasks import Task

RESULT = "crossval.json"
RECIPE = "crossval.yaml"  # not recipe.yaml, which would make the folder a run


def crossval(recipe: Recipe, folds: int, *, resume: bool, overwrite: bool, console: Console) -> dict[str, Any]:
    """Train and score every fold, write `crossval.json`; returns it.

    Raises:
        RecipeError: what cannot be cross-validated, or fewer groups of like rows than folds.
        RunError: the folder exists, or was made with another recipe, number of folds or rows.
        LlamaTasksError: as a fine-tuning.
    """
    place = Path(recipe.output or f"runs/{Path(recipe.task).stem}")
    accelerator = make_accelerator(recipe)
    _check(recipe, folds, accelerator)
    evaluation.check_suite(recipe)
    before = _claim(place, folds, resume, overwrite)
    recipe = pin_like(recipe, before)
    if before is not None:
        refuse_changes(place, pin_like(before, before), recipe)  # older ones were written down before they were pinned
    else:
        _begin(place, recipe, folds)
    task, labels, splits = read(recipe)
    sides = assign([text_of(row, task.main_field) for row in splits["train"].rows], folds, recipe.data.split_similarity)
    weights = integrity.check_base(recipe.base, {})
    load = partial(adapters.load_base, recipe.base, accelerator.device)
    keeps = recipe.adapter is not None and not adapters.changes_base(recipe.adapter)  # one base serves all folds
    base = cache(load) if keeps else load
    for k in range(folds):
        fold = _Fold(k, rundir.RunDirectory(place / "folds" / str(k + 1)), sides)
        if fold.is_done(splits):
            console.print(f"fold {k + 1} of {folds} is done", highlight=False)
            continue
        console.print(f"[bold]fold {k + 1} of {folds}[/]", highlight=False)
        _run(fold, recipe, labels, splits, base, accelerator, console, weights, keeps)
    result = summarise(place, recipe, task, folds)
    rundir.write_json(place / RESULT, result)
    return result


@dataclass(frozen=True)
class _Fold:
    """Fold `index` (from 0), its run, and the fold of every row."""

    index: int
    run: rundir.RunDirectory
    sides: Sequence[int]

    def splits(self, splits: dict[str, Split]) -> dict[str, Split]:
        """Its rows to test on, all others to train on."""
        train = splits["train"]
        tested = [row for row, side in zip(train.rows, self.sides, strict=True) if side == self.index]
        learned = [row for row, side in zip(train.rows, self.sides, strict=True) if side != self.index]
        return {**splits, "train": _part(train, learned), "test": _part(train, tested)}

    def is_done(self, splits: dict[str, Split]) -> bool:
        """Whether it is scored. Raises RunError where that was with other rows, or they lay in other folds: then some would be
        tested twice, or never."""
        report = self.run.path / "report.json"
        if not report.is_file():
            return False
        if rundir.read_json(report)["provenance"]["data"] != {k: v.describe() for k, v in self.splits(splits).items()}:
            raise RunError(
                f"The rows have changed since {self.run.path} was scored; use --overwrite, or put them back."
            )
        return True


def _part(split: Split, rows: list[Row]) -> Split:
    return replace(split, rows=rows, sha256=sha256_of(rows))


def assign(texts: Sequence[str], folds: int, similarity: float) -> list[int]:
    """The fold of every text: like ones together, folds as even as that allows; no order of the texts changes it.

    Raises:
        RecipeError: fewer groups than folds.
    """
    groups, keys, sizes = like_groups(texts, similarity, SPLIT_SEED)
    if len(sizes) < folds:
        raise RecipeError(
            f"The training rows are {len(sizes)} groups of like texts (data.split_similarity), too few for {folds} folds."
        )
    filled, side = [0] * folds, dict[int, int]()
    for group in sorted(sizes, key=lambda group: (-sizes[group], keys[group])):  # the largest first, so that they fit
        side[group] = min(range(folds), key=filled.__getitem__)
        filled[side[group]] += sizes[group]
    return [side[group] for group in groups]


def _run(
    fold: _Fold,
    recipe: Recipe,
    labels: list[str],
    splits: dict[str, Split],
    base: Callable[[], NativeLlamaForCausalLM],
    accelerator: Accelerator,
    console: Console,
    weights: dict[str, str],
    keeps: bool,
) -> None:
    """Train, save, read back and score one fold; `keeps`: `base` gives the next one the same again."""
    began = time.perf_counter()
    resume = (fold.run.path / "recipe.yaml").is_file()
    mine = fold.splits(splits)
    recipe = replace(recipe, output=str(fold.run.path))
    if resume:
        recipe = pin_all(recipe, fold.run)
    set_seed(recipe.train.seed)
    dataset: Dataset = assemble(
        recipe, adapters.load_tokenizer(recipe.base), make_task(recipe, labels, mine["train"].rows), labels, mine
    )
    evaluation.rehearse(dataset, recipe.eval)
    fit(fold.run, recipe, dataset, base(), accelerator, console, began, resume, False, weights, keeps)


def summarise(place: Path, recipe: Recipe, task: Task, folds: int) -> dict[str, Any]:
    """The scores of all folds, from their predictions: mean, standard deviation and t-interval over folds; of all rows together,
    the value with its bootstrap interval and the significance against the base."""
    runs = [place / "folds" / str(k + 1) for k in range(folds)]
    rows = {name: [_predictions(run, name) for run in runs] for name in ("base", "adapter")}
    if not any(rows["base"]) or not any(rows["adapter"]):  # all weights were trained: no base beside the model
        rows = {"adapter": rows["adapter"] if any(rows["adapter"]) else rows["base"]}
    pooled = {name: [row for part in parts for row in part] for name, parts in rows.items()}
    scored = {name: evaluation.score(part, recipe.eval, task) for name, part in pooled.items()}
    by_fold = [evaluation.score(part, replace(recipe.eval, n_resamples=1), task) for part in rows["adapter"]]
    lines = []
    for score in scored["adapter"]:
        same = partial(_value, metric=score["metric"], lang=score["lang"])
        lines.append({**spread([value for part in by_fold if (value := same(part)) is not None]), "pooled": score,
                      "metric": score["metric"], "lang": score["lang"],
                      "base": same(scored.get("base", []))})  # fmt: skip
    tests = evaluation.compare(pooled["base"], pooled["adapter"], recipe.eval, task) if "base" in pooled else []
    return {"format": 1, "folds": folds, "rows": len(pooled["adapter"]), "rows_by_fold": list(map(len, rows["adapter"])),
            "scores": lines, "comparisons": tests}  # fmt: skip


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and the 95% interval mean +- t(0.975, n - 1) s / sqrt(n). The folds' training rows overlap,
    so the interval is a little too narrow (Bengio and Grandvalet, 2004)."""
    from scipy.stats import t

    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return {"values": list(values), "mean": mean, "sd": None, "interval": None}
    sd = statistics.stdev(values)
    half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {"values": list(values), "mean": mean, "sd": sd, "interval": [mean - half, mean + half]}


def table(result: dict[str, Any]) -> Table:
    """The scores for a terminal."""
    found = Table(
        "metric", "language", title=f"{result['folds']} folds, {result['rows']:,} rows, each tested once", box=SIMPLE
    )
    for name in ("mean of folds", "sd", "95% (t)", "all rows", "95% (bootstrap)", "base"):
        found.add_column(name, justify="right")
    for line in result["scores"]:
        pooled = line["pooled"]
        numbers = [_number(line["mean"]), _number(line["sd"]), _interval(line["interval"]), _number(pooled["value"]),
                   _interval(pooled["interval"]), _number(line["base"])]  # fmt: skip
        found.add_row(line["metric"], line["lang"], *numbers)
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _value(scores: Sequence[dict[str, Any]], metric: str, lang: str) -> float | None:
    return next((score["value"] for score in scores if (score["metric"], score["lang"]) == (metric, lang)), None)


def _predictions(run: Path, name: str) -> list[dict[str, Any]]:
    path = run / "eval" / name / "predictions.jsonl"
    return list(rundir.read_jsonl(path)) if path.is_file() else []


def _check(recipe: Recipe, folds: int, accelerator: Accelerator) -> None:
    if folds < 2:
        raise RecipeError(f"--folds is {folds}; cross-validation needs at least 2.")
    if recipe.data.streaming or recipe.eval.scoring == "perplexity":
        raise RecipeError(
            "crossval needs all rows at hand and a score of each: no data.streaming, no eval.scoring=perplexity."
        )
    if accelerator.num_processes > 1:
        raise RecipeError("crossval trains one fold after the other in one process; start it without a launcher.")


def _claim(place: Path, folds: int, resume: bool, overwrite: bool) -> Recipe | None:
    """Check that the folder may be used; what it began with, where it goes on. Raises RunError."""
    if resume and overwrite:
        raise RunError("--resume and --overwrite exclude each other.")
    is_ours = (place / RECIPE).is_file()
    if place.exists() and any(place.iterdir()) and not is_ours:
        raise RunError(f"{place} exists and holds no cross-validation; name another folder with output=DIR.")
    if is_ours and not (resume or overwrite):
        raise RunError(
            f"{place} exists. Continue it with --resume, replace it with --overwrite, or name another output=DIR."
        )
    if resume and not is_ours:
        raise RunError(f"There is nothing to resume in {place}.")
    if not resume:
        return None
    before = rundir.read_json(place / "folds.json")["folds"]
    if before != folds:
        raise RunError(f"{place} has {before} folds, not {folds}; go on with --folds {before}, or use --overwrite.")
    return load_recipe(place / RECIPE)


def _begin(place: Path, recipe: Recipe, folds: int) -> None:
    """Make the folder anew, with what it is made with."""
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    rundir.write_json(place / "folds.json", {"folds": folds})
    files.write_text(place / RECIPE, dump(recipe))
