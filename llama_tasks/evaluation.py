"""The evaluation path, station by station: run -> predictions of base and adapter -> scores -> report.

Suites name task and metrics; this file joins them. `predictions.jsonl` is the seam: everything after it runs without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import metrics, report, significance
from llama_tasks.errors import RecipeError, RunError
from llama_tasks.metrics import Metric
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import Recipe, Suite
from llama_tasks.rundir import RunDirectory, command_line, read_jsonl, write_json, write_jsonl

if TYPE_CHECKING:
    from llama_tasks.dataset import Dataset

Rows = Sequence[Mapping[str, Any]]
Say = Callable[[str], None]
EVERY = "all"  # the "language" of a score over rows of all languages
_LANGUAGE_FREE = ("accuracy", "macro_f1", "micro_f1")  # compare labels, not text
_ROW_METRIC = {"bleu": "chrf", "macro_f1": "accuracy"}  # corpus metrics say little of one row; these speak for them


def check_suite(recipe: Recipe) -> None:
    """Raise MetricError or RecipeError for a suite that could not be scored after the training."""
    suite, lead = recipe.eval, recipe.train.metric_for_best_model
    if suite.scoring == "perplexity":
        return
    if not suite.metrics:
        raise RecipeError(f"eval.metrics is empty; name at least one of {', '.join(metrics.names())}.")
    if suite.scoring == "likelihood" and recipe.task != "classify":
        raise RecipeError(
            f"eval.scoring: likelihood ranks a label set, which the task {recipe.task!r} does not have; use generate."
        )
    for name in [*suite.metrics, *([lead] if lead else [])]:
        if name in _LANGUAGE_FREE and recipe.task != "classify":
            raise RecipeError(f"eval.metrics: {name} compares labels, which the task {recipe.task!r} does not have.")
        metrics.create(name, "en", ["a", "b"])


def evaluate(run: RunDirectory, recipe: Recipe, dataset: Dataset, say: Say) -> dict[str, Any]:
    """Score base and adapter on the test split with the same suite, compare them, write the report; returns it."""
    model, has_base = _load(run, recipe)
    systems = {}
    if has_base:
        say("scoring the base on the test split")
        with model.disable_adapter():
            systems["base"] = predict(model, dataset, dataset.prompts["test"], recipe.eval)
    say("scoring the adapter on the test split" if has_base else "scoring the model on the test split")
    systems["adapter" if has_base else "base"] = predict(model, dataset, dataset.prompts["test"], recipe.eval)
    for name, rows in systems.items():
        write_jsonl(run.path / "eval" / name / "predictions.jsonl", rows)
    return write_report(run, recipe, dataset.labels)


def write_report(run: RunDirectory, recipe: Recipe, labels: Sequence[str]) -> dict[str, Any]:
    """predictions.jsonl -> scores.json of each system -> report.json, report.md, report.html; needs no torch."""
    systems = {}
    for name in ("base", "adapter"):
        path = run.path / "eval" / name / "predictions.jsonl"
        if path.is_file():
            rows = list(read_jsonl(path))
            scores = score(rows, recipe.eval, labels)
            counts = metrics.count(rows, labels or None)
            write_json(path.with_name("scores.json"), {"system": name, "scores": scores, "counts": counts})
            lead, values = row_values(rows, recipe.eval, labels)
            systems[name] = report.System(name, scores, counts, rows, values, lead)
    adapter = systems.get("adapter")
    pairs = compare(systems["base"].predictions, adapter.predictions, recipe.eval, labels) if adapter else []
    result = report.build(
        task=recipe.task,
        command=run.environment().get("command", command_line()),
        base=systems["base"],
        adapter=adapter,
        comparisons=pairs,
        training=training_summary(run),
        provenance=provenance(run, recipe),
    )
    report.write(result, run.path)
    return result


def predict(model: Any, dataset: Dataset, prompts: Sequence[Prompt], suite: Suite) -> list[dict[str, Any]]:
    """One prediction row for every prompt, in order, as predictions.jsonl holds them."""
    from llama_tasks.generate import generate
    from llama_tasks.score import score_choices

    if suite.scoring == "likelihood":
        ids = dataset.encoder.fit(prompts, max(len(i) for i in dataset.encoder.ids(dataset.labels)) + 1)
        scored = score_choices(model, dataset.encoder, ids, dataset.labels, suite.tokens_per_batch)
        return [_chosen(prompt, len(i), choices) for prompt, i, choices in zip(prompts, ids, scored, strict=True)]
    ids = dataset.encoder.fit(prompts, suite.max_new_tokens)
    outputs = generate(model, dataset.encoder, ids, suite)
    return [
        {**_row(prompt, len(i)), "prediction": dataset.task.parse(output.text, prompt.example.lang), "raw": output.text,
         "finish": output.finish, "output_tokens": output.tokens}
        for prompt, i, output in zip(prompts, ids, outputs, strict=True)
    ]  # fmt: skip


def predict_file(run: RunDirectory, recipe: Recipe, source: Path, target: Path) -> int:
    """Answer the rows of a file with the run's adapter; the column to predict may be absent. Returns their number.

    Raises:
        DataError, ModelError: the file or the adapter cannot be used; RunError: `target` exists.
    """
    from llama_tasks import adapters
    from llama_tasks.dataset import for_prediction

    if target.exists():
        raise RunError(f"{target} exists; name another output.")
    dataset, prompts = for_prediction(recipe, source, adapters.load_tokenizer(recipe.base))
    model, _ = _load(run, recipe)
    rows = predict(model, dataset, prompts, recipe.eval)
    write_jsonl(target, rows)
    return len(rows)


def score(rows: Rows, suite: Suite, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Every metric of the suite, by language, as Score dicts."""
    scores = []
    for lang, metric, part in _measures(rows, suite, labels):
        predictions, references = _texts(part)
        result = metrics.score(metric, predictions, references, n_resamples=suite.n_resamples, seed=suite.seed)
        scores.append({**result.to_dict(), "lang": lang})
    return scores


def compare(base: Rows, adapter: Rows, suite: Suite, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Paired significance of adapter against base, for every metric and language."""
    pairs = []
    for (lang, metric, before), (_, _, after) in zip(
        _measures(base, suite, labels), _measures(adapter, suite, labels), strict=True
    ):
        stats = [metric.statistics(*_texts(part)) for part in (before, after)]
        test = significance.compare(metric, *stats, n_resamples=suite.n_resamples, seed=suite.seed)
        pairs.append({"metric": metric.name, "lang": lang, **dataclasses.asdict(test)})
    return pairs


def leading_value(rows: Rows, suite: Suite, labels: Sequence[str], name: str | None = None) -> float:
    """The value that decides between checkpoints: the metric `name` (the suite's first one), averaged over languages."""
    lead = dataclasses.replace(suite, metrics=[name or suite.metrics[0]])
    values = [
        float(metric.aggregate(metric.statistics(*_texts(part)).sum(0)))
        for lang, metric, part in _measures(rows, lead, labels)
        if lang != EVERY
    ]
    return sum(values) / len(values)


def row_values(rows: Rows, suite: Suite, labels: Sequence[str]) -> tuple[str, dict[str, float]]:
    """The leading metric (or its row-level companion) and its value on each row by itself, to find rows that got worse."""
    name = _ROW_METRIC.get(suite.metrics[0], suite.metrics[0])
    lead = dataclasses.replace(suite, metrics=[name])
    values = {}
    for _, metric, part in _measures(rows, lead, labels):
        stats = metric.statistics(*_texts(part))
        values.update({row["id"]: float(metric.aggregate(stats[i])) for i, row in enumerate(part)})
    return name, values


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
    """Everything needed to make the numbers again."""
    environment = run.environment()
    return {
        **{key: environment.get(key) for key in ("llama_tasks", "versions", "hardware", "git", "seed", "data")},
        "base_model": recipe.base.model,
        "base_revision": recipe.base.revision,
        "recipe": dataclasses.asdict(recipe),
    }


def _measures(rows: Rows, suite: Suite, labels: Sequence[str]) -> Iterator[tuple[str, Metric, Rows]]:
    """(language, metric, its rows); metrics that read no text (accuracy ...) also over all languages together."""
    by_lang: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_lang.setdefault(row["lang"], []).append(row)
    for name in suite.metrics:
        for lang, part in sorted(by_lang.items()):
            yield lang, metrics.create(name, lang, labels or None), part
        if len(by_lang) > 1 and name in _LANGUAGE_FREE:
            yield EVERY, metrics.create(name, sorted(by_lang)[0], labels), rows


def _texts(rows: Rows) -> tuple[list[str], list[list[str]]]:
    return [row["prediction"] for row in rows], [row["references"] for row in rows]


def _row(prompt: Prompt, prompt_tokens: int) -> dict[str, Any]:
    example = prompt.example
    inputs = {key: value for key, value in example.fields.items() if key != "labels"}
    return {"id": example.id, "lang": example.lang, "input": inputs, "references": list(example.references),
            "prompt_tokens": prompt_tokens}  # fmt: skip


def _chosen(prompt: Prompt, prompt_tokens: int, choices: Mapping[str, float]) -> dict[str, Any]:
    best = max(choices, key=lambda choice: choices[choice])
    return {**_row(prompt, prompt_tokens), "prediction": best, "raw": best, "finish": "choice", "output_tokens": 0,
            "choices": {key: round(value, 4) for key, value in choices.items()}}  # fmt: skip


def _load(run: RunDirectory, recipe: Recipe) -> tuple[Any, bool]:
    """The trained model, loaded afresh from the disk, and whether it is an adapter on a base."""
    from accelerate import Accelerator

    from llama_tasks.adapters import load_tokenizer, load_trained
    from llama_tasks.prompts import PromptContract

    folder = run.adapter
    if not folder.is_dir():
        raise RunError(f"{run.path} has no adapter yet; finish its training with `llama-tasks finetune ... --resume`.")
    PromptContract.load(folder).check(load_tokenizer(recipe.base), folder)
    return load_trained(recipe.base, folder, Accelerator().device), folder.name == "adapter"
