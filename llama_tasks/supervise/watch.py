"""What stands around the loop: the log, the validation split, the best weights so far, resumable checkpoints, signals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

from llama_tasks import adapters, checkpoint, evaluation, files, parallel, rundir
from llama_tasks.contract import PromptContract
from llama_tasks.dataset import Dataset
from llama_tasks.errors import RunError
from llama_tasks.packing.plan import Step
from llama_tasks.recipe import Recipe
from llama_tasks.score import score_text
from llama_tasks.supervise.allocator import give_back
from llama_tasks.supervise.interrupt import Interrupted, Interrupts
from llama_tasks.supervise.preflight import OutOfMemory, full, is_out_of_memory
from llama_tasks.supervise.progress import Meter
from llama_tasks.supervise.resume import refuse_changes
from llama_tasks.train import NonFiniteLoss, StepReport, Training


@dataclass
class Keeper:
    """The best value on the validation split so far, and the weights that gave it."""

    best_value: float | None = None
    best_step: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds_before: float = 0.0
    evaluated: int = 0
    """The last step whose evaluation is done."""
    waited: int = 0
    """Evaluations since the best one."""
    skipped: int = 0
    """Steps left out because their loss or gradient was not finite."""

    def offer(self, value: float, step: int, training: Training, lower_is_better: bool) -> bool:
        """Keep the weights where `value` is better than all before."""
        better = self.best_value is None or (value < self.best_value if lower_is_better else value > self.best_value)
        self.waited = 0 if better else self.waited + 1
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
    look: Callable[[Step], None] | None = None,
) -> None:
    """Drive the loop: log, evaluate on the validation split, keep the best weights, save resumable checkpoints. `look` gets the
    first step before it is done."""
    main = training.accelerator.is_main_process
    training.accelerator.init_trackers("trackers")
    with Interrupts() as interrupts, Meter(console, training.total_steps, training.step) as meter:
        watch = Watch(run, recipe, dataset, training, keeper, meter, interrupts, began)
        try:
            watch.validate_if_due()  # a stop may have come between a step and its evaluation
            watch.stop_if_told()
            for report in training.run(look) if not watch.is_over else ():
                watch.after(report)
                if watch.is_over:
                    break
            watch.stop_if_told()  # while the last checkpoint was written
        except NonFiniteLoss as error:
            last = checkpoint.newest(run.checkpoints)
            raise NonFiniteLoss(f"{error} Last good checkpoint: {last or 'none'}.") from None
    if main:
        parameters = adapters.count_parameters(training.model)
        run.log({"event": "end", "step": training.step, "best_step": keeper.best_step or training.step,
                 "trainable_parameters": parameters.trainable, "total_parameters": parameters.total,
                 "seconds": round(keeper.seconds_before + time.perf_counter() - began, 1)})  # fmt: skip


@contextmanager
def speaking(run: rundir.RunDirectory, training: Training) -> Iterator[None]:
    """Say in one sentence that the memory of this process is full, or that another one is gone, and what stands. Whichever
    leaves, its connections close, and the others do not wait for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        last = checkpoint.newest(run.checkpoints)
        if is_out_of_memory(error):
            several = training.accelerator.num_processes > 1
            raise OutOfMemory(
                f"The memory{f' of process {training.accelerator.process_index}' if several else ''} is full, after step "
                f"{training.step}. Last good checkpoint: {last or 'none'}. Go on with --resume and "
                "train.gradient_checkpointing=true or a smaller eval.tokens_per_batch, or begin again with half the "
                "train.tokens_per_batch and twice the train.gradient_accumulation_steps."
            ) from None
        if not parallel.is_lost(error):
            raise
        raise RunError(
            f"Another process of this run is gone (its own message, or its machine's log, says why), so it stops after step "
            f"{training.step}. Last good checkpoint: {last or 'none'}. Go on with --resume, on as many processes as you have."
        ) from None


def begin(
    run: rundir.RunDirectory,
    recipe: Recipe,
    dataset: Dataset,
    training: Training,
    contract: PromptContract,
    resume: bool,
    overwrite: bool,
    tell: Callable[[str], None],
    base_sha256: dict[str, str],
) -> Keeper:
    """Make the run directory, or bring everything to the state of the newest checkpoint that is whole.

    Raises:
        ModelError: the checkpoints were made with another template, tokenizer or label set.
        RunError: the recipe or the rows are others than the run began with, or no checkpoint is whole.
    """
    if resume:
        return _resume(run, recipe, dataset, training, contract, tell)
    if training.accelerator.is_main_process:
        files.sweep(run.path)  # of a run that was killed before its recipe was written
        if overwrite:
            rundir.clear(run)
        environment = rundir.environment(dataset.fingerprints, recipe.train.seed)
        more = {"base": base_sha256, "command": rundir.command_line(), "processes": training.processes}
        run.create(recipe, {**environment, **more})
        _keep_contract(run, contract)
    training.accelerator.wait_for_everyone()
    return Keeper()


def _keep_contract(run: rundir.RunDirectory, contract: PromptContract) -> None:
    run.checkpoints.mkdir(exist_ok=True)
    contract.save(run.checkpoints)


def _resume(
    run: rundir.RunDirectory,
    recipe: Recipe,
    dataset: Dataset,
    training: Training,
    contract: PromptContract,
    tell: Callable[[str], None],
) -> Keeper:
    if checkpoint.newest(run.checkpoints) is not None:  # before the first one, the contract may not be written yet
        PromptContract.load(run.checkpoints).check(dataset.encoder.tokenizer, run.checkpoints, recipe)
    refuse_changes(run.path, run.recipe(), recipe)
    # Test rows decide no weight: data.max_test_samples may change, and what is scored is written beside the scores.
    kept = {name: about for name, about in run.environment()["data"].items() if name != "test"}
    moved = [name for name, about in kept.items() if about != dataset.fingerprints[name]]
    if moved:
        raise RunError(
            f"The {' and '.join(moved)} rows have changed since {run.path} began; use --overwrite, or put them back."
        )
    main = training.accelerator.is_main_process
    if main:
        files.sweep(run.path)
        checkpoint.find(run.checkpoints, tell)  # sets damaged ones aside, before every process takes the newest
    training.accelerator.wait_for_everyone()
    newest = checkpoint.newest(run.checkpoints)
    if newest is None:
        tell(f"{run.path} holds no checkpoint; beginning at step 1.")
        if main:
            run.rewind_log(0, 0)
            _keep_contract(run, contract)
        return Keeper()
    extra = checkpoint.restore(newest, training)
    keeper = Keeper(seconds_before=extra.pop("seconds"), **extra)
    if main:
        run.rewind_log(training.step, keeper.evaluated)
    if keeper.best_value is not None:
        keeper.weights = checkpoint.load_weights(run.checkpoints / f"best-{keeper.best_step}")
    return keeper


@dataclass
class Watch:
    """What is done after every optimizer step."""

    run: rundir.RunDirectory
    recipe: Recipe
    dataset: Dataset
    training: Training
    keeper: Keeper
    meter: Meter
    interrupts: Interrupts
    began: float

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.training.accelerator.is_main_process

    @property
    def is_over(self) -> bool:
        """Whether the patience for a better value has ended."""
        patience = self.recipe.train.early_stopping_patience
        return patience is not None and self.keeper.waited >= patience

    def after(self, report: StepReport) -> None:
        """Log, evaluate where it is time, save where it is time or a signal came. Raises Interrupted after such a save."""
        config, step = self.recipe.train, report.step
        self.meter.update(report)
        if self.main and (step % config.logging_steps == 0 or step in (1, report.total_steps)):
            self.run.log(_log_line(report))
            self.training.accelerator.log(_numbers(_log_line(report)), step=step)
        if report.skipped:
            self._tell_skipped(report)
        self.validate_if_due()
        signum = self._signal_of_any()
        if self.is_over:
            times = f"{self.keeper.waited} evaluation{'s' if self.keeper.waited > 1 else ''}"
            self.meter.say(f"step {step}: stopped early, nothing better in {times} since step {self.keeper.best_step}")
        if signum or self.is_over or step % config.save_steps == 0 or step == report.total_steps:
            self.save()
        if signum:
            self._stop(signum)

    def stop_if_told(self) -> None:
        """Raise Interrupted where a signal came while a step was saved already; before the first one none is."""
        if self.training.step and (signum := self._signal_of_any()):
            self._stop(signum)

    def _stop(self, signum: int) -> None:
        raise Interrupted(
            f"Stopped at step {self.training.step} of {self.training.total_steps}, and saved. Go on with --resume (make: "
            "RESUME=1).",
            signum,
        )

    def validate_if_due(self) -> None:
        """Measure the validation split where the step is one of `eval_times`; better weights than before are kept, in memory
        and on the disk. A signal does not wait for its end (a resumed run measures again), unless the weights are in pieces: the
        other processes stand in the middle of a pass."""
        step, times = self.training.step, self.recipe.train.eval_times
        due = {round(self.training.total_steps * (i + 1) / times) for i in range(times)}
        if step not in due or self.keeper.evaluated >= step:
            return
        model = self.training.accelerator.unwrap_model(self.training.model)
        in_pieces = parallel.will_spread(self.training.accelerator)
        with self.training.as_scored():
            give_back()
            try:
                with nullcontext() if in_pieces else self.interrupts.at_once():
                    name, value = _measure(self.recipe, self.dataset, model)
            except Interrupted:
                return
            finally:
                give_back()
            self.keeper.evaluated = step
            self._keep(name, value)

    def save(self) -> None:
        """Write a checkpoint, then remove older ones. Raises RunError where the disk is full."""
        keeper = self.keeper
        random = checkpoint.random_states(gather=self.training.accelerator.num_processes > 1)
        extra = {"best_value": keeper.best_value, "best_step": keeper.best_step, "evaluated": keeper.evaluated,
                 "waited": keeper.waited, "skipped": keeper.skipped,
                 "seconds": keeper.seconds_before + time.perf_counter() - self.began}  # fmt: skip
        needs = [] if keeper.best_value is None else [f"best-{keeper.best_step}"]
        with self._disk():
            checkpoint.save(self.run.checkpoints, self.training, extra, random, needs)
            if self.main:
                checkpoint.keep_newest(self.run.checkpoints, 2)
        self.training.accelerator.wait_for_everyone()

    def _keep(self, name: str, value: float) -> None:
        step = self.training.step
        better = self.keeper.offer(value, step, self.training, lower_is_better=name == "loss")
        if self.main:
            self.run.log({"event": "evaluation", "step": step, "metric": name, "value": value,
                          "n": len(self.dataset.prompts["validation"])})  # fmt: skip
            self.training.accelerator.log({f"validation_{name}": value}, step=step)
            if better:
                with self._disk():
                    checkpoint.save_weights(self.run.checkpoints / f"best-{step}", self.keeper.weights)
        self.meter.score = f"{name} {value:.2f}"
        self.meter.say(f"step {step}: validation {name} {value:.2f}{' (best so far)' if better else ''}")

    def _tell_skipped(self, report: StepReport) -> None:
        self.keeper.skipped += 1
        rows = ", ".join(report.skipped[:8]) + (" ..." if len(report.skipped) > 8 else "")
        self.meter.say(
            f"step {report.step} left out (loss {report.loss}), {self.keeper.skipped} so far; its rows: {rows}",
            markup=False,
        )
        if self.main:
            self.run.log(
                {"event": "skipped", "step": report.step, "loss": str(report.loss), "rows": list(report.skipped)}
            )

    def _signal_of_any(self) -> int:
        """The signal that any process received, so that all of them stop after the same step; 0 for none."""
        signum, accelerator = self.interrupts.signum or 0, self.training.accelerator
        if accelerator.num_processes == 1:
            return signum
        return int(accelerator.gather(torch.tensor(signum, device=accelerator.device)).max())

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Say in one sentence that the disk is full, and what stands."""
        try:
            yield
        except OSError as error:
            if not files.is_full(error):
                raise
            last = checkpoint.newest(self.run.checkpoints)
            raise RunError(
                f"{full(self.run.checkpoints, self.training)} Last good checkpoint: {last or 'none'}; free some space and go on "
                "with --resume."
            ) from None


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
    return {"event": "step", "step": report.step, "epoch": round(report.epoch, 3), "loss": _finite(report.loss, 7),
            "learning_rate": report.learning_rate, "grad_norm": _finite(report.grad_norm, 4),
            "tokens_per_second": round(report.tokens_per_second, 1)}  # fmt: skip


def _finite(value: float, digits: int) -> float | None:
    """Rounded for the log; None for what JSON does not know, in a step that was left out."""
    return round(value, digits) if math.isfinite(value) else None


def _numbers(entry: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in entry.items() if key not in ("event", "step") and value is not None}
