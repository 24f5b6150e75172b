"""What the estimate says of this machine, before a weight is loaded: a run that cannot fit is refused, and the pre-flight's search
for a setting that fits begins where the estimate thinks it is.

Evaluations and shared prefixes are left out, which are dear to look up in many rows: less is expected than `plan` says, never more.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from accelerate import Accelerator

from llama_tasks import parallel
from llama_tasks.dataset import Dataset
from llama_tasks.errors import LlamaTasksError
from llama_tasks.estimate import devices
from llama_tasks.estimate import needs as estimate
from llama_tasks.estimate.shape import Shape, shape_of
from llama_tasks.files import readable
from llama_tasks.recipe import Recipe, TrainConfig
from llama_tasks.supervise.preflight import OutOfMemory

#: Times the free memory that the estimate must exceed before a run is refused: it is right within 15% where it was measured, and
#: what is free may grow.
HOPELESS = 2.0


@dataclass(frozen=True)
class Forecast:
    """A recipe on this machine; `device` is `cpu` or `cuda`, `pieces` in how many the model is spread."""

    recipe: Recipe
    shape: Shape
    batch: estimate.Batch
    device: str
    pieces: int

    def memory(self) -> estimate.Memory:
        """What a process takes above what it holds once the rows are read."""
        return estimate.memory(self.recipe, self.shape, self.batch, self.device, self.pieces)

    def largest(self, train: TrainConfig, room: int) -> int | None:
        """The largest batch, a power of two, that `room` bytes hold; None where none does."""
        recipe = dataclasses.replace(self.recipe, train=train)
        return estimate.largest_batch(recipe, self.shape, self.batch, self.device, room, self.pieces)


def make_forecast(recipe: Recipe, dataset: Dataset, accelerator: Accelerator) -> Forecast | None:
    """The forecast of a recipe whose rows are read; None for what the formulas do not know: a device, an adapter, an optimizer that
    does not step on this machine, weights on the CPU beside a GPU, ZeRO-2."""
    device = accelerator.device.type
    spread, offloads = parallel.will_spread(accelerator), parallel.offloads(accelerator)
    if device not in estimate.HELD or offloads or (parallel.needs_others(accelerator) and not spread):
        return None
    batch = estimate.heaviest_batch(dataset.train.tokens, recipe.train)
    try:
        estimate.check(recipe)
        seen = Forecast(recipe, shape_of(recipe), batch, device, accelerator.num_processes if spread else 1)
        seen.memory()
    except (LlamaTasksError, RuntimeError, AssertionError):  # what is wrong with the recipe is said where it is used
        return None
    return seen


def refuse_hopeless(recipe: Recipe, dataset: Dataset, accelerator: Accelerator) -> None:
    """Raise OutOfMemory where the estimate is more than `HOPELESS` times what is free."""
    forecast = make_forecast(recipe, dataset, accelerator)
    if forecast is None:
        return
    needs, free = forecast.memory().peak, devices.available_memory(forecast.device)
    if needs > HOPELESS * free:
        raise OutOfMemory(
            f"The recipe needs about {readable(needs)} of memory (`llama-tasks plan` says what for), and {readable(free)} are "
            f"free. {_proposal(forecast, dataset, free)} train.preflight=false goes on without this check."
        )


def largest_now(recipe: Recipe, dataset: Dataset, accelerator: Accelerator, train: TrainConfig) -> int | None:
    """The largest batch that fits by estimate with the settings `train`, now that base and adapter are loaded; None: unknown."""
    forecast = make_forecast(recipe, dataset, accelerator)
    if forecast is None:
        return None
    needs = forecast.memory()
    loaded = needs.weights + needs.adapter + needs.best + needs.teacher + needs.fixed
    return forecast.largest(train, devices.available_memory(forecast.device) + loaded)


def _proposal(forecast: Forecast, dataset: Dataset, free: int) -> str:
    """What fits by the same estimate, with the steps of the recipe: halved batches, and twice as many of them."""
    train, longest = forecast.recipe.train, max(len(item.input_ids) for item in dataset.train.tokens)
    for tried in (train, dataclasses.replace(train, gradient_checkpointing=True)):
        most, halvings = forecast.largest(tried, free) or 0, 0
        while train.tokens_per_batch >> halvings > most:
            halvings += 1
        if (size := train.tokens_per_batch >> halvings) >= longest:
            keys = [f"train.tokens_per_batch={size}",
                    f"train.gradient_accumulation_steps={train.gradient_accumulation_steps << halvings}"]  # fmt: skip
            more = ["train.gradient_checkpointing=true"] if tried.gradient_checkpointing else []
            return f"What fits by this estimate: {' '.join(keys + more)}."
    return "By this estimate no batch fits: use base.quantization=nf4, or choose a smaller base."
