"""The evaluation path, station by station: run -> predictions of base and adapter -> scores -> report.

Suites name task and metrics; this file joins them. `predictions.jsonl` is the seam: everything after it runs without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import metrics, report, significance, tasks
from llama_tasks.errors import RecipeError, RunError
from llama_tasks.metrics import Metric
from llama_tasks.metrics.names import CALIBRATION, LABELS
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import Recipe, Suite
from llama_tasks.rundir import RunDirectory, command_line, read_json, read_jsonl, write_json, write_jsonl
from llama_tasks.tasks import Task
from llama_tasks.tokens import loses_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llama_tasks.dataset import Dataset

Rows = Sequence[Mapping[str, Any]]
Say = Callable[[str], None]
EVERY = "all"  # the "language" of a score over rows of all languages
_LANGUAGE_FREE = (*LABELS, *CALIBRATION)  # compare labels, not text
_RIGHT_OR_WRONG = ("accuracy", "exact_match")  # metrics that McNemar's test is for
# Corpus metrics say little of one row; these speak for them.
_ROW_METRIC = {"bleu": "chrf", **dict.fromkeys(LABELS, "accuracy")}


def check_suite(recipe: Recipe) -> None:
    """Raise MetricError or RecipeError for a suite that could not be scored after the training."""
    suite, lead = recipe.eval, recipe.train.metric_for_best_model
    task = tasks.create(recipe.task, config=recipe.prompt)
    if (suite.scoring == "perplexity") != (recipe.task == "text"):
        raise RecipeError(f"eval.scoring: perplexity belongs to the task text, and the task is {task.name!r}.")
    if suite.scoring == "perplexity":
        return
    if not suite.metrics:
        known = [*task.metrics, *metrics.names()]
        raise RecipeError(f"eval.metrics is empty; name at least one of {', '.join(known)}.")
    if suite.scoring == "likelihood" and not task.chooses:
        raise RecipeError(
            f"eval.scoring: likelihood ranks choices, which the task {task.name!r} does not have; use generate."
        )
    for name in [*suite.metrics, *([lead] if lead else [])]:
        if name in task.metrics:
            metrics.create(name, "en", own=task.metrics)
            continue
        if name in _LANGUAGE_FREE and not task.labelled:
            raise RecipeError(f"eval.metrics: {name} compares labels, which the task {task.name!r} does not have.")
        if metrics.parse(name, task.metrics)[0] in CALIBRATION and suite.scoring != "likelihood":
            raise RecipeError(f"eval.metrics: {name} reads log-likelihoods; it needs `eval.scoring: likelihood`.")
    first = lead or suite.metrics[0]
    if first not in task.metrics and not metrics.may_lead(first):
        raise RecipeError(
            f"{first} does not grow as outputs get better, or is not about every row, so it cannot choose the best checkpoint; "
            "name another metric first in eval.metrics, or as train.metric_for_best_model."
        )


def rehearse(dataset: Dataset, suite: Suite) -> None:
    """Take every step of the evaluation but the model, before anything is trained.

    Raises:
        MetricError: a metric does not fit the references (a language code, a script, a label set).
        DataError: a prompt too long to be answered.
    """
    if suite.scoring == "perplexity":
        return
    for name in ("validation", "test"):
        prompts = dataset.prompts[name]
        dataset.encoder.fit(prompts, suite.max_new_tokens)
        for _, metric, part in _measures([_row(prompt, 0) for prompt in prompts], suite, dataset.task):
            if getattr(metric, "needs", None) != "choices":  # those come with the predictions
                metrics.value_of(metric, metrics.row_statistics(metric, [{**row, "prediction": ""} for row in part]))


def evaluate(run: RunDirectory, recipe: Recipe, dataset: Dataset, model: Any, say: Say) -> dict[str, Any]:
    """Score base and adapter on the test split with the same suite, compare them, write the report; returns it.

    `model` is what `load` gives. Plain text has no base to compare with: its scores are returned alone.
    """
    prompts = dataset.prompts["test"]
    if recipe.eval.scoring == "perplexity":
        return _perplexity(run, dataset, model, recipe.eval)
    systems = {}
    if hasattr(model, "disable_adapter"):
        say("scoring the base on the test split")
        with model.disable_adapter():
            systems["base"] = predict(model, dataset, prompts, recipe.eval)
    say("scoring the trained model on the test split")
    systems["adapter" if systems else "base"] = predict(model, dataset, prompts, recipe.eval)
    for name, rows in systems.items():
        write_jsonl(run.path / "eval" / name / "predictions.jsonl", rows)
    write_json(run.path / "eval/data.json", {"test": dataset.fingerprints["test"]})
    return write_report(run, recipe)


def check_contract(run: RunDirectory, recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer of a run's base, when the run's prompt contract holds: before a row is read, so that it speaks first.

    Raises:
        RunError: training has not ended. ModelError: the contract differs from tokenizer or recipe.
    """
    from llama_tasks.adapters import load_tokenizer
    from llama_tasks.contract import PromptContract

    if not run.adapter.is_dir():
        raise RunError(f"{run.path} has no adapter yet; finish its training with `llama-tasks finetune ... --resume`.")
    tokenizer = load_tokenizer(recipe.base)
    PromptContract.load(run.adapter).check(tokenizer, run.adapter, recipe)
    return tokenizer


def load(run: RunDirectory, recipe: Recipe) -> Any:
    """The trained model of a run, loaded afresh from the disk.

    Raises:
        RunError: training has not ended. ModelError: weights are damaged, or the prompt contract differs from tokenizer or recipe.
    """
    from accelerate import Accelerator

    from llama_tasks.adapters import load_trained
    from llama_tasks.integrity import check_base, check_trained

    check_contract(run, recipe)
    check_trained(run.path, run.adapter)
    check_base(recipe.base, run.environment().get("base"))
    return load_trained(recipe.base, run.adapter, Accelerator().device)


def write_report(run: RunDirectory, recipe: Recipe) -> dict[str, Any]:
    """predictions.jsonl -> scores.json of each system -> report.json, report.md, report.html; needs no torch."""
    task = tasks.create(recipe.task, recipe.data.labels, recipe.prompt)
    systems = {}
    for name in ("base", "adapter"):
        path = run.path / "eval" / name / "predictions.jsonl"
        if path.is_file():
            rows = list(read_jsonl(path))
            scores = score(rows, recipe.eval, task)
            counts = metrics.count(rows, task.labels or None)
            write_json(path.with_name("scores.json"), {"system": name, "scores": scores, "counts": counts})
            lead, values = row_values(rows, recipe.eval, task)
            systems[name] = report.System(name, scores, counts, rows, values, lead)
    if "base" not in systems:
        raise RunError(f"{run.path} has no predictions yet; `llama-tasks evaluate {run.path}` makes them.")
    adapter = systems.get("adapter")
    pairs = compare(systems["base"].predictions, adapter.predictions, recipe.eval, task) if adapter else []
    result = report.build(
        task=task.name,
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
    from llama_tasks.choices import score_choices
    from llama_tasks.generate import generate

    encoder, task = dataset.encoder, dataset.task
    if suite.scoring == "likelihood":
        choices = [prompt.example.choices for prompt in prompts]
        longest = max(map(len, encoder.ids(sorted({choice for row in choices for choice in row}))), default=0)
        fitted = encoder.fit(prompts, longest + 2)
        scored = score_choices(model, encoder, prompts, fitted.ids, choices, suite.tokens_per_batch)
        answers = [_chosen(task, found) for found in scored]
    else:
        fitted = encoder.fit(prompts, suite.max_new_tokens)
        answers = [
            {"prediction": task.parse(output.text, prompt.example.lang), "raw": output.text, "finish": output.finish,
             "output_tokens": output.tokens}
            for prompt, output in zip(prompts, generate(model, encoder, fitted.ids, suite), strict=True)
        ]  # fmt: skip
    return [
        {**_row(prompt, len(ids)), **_cut(prompt, fitted.shortened.get(i)), **answer,
         **_failure(task, prompt, answer["prediction"])}
        for i, (prompt, ids, answer) in enumerate(zip(prompts, fitted.ids, answers, strict=True))
    ]  # fmt: skip


def predict_file(run: RunDirectory, recipe: Recipe, source: Path, target: Path) -> int:
    """Answer the rows of a file with the run's adapter; the column to predict may be absent. Returns their number.

    Raises:
        DataError, ModelError: the file or the adapter cannot be used; RunError: `target` exists.
    """
    from llama_tasks.dataset import for_prediction

    if target.exists():
        raise RunError(f"{target} exists; name another output.")
    dataset, prompts = for_prediction(recipe, source, check_contract(run, recipe))
    rows = predict(load(run, recipe), dataset, prompts, recipe.eval)
    write_jsonl(target, rows)
    return len(rows)


def score(rows: Rows, suite: Suite, task: Task) -> list[dict[str, Any]]:
    """Every metric of the suite, by language, as Score dicts."""
    scores = []
    for lang, metric, part in _measures(rows, suite, task):
        result = metrics.score_rows(metric, part, n_resamples=suite.n_resamples, seed=suite.seed)
        scores.append({**result.to_dict(), "lang": lang})
    return scores


def compare(base: Rows, adapter: Rows, suite: Suite, task: Task) -> list[dict[str, Any]]:
    """Paired significance of adapter against base, for every metric and language."""
    pairs = []
    for (lang, metric, before), (_, _, after) in zip(
        _measures(base, suite, task), _measures(adapter, suite, task), strict=True
    ):
        stats = [metrics.row_statistics(metric, part) for part in (before, after)]
        n, seed = suite.n_resamples, suite.seed
        if metric.name in _RIGHT_OR_WRONG:
            right = [list(part[:, 0] > 0) for part in stats]
            test = significance.mcnemar(right[0], right[1], n_resamples=n, seed=seed)
        else:
            test = significance.compare(metric, stats[0], stats[1], n_resamples=n, seed=seed)
        better = getattr(metric, "higher_is_better", True)
        pairs.append({"metric": metric.name, "lang": lang, "higher_is_better": better, **dataclasses.asdict(test)})
    return pairs


def leading_value(rows: Rows, suite: Suite, task: Task, name: str | None = None) -> float:
    """The value that decides between checkpoints: the metric `name` (the suite's first one), averaged over languages."""
    lead = dataclasses.replace(suite, metrics=[name or suite.metrics[0]])
    values = [
        metrics.value_of(metric, metrics.row_statistics(metric, part))
        for lang, metric, part in _measures(rows, lead, task)
        if lang != EVERY
    ]
    return sum(values) / len(values)


def row_values(rows: Rows, suite: Suite, task: Task) -> tuple[str, dict[str, float]]:
    """The leading metric (or its row-level companion) and its value on each row by itself, to find rows that got worse."""
    name = _ROW_METRIC.get(suite.metrics[0], suite.metrics[0])
    lead = dataclasses.replace(suite, metrics=[name])
    values = {}
    for _, metric, part in _measures(rows, lead, task):
        stats = metrics.row_statistics(metric, part)
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
    scored = (
        run.path / "eval/data.json"
    )  # the test rows of the last evaluation, which may be others than the training's
    data = {**environment["data"], **(read_json(scored) if scored.is_file() else {})}
    return {
        **{key: environment.get(key) for key in ("llama_tasks", "versions", "hardware", "git", "seed")},
        "data": data,
        "base_model": recipe.base.model,
        "base_revision": recipe.base.revision,
        "recipe": {**dataclasses.asdict(recipe), "task": Path(recipe.task).name},
    }


def _measures(rows: Rows, suite: Suite, task: Task) -> Iterator[tuple[str, Metric, Rows]]:
    """(language, metric, its rows); metrics that read no text (accuracy ...) also over all languages together."""
    by_lang: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_lang.setdefault(row["lang"], []).append(row)
    for name in suite.metrics:
        for lang, part in sorted(by_lang.items()):
            yield lang, metrics.create(name, lang, task.labels or None, task.metrics), part
        if len(by_lang) > 1 and name in (*_LANGUAGE_FREE, *task.metrics):
            yield EVERY, metrics.create(name, sorted(by_lang)[0], task.labels, task.metrics), rows


def _row(prompt: Prompt, prompt_tokens: int) -> dict[str, Any]:
    example = prompt.example
    inputs = {key: value for key, value in example.fields.items() if key != "labels"}
    return {"id": example.id, "lang": example.lang, "input": inputs, "references": list(example.references),
            "prompt_tokens": prompt_tokens}  # fmt: skip


def _failure(task: Task, prompt: Prompt, prediction: str) -> dict[str, str]:
    name = task.failure(prediction, prompt.example)
    return {"failure": name} if name else {}


def _cut(prompt: Prompt, shorter: Prompt | None) -> dict[str, bool]:
    lost = shorter is not None and loses_answer(prompt, shorter)
    return {"shortened": shorter is not None, **({"answer_cut": True} if lost else {})}


def _chosen(task: Task, choices: Mapping[str, float]) -> dict[str, Any]:
    best = max(choices, key=lambda choice: choices[choice])
    rounded = {key: round(value, 4) for key, value in choices.items()}
    return {"prediction": task.choose(choices), "raw": best, "finish": "choice", "output_tokens": 0, "choices": rounded}


def _perplexity(run: RunDirectory, dataset: Dataset, model: Any, suite: Suite) -> dict[str, Any]:
    from llama_tasks.score import score_text

    prompts = dataset.prompts["test"]
    n_bytes = sum(len(prompt.response.encode()) for prompt in prompts)
    values = score_text(model, dataset.encoder.blocks(prompts).tokens, n_bytes, suite.tokens_per_batch)
    result = {
        "system": "model",
        "texts": len(prompts),
        "bytes": n_bytes,
        **values,
        "data": dataset.fingerprints["test"],
    }
    write_json(run.path / "eval/model/scores.json", result)
    return result
