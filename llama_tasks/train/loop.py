"""The training loop: packed batches in, a StepReport out after every optimizer step. Knows nothing of disks or loggers.

The loss of an optimizer step is the sum over its target tokens divided by their number (with weights: the weighted sum by
the sum of weights), over all batches of the step and all processes; so batch size, accumulation, packing and world size do
not change the mathematics.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator

from llama_tasks import parallel
from llama_tasks.adapters.rank_allocation import RankAllocation
from llama_tasks.dataset.stream import Stream
from llama_tasks.errors import LlamaTasksError, RecipeError
from llama_tasks.model.loss import sum_of_losses
from llama_tasks.packing import Batch, collate
from llama_tasks.packing.plan import Step
from llama_tasks.packing.stream_plan import make_plan
from llama_tasks.recipe import TrainConfig
from llama_tasks.tokens import Tokens
from llama_tasks.train.distillation import Teacher
from llama_tasks.train.optimizers import make_optimizer, make_scheduler
from llama_tasks.train.perturbation import Perturbation

SKIPS = 10  # steps in a row without a finite loss: then it is not a matter of some rows


class NonFiniteLoss(LlamaTasksError):
    """The loss or the gradient is NaN or infinite; training on would only spread it."""


@dataclass(frozen=True)
class StepReport:
    """One optimizer step. `loss` is nats per target token; `tokens` and `targets` are over all processes; `skipped` are the
    ids of its rows where it changed nothing, because loss or gradient was not finite."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    targets: int
    seconds: float
    skipped: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the step by wall clock."""
        return self.tokens / max(self.seconds, 1e-9)


class Training:
    """Model, optimizer and schedule of one run, and the position in the data.

    Attributes:
        processes: by how many processes an optimizer step is counted: as many as there are, but in a resumed run as many as
            it began with, so that its steps stay the same on another number.
    """

    def __init__(
        self,
        model: Any,
        data: Sequence[Tokens] | Stream,
        config: TrainConfig,
        accelerator: Accelerator,
        learning_rate: float,
        teacher: Teacher | None = None,
        processes: int | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.processes = processes or accelerator.num_processes
        self.plan = make_plan(data, config, config.gradient_accumulation_steps * self.processes)
        if not self.plan.total_steps:
            raise RecipeError(
                f"train.num_train_epochs={config.num_train_epochs} is less than one optimizer step; nothing would be trained."
            )
        if config.gradient_checkpointing:
            _checkpoint_gradients(model)
        self.teacher, self.perturbation = teacher, Perturbation(model, config)
        warmup = _warmup(config, self.total_steps)
        parallel.spread(model, accelerator)
        optimizer = make_optimizer(model, config, learning_rate, warmup)
        self.model, self.optimizer = parallel.prepare(accelerator, model, optimizer, config)
        self.scheduler = make_scheduler(self.optimizer, config, warmup, self.total_steps)
        self.allocation = RankAllocation.of(model, self.total_steps)
        self.step = 0
        self.position: dict[str, Any] = {}
        self.tokens_seen = 0
        self._skips = 0  # steps in a row that were left out

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.plan.total_steps

    def run(self, look: Callable[[Step], None] | None = None) -> Iterator[StepReport]:
        """Train from the current step to the last, one report a step; stop iterating to stop training. `look` gets the first of
        these steps before it is done."""
        self._to_train()
        for step in self.plan.read(self.step, self.position):
            if look is not None:
                look(step)
                look = None
            yield self._optimizer_step(step)

    def rehearse(self, batch: Batch) -> None:
        """One optimizer step on a batch, outside of the plan; the caller puts weights and optimizer back. Where the whole model is
        on each process, none waits for another, whose memory may have ended."""
        self._to_train()
        alone = not parallel.needs_others(self.accelerator)
        model = self.accelerator.unwrap_model(self.model) if alone else self.model
        batches = [batch] * self.accelerator.num_processes
        self._clip(float(self._add_gradients(model, batches, batch.target_weight or 1.0, 0)))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def as_scored(self) -> Iterator[None]:
        """Within, the model has the weights that the optimizer means to give: a schedule-free one trains at others. Afterwards it
        has those of the training again, to the bit."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        kept = [p.detach().clone() for p in trained] if hasattr(self.optimizer.optimizer, "eval") else []
        self.optimizer.eval()
        try:
            yield
        finally:
            parallel.reshard(self.model)
            self._to_train()
            with torch.no_grad():
                for weight, before in zip(trained, kept, strict=False):
                    weight.copy_(before)

    def _to_train(self) -> None:
        self.model.train()
        self.optimizer.train()

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass from now on."""
        _checkpoint_gradients(self.accelerator.unwrap_model(self.model))

    def _optimizer_step(self, step: Step) -> StepReport:
        began = time.perf_counter()
        batches = [collate(families) for families in step.batches]
        targets, tokens = sum(b.num_targets for b in batches), sum(b.num_tokens for b in batches)
        loss = self.accumulate(batches, sum(b.target_weight for b in batches), int(step.epoch))
        norm = self._clip(loss)
        skipped = self._skipped(loss, norm, batches)
        learning_rate = self.scheduler.get_last_lr()[0]
        if skipped:
            self.optimizer.zero_grad(set_to_none=True)  # a step without gradients changes neither weights nor moments
        self.optimizer.step()
        if self.allocation and not skipped:
            self.allocation.after(self.step + 1)
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step, self.position = self.step + 1, step.position
        self.tokens_seen += tokens
        return StepReport(
            self.step,
            self.total_steps,
            step.epoch,
            loss,
            norm,
            learning_rate,
            tokens,
            targets,
            time.perf_counter() - began,
            skipped,
        )

    def accumulate(self, batches: Sequence[Batch], weight: float, epoch: int) -> float:
        """Add the gradients of sum(weighted loss) / `weight` over a step's batches; returns that loss, summed over processes."""
        return float(self.accelerator.reduce(self._add_gradients(self.model, batches, weight, epoch), reduction="sum"))

    def _add_gradients(self, model: Any, batches: Sequence[Batch], weight: float, epoch: int) -> torch.Tensor:
        """As `accumulate`, by the model or its wrapper; returns this process's part of the loss."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        rounds = -(-len(batches) // world)
        total = torch.zeros((), device=self.accelerator.device)
        passes = rounds * world * self.perturbation.num_passes
        with self.allocation.shared_by(passes) if self.allocation else nullcontext():
            for i in range(rounds):
                # A process without a batch in the last round runs the first one with no target, so that all take part.
                index = i * world + rank
                batch = batches[index] if index < len(batches) else batches[0].without_targets()
                for is_last in self.perturbation.passes(batch, epoch):
                    sync = is_last and i + 1 == rounds
                    with nullcontext() if sync else self.accelerator.no_sync(model):
                        total += self._pass(model, batch, weight, sync)
        return total

    def _clip(self, loss: float) -> float:
        return parallel.clip(self.accelerator, self.model, self.optimizer, self.config, loss)

    def _pass(self, model: Any, batch: Batch, weight: float, is_last: bool) -> torch.Tensor:
        """Add the gradients of one batch's part of the loss; returns that part."""
        device, smoothing = self.accelerator.device, self.config.label_smoothing_factor
        labels = batch.labels.to(device)
        options: dict[str, Any] = {} if batch.loss_weights is None else {"loss_weights": batch.loss_weights.to(device)}
        if self.teacher is not None:
            options["objective"] = self.teacher.objective(batch, labels, smoothing)
        elif smoothing:
            options["objective"] = partial(sum_of_losses, smoothing=smoothing)
        loss = model(**batch.inputs(device), **options, labels=labels, num_items_in_batch=weight, skip_logits=True).loss
        parallel.backward(self.accelerator, model, loss, is_last)
        return loss.detach()

    def _skipped(self, loss: float, norm: float, batches: Sequence[Batch]) -> tuple[str, ...]:
        """The step's rows where its loss or gradient is not finite and `on_nonfinite` says skip, else none.

        Raises:
            NonFiniteLoss: it says stop; or skipping does not help, because the weights themselves are not finite or
                `SKIPS` steps in a row were skipped.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self._skips = 0
            return ()
        rows = tuple(name for batch in batches for name in batch.ids)
        self._skips += 1
        if self.config.on_nonfinite == "skip" and self._skips < SKIPS and self._weights_are_finite():
            return rows
        raise NonFiniteLoss(
            f"Step {self.step + 1}: the loss is {loss} and the gradient norm {norm}. Rows of this step: {', '.join(rows[:8])}"
            f"{f' and {len(rows) - 8} more' if len(rows) > 8 else ''}. Look at these rows and begin again with --overwrite and a "
            "lower train.learning_rate; train.on_nonfinite=skip leaves such steps out."
        )

    def _weights_are_finite(self) -> bool:
        weights = parallel.whole_weights(self.model, trained=True)
        return all(bool(weight.isfinite().all()) for weight in weights.values())


def _checkpoint_gradients(model: Any) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()


def _warmup(config: TrainConfig, total: int) -> int:
    return round(config.warmup_steps * total) if config.warmup_steps < 1 else int(config.warmup_steps)
