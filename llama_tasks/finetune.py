"""The fine-tuning path, station by station: recipe -> data -> base -> adapter -> steps -> best adapter -> report."""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console

from llama_tasks import adapters, checkpoint, evaluation, rundir
from llama_tasks.dataset import Dataset, prepare
from llama_tasks.errors import RecipeError, RunError
from llama_tasks.interrupt import Interrupted, Interrupts
from llama_tasks.progress import Meter
from llama_tasks.prompts import PromptContract, hash_of, special_ids, tokenizer_sha256
from llama_tasks.recipe import Recipe
from llama_tasks.score import score_text
from llama_tasks.train import NonFiniteLoss, StepReport, Training


def finetune(recipe: Recipe, *, resume: bool = False, overwrite: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Run a recipe from rows to report; returns the report.

    Raises:
        LlamaTasksError: anything that the user can mend; nothing half-written stays.
        Interrupted: Ctrl-C or SIGTERM; the run is saved and can be resumed.
    """
    began = time.perf_counter()
    accelerator = Accelerator()
    console = console or Console(quiet=not accelerator.is_main_process)
    run = rundir.claim(Path(recipe.output or f"runs/{recipe.task}"), resume, overwrite)
    set_seed(recipe.train.seed)
    tokenizer = adapters.load_tokenizer(recipe.base)
    dataset = prepare(recipe, tokenizer)
    base = adapters.load_base(recipe.base, accelerator.device)
    recipe = settle(recipe, base, dataset)
    model = adapters.attach(base, recipe.adapter, recipe.base)
    training = Training(model, dataset.train.tokens, recipe.train, accelerator, float(recipe.train.learning_rate))
    _introduce(recipe, dataset, model, training, console)
    keeper = _begin(run, recipe, dataset, training, resume, overwrite)
    train(run, recipe, dataset, training, keeper, console, began)
    save_trained(run, recipe, dataset, training, keeper)
    if recipe.eval.scoring == "perplexity":
        return {}
    return evaluation.evaluate(run, recipe, dataset, lambda text: console.print(text, highlight=False))


@dataclass
class Keeper:
    """The best value on the validation split so far, and the weights that gave it."""

    best_value: float | None = None
    best_step: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds_before: float = 0.0

    def offer(self, value: float, step: int, training: Training, lower_is_better: bool) -> bool:
        """Keep the weights where `value` is better than all before."""
        better = self.best_value is None or (value < self.best_value if lower_is_better else value > self.best_value)
        if better:
            self.best_value, self.best_step = value, step
            self.weights = {name: weight.clone() for name, weight in checkpoint.trained_weights(training).items()}
        return better


def settle(recipe: Recipe, base: Any, dataset: Dataset) -> Recipe:
    """The recipe with everything derived written out: learning rate, labels, commit of the base. Raises RecipeError."""
    config = base.config
    limit = config.max_position_embeddings
    if recipe.prompt.max_length > limit:
        raise RecipeError(f"prompt.max_length is {recipe.prompt.max_length}, but the base {recipe.base.model!r} was made for {limit} tokens.")
    if len(dataset.encoder.tokenizer) > base.get_input_embeddings().num_embeddings:
        raise RecipeError(f"The tokenizer has {len(dataset.encoder.tokenizer)} tokens, more than the base's embedding ({base.get_input_embeddings().num_embeddings}).")
    rate = recipe.train.learning_rate
    if rate == "auto":
        if recipe.adapter is None:
            raise RecipeError("train.learning_rate: auto is a rule for LoRA; write a number where all weights are trained.")
        rate = float(f"{adapters.auto_learning_rate(config.hidden_size):.3g}")
    commit = getattr(config, "_commit_hash", None) or recipe.base.revision
    return replace(
        recipe,
        base=replace(recipe.base, revision=commit),
        data=replace(recipe.data, labels=dataset.labels or None),
        prompt=replace(recipe.prompt, template=dict(dataset.renderer.templates)),
        train=replace(recipe.train, learning_rate=rate),
    )


def train(run: rundir.RunDirectory, recipe: Recipe, dataset: Dataset, training: Training, keeper: Keeper, console: Console, began: float) -> None:
    """Drive the loop: log, evaluate on the validation split, keep the best weights, save resumable checkpoints."""
    config = recipe.train
    evaluate_at = {round(training.total_steps * (i + 1) / config.eval_times) for i in range(config.eval_times)}
    main = training.accelerator.is_main_process
    with Interrupts() as interrupts, Meter(console, training.total_steps, training.step) as meter:
        try:
            for report in training.run():
                meter.update(report)
                if main and (report.step % config.logging_steps == 0 or report.step in (1, training.total_steps)):
                    run.log(_log_line(report))
                if report.step in evaluate_at:
                    _validate(run, recipe, dataset, training, keeper, meter)
                if interrupts.signum is not None or report.step % config.save_steps == 0:
                    _save(run, training, keeper, began, main)
                if interrupts.signum is not None:
                    raise Interrupted(f"Stopped at step {report.step} of {report.total_steps}, and saved. Go on with --resume "
                                      "(make: RESUME=1).", interrupts.signum)  # fmt: skip
        except NonFiniteLoss as error:
            last = checkpoint.newest(run.checkpoints)
            raise NonFiniteLoss(f"{error} Last good checkpoint: {last or 'none'}.") from None
    if main:
        parameters = adapters.count_parameters(training.model)
        run.log({"event": "end", "step": training.step, "best_step": keeper.best_step or training.step,
                 "trainable_parameters": parameters.trainable, "total_parameters": parameters.total,
                 "seconds": round(keeper.seconds_before + time.perf_counter() - began, 1)})  # fmt: skip


def _begin(run: rundir.RunDirectory, recipe: Recipe, dataset: Dataset, training: Training, resume: bool, overwrite: bool) -> Keeper:
    """Make the run directory, or bring everything to the state of the newest checkpoint."""
    if resume:
        return _resume(run, recipe, training)
    if training.accelerator.is_main_process:
        if overwrite:
            rundir.clear(run)
        environment = rundir.environment(dataset.fingerprints, recipe.train.seed)
        run.create(recipe, {**environment, "command": rundir.command_line()})
    training.accelerator.wait_for_everyone()
    return Keeper()


def _resume(run: rundir.RunDirectory, recipe: Recipe, training: Training) -> Keeper:
    before = run.recipe()
    changed = [part for part in ("task", "base", "data", "prompt", "adapter", "train") if getattr(before, part) != getattr(recipe, part)]
    if changed:
        raise RunError(f"{run.path} was made with another recipe (changed: {', '.join(changed)}); resume with the same one, or use --overwrite.")
    newest = checkpoint.newest(run.checkpoints)
    if newest is None:
        raise RunError(f"{run.path} holds no checkpoint to resume from; start again with --overwrite.")
    extra = checkpoint.restore(newest, training)
    run.rewind_log(training.step)
    keeper = Keeper(extra["best_value"], extra["best_step"], {}, extra["seconds"])
    if keeper.best_value is not None:
        keeper.weights = checkpoint.load_weights(run.checkpoints / "best")
    return keeper


def _save(run: rundir.RunDirectory, training: Training, keeper: Keeper, began: float, main: bool) -> None:
    if main:
        extra = {"best_value": keeper.best_value, "best_step": keeper.best_step,
                 "seconds": keeper.seconds_before + time.perf_counter() - began}  # fmt: skip
        checkpoint.save(run.checkpoints, training, extra)
        checkpoint.keep_newest(run.checkpoints, 2)
    training.accelerator.wait_for_everyone()


def _validate(run: rundir.RunDirectory, recipe: Recipe, dataset: Dataset, training: Training, keeper: Keeper, meter: Meter) -> None:
    """Measure the validation split; better weights than before are kept, in memory and on the disk."""
    model = training.accelerator.unwrap_model(training.model)
    prompts = dataset.prompts["validation"]
    if recipe.eval.scoring == "perplexity":
        name, value = "loss", score_text(
            model, dataset.encoder.blocks(prompts).tokens, sum(len(p.response.encode()) for p in prompts), recipe.train.tokens_per_batch
        )["loss"]
    else:
        name = recipe.train.metric_for_best_model or recipe.eval.metrics[0]
        rows = evaluation.predict(model, dataset, prompts, recipe.eval)
        value = evaluation.leading_value(rows, recipe.eval, dataset.labels, name)
    better = keeper.offer(value, training.step, training, lower_is_better=name == "loss")
    if training.accelerator.is_main_process:
        run.log({"event": "evaluation", "step": training.step, "metric": name, "value": value, "n": len(prompts)})
        if better:
            checkpoint.save_weights(run.checkpoints / "best", keeper.weights)
    meter.say(f"step {training.step}: validation {name} {value:.2f}{' (best so far)' if better else ''}")


def save_trained(run: rundir.RunDirectory, recipe: Recipe, dataset: Dataset, training: Training, keeper: Keeper) -> None:
    """Write the best weights as an adapter (or a whole model) with tokenizer and prompt contract, then load them again
    and compare the logits. Raises ModelError where they differ."""
    if keeper.weights:
        checkpoint.load_trained_weights(training, keeper.weights)
    if not training.accelerator.is_main_process:
        return
    model = training.accelerator.unwrap_model(training.model).eval()
    contract = make_contract(recipe, dataset)
    target = run.path / ("adapter" if recipe.adapter is not None else "model")
    with checkpoint.staged(target) as staging:
        adapters.save_trained(model, staging, recipe.base)
        dataset.encoder.tokenizer.save_pretrained(staging)
        contract.save(staging)
        adapters.check_reload(model, recipe.base, staging, contract.sample["input_ids"])


def make_contract(recipe: Recipe, dataset: Dataset) -> PromptContract:
    """The prompt contract of a run, with its first training example as the sample."""
    tokenizer = dataset.encoder.tokenizer
    first = dataset.train.tokens[0]
    prompt = next(p for p in dataset.prompts["train"] if p.example.id == first.id.split(".")[0])
    return PromptContract(
        task=recipe.task,
        template=dict(dataset.renderer.templates),
        template_sha256=hash_of(dict(dataset.renderer.templates)),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        special_ids=special_ids(tokenizer),
        max_length=recipe.prompt.max_length,
        labels=list(dataset.labels),
        sample={"prompt": prompt.text, "response": prompt.response, "input_ids": copy.copy(first.input_ids),
                "prompt_length": first.prompt_length},
        decoding={"max_new_tokens": recipe.eval.max_new_tokens, "num_beams": recipe.eval.num_beams, "do_sample": False},
    )  # fmt: skip


def _log_line(report: StepReport) -> dict[str, Any]:
    return {"event": "step", "step": report.step, "epoch": round(report.epoch, 3), "loss": round(report.loss, 5),
            "learning_rate": report.learning_rate, "grad_norm": round(report.grad_norm, 4),
            "tokens_per_second": round(report.tokens_per_second, 1)}  # fmt: skip


def _introduce(recipe: Recipe, dataset: Dataset, model: Any, training: Training, console: Console) -> None:
    """Say once what will be trained on what, with every derived value and where it came from."""
    train = dataset.train
    tokens = sum(len(item.input_ids) for item in train.tokens)
    console.print(f"task {recipe.task} · base {recipe.base.model} · {adapters.count_parameters(model)}", highlight=False)
    console.print(
        f"{len(train.tokens):,} training examples, {tokens:,} tokens · validation {len(dataset.prompts['validation']):,} · "
        f"test {len(dataset.prompts['test']):,} · {training.total_steps} steps of up to "
        f"{recipe.train.tokens_per_batch * recipe.train.gradient_accumulation_steps:,} tokens",
        highlight=False,
    )
    console.print(f"learning rate {recipe.train.learning_rate} · threads {torch.get_num_threads()} of {os.cpu_count()}", highlight=False)
    if train.dropped or train.truncated:
        console.print(f"too long: {len(train.dropped)} examples dropped, {len(train.truncated)} shortened", highlight=False)
