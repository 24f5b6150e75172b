"""The evaluation path, station by station: run -> predictions of base and adapter -> scores -> report.

Suites name task and metrics; this file joins them. `predictions.jsonl` is the seam: everything after it runs without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import files, metrics, report, tasks
from llama_tasks.errors import RecipeError, RunError
from llama_tasks.evaluation import identity, insight, prediction, records
from llama_tasks.evaluation.prediction import predict as predict
from llama_tasks.evaluation.records import training_summary
from llama_tasks.evaluation.rehearsal import check_answering
from llama_tasks.evaluation.scoring import compare, row_values, score
from llama_tasks.recipe import Recipe, Suite
from llama_tasks.rundir import RunDirectory, read_json, read_jsonl, write_json
from llama_tasks.rundir.journal import ALONE, Ranks, forget

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llama_tasks.dataset import Dataset

Say = Callable[[str], None]
UNFINISHED = ".unfinished.json"  # in a run's eval/: the systems that a killed evaluation had answered


def evaluate(
    run: RunDirectory,
    recipe: Recipe,
    dataset: Dataset,
    model: Any,
    say: Say,
    ranks: Ranks = ALONE,
    command: str | None = None,
) -> dict[str, Any]:
    """Score base and adapter on the test split with the same suite, compare them, write the report; returns it (the first
    process does, where several share the work).

    A killed one goes on at the row where it stopped. `model` is what `load` gives. Plain text has no base to compare with:
    its scores are returned alone. `command` is what asked for the evaluation, None where it ends the run's training.
    """
    if recipe.eval.scoring == "perplexity":
        about = records.about(dataset, recipe.eval, command)
        return _perplexity(run, dataset, model, recipe.eval, about) if ranks.index == 0 else {}
    if recipe.eval.scoring == "generate":
        from llama_tasks.generate import check_engine

        check_engine(model, recipe.eval)
    unfinished = run.path / "eval" / UNFINISHED
    done: dict[str, str] = read_json(unfinished) if unfinished.is_file() else {}
    ranks.wait()
    if ranks.index == 0:
        files.sweep(run.path / "eval")
    systems = ["base", "adapter"] if hasattr(model, "disable_adapter") else ["base"]
    made_by = identity.fingerprint(recipe, dataset, dataset.prompts["test"], model, _weights(run, recipe))
    for name in systems:
        switched_off = name == "base" and len(systems) > 1
        with model.disable_adapter() if switched_off else nullcontext():
            target = run.path / "eval" / name / "predictions.jsonl"
            vouched = {done.get(name), records.decoding_of(target).get("fingerprint")}
            if vouched != {made_by} or not target.is_file():
                _answer(run, recipe, dataset, model, name, made_by, say, ranks)
        done[name] = made_by
        if ranks.index == 0:
            write_json(unfinished, done)
            forget(target)
    if ranks.index > 0:
        return {}
    insight.observe(run, recipe, dataset, model)
    write_json(
        run.path / "eval" / records.LAST, {"fingerprint": made_by, **records.about(dataset, recipe.eval, command)}
    )
    result = write_report(run, recipe)
    unfinished.unlink()
    return result


def _answer(
    run: RunDirectory, recipe: Recipe, dataset: Dataset, model: Any, name: str, made_by: str, say: Say, ranks: Ranks
) -> None:
    """predictions.jsonl of one system, and how it was made, which goes before its rows do."""
    prompts, target = dataset.prompts["test"], run.path / "eval" / name / "predictions.jsonl"
    decoding = target.with_name(records.DECODING)
    say(f"scoring the {'base' if name == 'base' and recipe.adapter is not None else 'trained model'} on the test split")
    prediction.write(target, made_by, model, dataset, prompts, recipe.eval, ranks, decoding)
    if ranks.index == 0:
        described = prediction.describe(model, dataset, prompts, recipe.eval, target)
        write_json(decoding, {"fingerprint": made_by, **described})


def _weights(run: RunDirectory, recipe: Recipe) -> dict[str, Any]:
    """Hashes of a run's weight files, once `load` has compared them: as they were written down, so that large ones are not
    read again."""
    from llama_tasks.adapters.integrity import check_base, of_trained

    base = run.environment().get("base") or check_base(recipe.base)
    return {"base": base, "trained": of_trained(run.path, run.adapter)}


def all_ranks() -> Ranks:
    """The processes that accelerate or torchrun started, as they share an evaluation."""
    from llama_tasks.parallel import process

    state = process()
    return Ranks(state.process_index, state.num_processes, state.wait_for_everyone)


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
    from llama_tasks.adapters import load_trained
    from llama_tasks.adapters.integrity import check_base, check_trained
    from llama_tasks.parallel import process

    check_contract(run, recipe)
    check_trained(run.path, run.adapter)
    check_base(recipe.base, run.environment().get("base"))
    return load_trained(recipe.base, run.adapter, process().device)


def write_report(run: RunDirectory, recipe: Recipe) -> dict[str, Any]:
    """predictions.jsonl -> scores.json of each system -> report.json, report.md, report.html; needs no torch.

    Raises:
        RunError: there are no predictions, or not all of them are of the last evaluation.
    """
    records.check_one(run)
    task = tasks.create(recipe.task, recipe.data.labels, recipe.prompt)
    systems, asked = {}, records.asked(run, records.last(run))
    for name in ("base", "adapter"):
        path = run.path / "eval" / name / "predictions.jsonl"
        if path.is_file():
            rows = list(read_jsonl(path))
            scores = score(rows, recipe.eval, task)
            counts = metrics.count(rows, task.labels or None)
            called = name if recipe.adapter is not None else report.TRAINED
            about = {"system": called, **asked, **records.decoding_of(path), "scores": scores, "counts": counts}
            write_json(path.with_name("scores.json"), about)
            lead, values = row_values(rows, recipe.eval, task)
            systems[name] = report.System(called, scores, counts, rows, values, lead)
    if "base" not in systems:
        raise RunError(f"{run.path} has no predictions yet; `llama-tasks evaluate {run.path}` makes them.")
    adapter = systems.get("adapter")
    pairs = compare(systems["base"].predictions, adapter.predictions, recipe.eval, task) if adapter else []
    result = report.build(
        task=task.name,
        command=asked["command"],
        base=systems["base"],
        adapter=adapter,
        comparisons=pairs,
        training=training_summary(run),
        provenance=records.provenance(run, recipe),
        insight=insight.gather(run, systems, recipe.eval, task, lambda rows: score(rows, recipe.eval, task)),
    )
    report.write(result, run.path, list(systems.values()))
    return result


def predict_file(run: RunDirectory, recipe: Recipe, source: Path, target: Path) -> int:
    """Answer the rows of a file with the run's adapter; the column to predict may be absent. Returns their number.

    A killed one goes on at the row where it stopped.

    Raises:
        DataError, ModelError: the file or the adapter cannot be used; RunError: `target` exists; RecipeError: a suite that
            cannot be, or plain text, which has no answers.
    """
    from llama_tasks.dataset import for_prediction

    check_answering(recipe)
    if recipe.eval.scoring == "perplexity":
        raise RecipeError("Plain text is measured (eval.scoring: perplexity); there is nothing to predict.")
    if target.exists():
        raise RunError(f"{target} exists; name another output.")
    tokenizer = check_contract(run, recipe)
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset, prompts = for_prediction(recipe, source, tokenizer, target.parent)
    model, ranks = load(run, recipe), all_ranks()
    made_by = identity.fingerprint(recipe, dataset, prompts, model, _weights(run, recipe))
    prediction.write(target, made_by, model, dataset, prompts, recipe.eval, ranks)
    if ranks.index == 0:
        forget(target)
    return len(prompts)


def _perplexity(run: RunDirectory, dataset: Dataset, model: Any, suite: Suite, about: dict[str, Any]) -> dict[str, Any]:
    from llama_tasks.score import text_losses

    rows = text_losses(model, dataset.encoder, dataset.prompts["test"], suite.tokens_per_batch)
    columns = [[row[key] for row in rows] for key in ("nll", "tokens", "bytes")]
    scores, too_large = [], {}
    for name in ("loss", "perplexity", "bits_per_byte"):
        measure = metrics.LanguageModel(name)
        drawn = {"n_resamples": suite.n_resamples, "seed": suite.seed}
        try:
            scores.append(metrics.score_statistics(measure, measure.statistics(*columns), **drawn).to_dict())
        except metrics.TooLarge as error:
            too_large[name] = str(error)
    result = {
        "system": "model",
        **records.asked(run, about),
        "texts": len(rows),
        "bytes": sum(columns[2]),
        **{score["metric"]: score["value"] for score in scores},
        **dict.fromkeys(too_large),
        **({"too_large": too_large} if too_large else {}),
        "scores": scores,
        "data": about["test"],
    }
    write_json(run.path / "eval/model/scores.json", result)
    return result
