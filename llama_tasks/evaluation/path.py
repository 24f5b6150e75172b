"""The evaluation path, station by station: run -> predictions of base and adapter -> scores -> report.

Suites name task and metrics; this file joins them. `predictions.jsonl` is the seam: everything after it runs without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import files, metrics, report, tasks
from llama_tasks.errors import RunError
from llama_tasks.evaluation import identity, insight, prediction
from llama_tasks.evaluation.prediction import predict as predict
from llama_tasks.evaluation.scoring import compare, row_values, score
from llama_tasks.recipe import Recipe, Suite
from llama_tasks.rundir import RunDirectory, command_line, read_json, read_jsonl, write_json
from llama_tasks.rundir.journal import ALONE, Ranks, forget

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llama_tasks.dataset import Dataset

Say = Callable[[str], None]
UNFINISHED = ".unfinished.json"  # in a run's eval/: the systems that a killed evaluation had answered
LAST = "data.json"  # likewise: which evaluation the last one was, and its test rows
DECODING = "decoding.json"  # beside predictions.jsonl: how they were made, and by which evaluation


def evaluate(
    run: RunDirectory, recipe: Recipe, dataset: Dataset, model: Any, say: Say, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Score base and adapter on the test split with the same suite, compare them, write the report; returns it (the first
    process does, where several share the work).

    A killed one goes on at the row where it stopped. `model` is what `load` gives. Plain text has no base to compare with:
    its scores are returned alone.
    """
    if recipe.eval.scoring == "perplexity":
        return _perplexity(run, dataset, model, recipe.eval) if ranks.index == 0 else {}
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
            if (done.get(name), _decoding_of(target).get("fingerprint")) != (made_by, made_by) or not target.is_file():
                _answer(run, recipe, dataset, model, name, made_by, say, ranks)
        done[name] = made_by
        if ranks.index == 0:
            write_json(unfinished, done)
            forget(target)
    if ranks.index > 0:
        return {}
    insight.observe(run, recipe, dataset, model)
    write_json(run.path / "eval" / LAST, {"fingerprint": made_by, "test": dataset.fingerprints["test"]})
    result = write_report(run, recipe)
    unfinished.unlink()
    return result


def _answer(
    run: RunDirectory, recipe: Recipe, dataset: Dataset, model: Any, name: str, made_by: str, say: Say, ranks: Ranks
) -> None:
    """predictions.jsonl of one system, and how it was made, which goes before its rows do."""
    prompts, target = dataset.prompts["test"], run.path / "eval" / name / "predictions.jsonl"
    decoding = target.with_name(DECODING)
    say(f"scoring the {'trained model' if name == 'adapter' else name} on the test split")
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
    _check_one_evaluation(run)
    task = tasks.create(recipe.task, recipe.data.labels, recipe.prompt)
    systems = {}
    for name in ("base", "adapter"):
        path = run.path / "eval" / name / "predictions.jsonl"
        if path.is_file():
            rows = list(read_jsonl(path))
            scores = score(rows, recipe.eval, task)
            counts = metrics.count(rows, task.labels or None)
            about = {"system": name, "scores": scores, "counts": counts, **_decoding_of(path)}
            write_json(path.with_name("scores.json"), about)
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
        insight=insight.gather(run, systems, recipe.eval, task, lambda rows: score(rows, recipe.eval, task)),
    )
    report.write(result, run.path, list(systems.values()))
    return result


def _check_one_evaluation(run: RunDirectory) -> None:
    """Raise RunError where an evaluation was stopped after it had replaced some of an older one's answers."""
    answers = [run.path / "eval" / name / "predictions.jsonl" for name in ("base", "adapter")]
    made_by = {_decoding_of(path).get("fingerprint", "") for path in answers if path.is_file()}
    last = _last(run).get("fingerprint")  # evaluations that are older than such marks have none
    if len(made_by | {last} if last else made_by) > 1:
        raise RunError(
            f"{run.path} holds answers of two evaluations, because the last one was stopped; run `llama-tasks evaluate "
            f"{run.path}` again."
        )


def predict_file(run: RunDirectory, recipe: Recipe, source: Path, target: Path) -> int:
    """Answer the rows of a file with the run's adapter; the column to predict may be absent. Returns their number.

    A killed one goes on at the row where it stopped.

    Raises:
        DataError, ModelError: the file or the adapter cannot be used; RunError: `target` exists.
    """
    from llama_tasks.dataset import for_prediction

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
    environment, last = run.environment(), _last(run)
    data = {**environment["data"], **({"test": last["test"]} if last else {})}
    return {
        "decoding": {p.parent.name: _decoding_of(p)["decoding"] for p in sorted(run.path.glob(f"eval/*/{DECODING}"))},
        **{key: environment.get(key) for key in ("llama_tasks", "versions", "hardware", "git", "seed")},
        "data": data,
        "base_model": recipe.base.model,
        "base_revision": recipe.base.revision,
        "recipe": {**dataclasses.asdict(recipe), "task": Path(recipe.task).name},
    }


def _last(run: RunDirectory) -> dict[str, Any]:
    """What the last evaluation that ended says of itself; its test rows may be others than the training's."""
    path = run.path / "eval" / LAST
    return read_json(path) if path.is_file() else {}


def _decoding_of(predictions: Path) -> dict[str, Any]:
    """The `fingerprint` of the evaluation that made predictions (None: older than such marks), and their `decoding`; empty where
    rows were replaced and what they are was not yet written down."""
    path = predictions.with_name(DECODING)
    if not path.is_file():
        return {}
    decoding = read_json(path)
    return {"fingerprint": decoding.pop("fingerprint", None), "decoding": decoding}


def _perplexity(run: RunDirectory, dataset: Dataset, model: Any, suite: Suite) -> dict[str, Any]:
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
        "texts": len(rows),
        "bytes": sum(columns[2]),
        **{score["metric"]: score["value"] for score in scores},
        **dict.fromkeys(too_large),
        **({"too_large": too_large} if too_large else {}),
        "scores": scores,
        "data": dataset.fingerprints["test"],
    }
    write_json(run.path / "eval/model/scores.json", result)
    return result
