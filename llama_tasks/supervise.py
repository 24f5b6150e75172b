"""What stands around the loop: the log, the validation split, the best weights so far, resumable checkpoints, signals."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

from llama_tasks import adapters, checkpoint, evaluation, rundir, tasks
from llama_tasks.contract import PromptContract
from llama_tasks.dataset import Dataset
from llama_tasks.errors import RunError
from llama_tasks.interrupt import Interrupted, Interrupts
from llama_tasks.progress import Meter
from llama_tasks.recipe import Recipe
from llama_tasks.score import score_text
from llama_tasks.train import NonFiniteLoss, StepReport, Training


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


def train(
    run: rundir.RunDirectory,
    recipe: Recipe,
    dataset: Dataset,
    training: Training,
    keeper: Keeper,
    console: Console,
    began: float,
) -> None:
    """Drive the loop: log, evaluate on the validation split, keep the best weights, save resumable checkpoints."""
    config = recipe.train
    evaluate_at = {round(training.total_steps * (i + 1) / config.eval_times) for i in range(config.eval_times)}
    main = training.accelerator.is_main_process
    training.accelerator.init_trackers("trackers")
    with Interrupts() as interrupts, Meter(console, training.total_steps, training.step) as meter:
        try:
            for report in training.run():
                meter.update(report)
                if main and (report.step % config.logging_steps == 0 or report.step in (1, training.total_steps)):
                    run.log(_log_line(report))
                    training.accelerator.log(_numbers(_log_line(report)), step=report.step)
                if report.step in evaluate_at:
                    _validate(run, recipe, dataset, training, keeper, meter)
                signum = _signal_of_any(training, interrupts.signum)
                if signum or report.step % config.save_steps == 0 or report.step == report.total_steps:
                    _save(run, training, keeper, began, main)
                if signum:
                    raise Interrupted(f"Stopped at step {report.step} of {report.total_steps}, and saved. Go on with --resume "
                                      "(make: RESUME=1).", signum)  # fmt: skip
        except NonFiniteLoss as error:
            last = checkpoint.newest(run.checkpoints)
            raise NonFiniteLoss(f"{error} Last good checkpoint: {last or 'none'}.") from None
    training.accelerator.end_training()
    if main:
        parameters = adapters.count_parameters(training.model)
        run.log({"event": "end", "step": training.step, "best_step": keeper.best_step or training.step,
                 "trainable_parameters": parameters.trainable, "total_parameters": parameters.total,
                 "seconds": round(keeper.seconds_before + time.perf_counter() - began, 1)})  # fmt: skip


def begin(
    run: rundir.RunDirectory,
    recipe: Recipe,
    dataset: Dataset,
    training: Training,
    contract: PromptContract,
    resume: bool,
    overwrite: bool,
) -> Keeper:
    """Make the run directory, or bring everything to the state of the newest checkpoint.

    Raises:
        ModelError: the checkpoints were made with another template, tokenizer or label set. RunError: another recipe,
        other rows, nothing to resume from.
    """
    if resume:
        return _resume(run, recipe, dataset, training)
    if training.accelerator.is_main_process:
        if overwrite:
            rundir.clear(run)
        environment = rundir.environment(dataset.fingerprints, recipe.train.seed)
        run.create(recipe, {**environment, "command": rundir.command_line()})
        run.checkpoints.mkdir()
        contract.save(run.checkpoints)
    training.accelerator.wait_for_everyone()
    return Keeper()


def _resume(run: rundir.RunDirectory, recipe: Recipe, dataset: Dataset, training: Training) -> Keeper:
    newest = checkpoint.newest(run.checkpoints)
    if newest is None:
        raise RunError(f"{run.path} holds no checkpoint to resume from; start again with --overwrite.")
    PromptContract.load(run.checkpoints).check(dataset.encoder.tokenizer, run.checkpoints, recipe)
    before = run.recipe()
    changed = [
        part
        for part in ("base", "data", "clean", "prompt", "adapter", "train")
        if getattr(before, part) != getattr(recipe, part)
    ]
    if _task(before) != _task(recipe):
        changed.insert(0, "task")
    if changed:
        raise RunError(
            f"{run.path} was made with another recipe (changed: {', '.join(changed)}); resume with the same one, "
            "or use --overwrite."
        )
    moved = [name for name, about in run.environment()["data"].items() if about != dataset.fingerprints[name]]
    if moved:
        raise RunError(
            f"The {' and '.join(moved)} rows have changed since {run.path} began; use --overwrite, or put them back."
        )
    checkpoint.sweep(run.checkpoints)
    extra = checkpoint.restore(newest, training)
    run.rewind_log(training.step)
    keeper = Keeper(extra["best_value"], extra["best_step"], {}, extra["seconds"])
    if keeper.best_value is not None:
        keeper.weights = checkpoint.load_weights(run.checkpoints / f"best-{keeper.best_step}")
    return keeper


def _task(recipe: Recipe) -> str:
    """The task's name, or what its file holds: the run has a copy, so paths differ."""
    return tasks.source_sha256(recipe.task) or recipe.task


def _signal_of_any(training: Training, signum: int | None) -> int:
    """The signal that any process received, so that all of them stop after the same step; 0 for none."""
    if training.accelerator.num_processes == 1:
        return signum or 0
    received = torch.tensor(signum or 0, device=training.accelerator.device)
    return int(training.accelerator.gather(received).max())


def _save(run: rundir.RunDirectory, training: Training, keeper: Keeper, began: float, main: bool) -> None:
    if main:
        extra = {"best_value": keeper.best_value, "best_step": keeper.best_step,
                 "seconds": keeper.seconds_before + time.perf_counter() - began}  # fmt: skip
        checkpoint.save(run.checkpoints, training, extra)
        checkpoint.keep_newest(run.checkpoints, 2)
    training.accelerator.wait_for_everyone()


def _validate(
    run: rundir.RunDirectory, recipe: Recipe, dataset: Dataset, training: Training, keeper: Keeper, meter: Meter
) -> None:
    """Measure the validation split; better weights than before are kept, in memory and on the disk."""
    name, value = _measure(recipe, dataset, training.accelerator.unwrap_model(training.model))
    better = keeper.offer(value, training.step, training, lower_is_better=name == "loss")
    if training.accelerator.is_main_process:
        run.log({"event": "evaluation", "step": training.step, "metric": name, "value": value,
                 "n": len(dataset.prompts["validation"])})  # fmt: skip
        training.accelerator.log({f"validation_{name}": value}, step=training.step)
        if better:
            checkpoint.save_weights(run.checkpoints / f"best-{training.step}", keeper.weights)
    meter.say(f"step {training.step}: validation {name} {value:.2f}{' (best so far)' if better else ''}")


def _measure(recipe: Recipe, dataset: Dataset, model: Any) -> tuple[str, float]:
    """The name and value, on the validation split, of what decides between checkpoints."""
    prompts = dataset.prompts["validation"]
    if recipe.eval.scoring == "perplexity":
        tokens = dataset.encoder.blocks(prompts).tokens
        n_bytes = sum(len(prompt.response.encode()) for prompt in prompts)
        return "loss", score_text(model, tokens, n_bytes, recipe.train.tokens_per_batch)["loss"]
    name = recipe.train.metric_for_best_model or recipe.eval.metrics[0]
    rows = evaluation.predict(model, dataset, prompts, recipe.eval)
    return name, evaluation.leading_value(rows, recipe.eval, dataset.task, name)


def _log_line(report: StepReport) -> dict[str, Any]:
    return {"event": "step", "step": report.step, "epoch": round(report.epoch, 3), "loss": round(report.loss, 5),
            "learning_rate": report.learning_rate, "grad_norm": round(report.grad_norm, 4),
            "tokens_per_second": round(report.tokens_per_second, 1)}  # fmt: skip


def _numbers(entry: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in entry.items() if key not in ("event", "step")}
