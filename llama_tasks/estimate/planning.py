"""`llama-tasks plan`: a recipe's parameters, memory, steps, tokens and time, told before anything is loaded.

The peak is that of one process above the libraries that it imports. On a CPU those are weighed too, in this very process, which
imports the same, and what must fit is their sum.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from llama_tasks import adapters
from llama_tasks.dataset import Dataset, prepare
from llama_tasks.estimate import devices
from llama_tasks.estimate import needs as estimate
from llama_tasks.estimate import shape as model_shape
from llama_tasks.files import readable
from llama_tasks.packing.stream_plan import make_plan
from llama_tasks.recipe import Recipe
from llama_tasks.supervise.progress import memory_in_use

NAMES = {
    "weights": "base weights", "adapter": "adapter", "best": "copy of the best adapter", "teacher": "teacher",
    "gradients": "gradients", "optimizer": "optimizer", "activations": "activations", "logits": "or a chunk of logits",
    "backward": "or a layer's gradients", "evaluation": "or an evaluation", "data": "rows and tokens",
    "fixed": "the process itself",
}  # fmt: skip


@dataclass(frozen=True)
class Outlook:
    """What a run will need; `memory` is that of one device, `libraries` what is resident of imported ones (a CPU's alone)."""

    shape: model_shape.Shape
    batch: estimate.Batch
    memory: estimate.Memory
    device: devices.Device
    processes: int
    steps: int
    tokens: int
    seconds: float
    largest: int | None
    libraries: int = 0


def plan(recipe: Recipe, gpu: str | None = None, processes: int = 1, spread: bool = False) -> Outlook:
    """Read the data, look at the configuration of the base, and add up.

    Raises:
        RecipeError, DataError, ModelError: what a run would meet on its data path, an unknown GPU, an adapter without formula.
    """
    estimate.check(recipe)
    libraries = import_all(recipe)
    if recipe.adapter is None and recipe.base.dtype == "auto":
        recipe = replace(recipe, base=replace(recipe.base, dtype="float32"))
    dataset = prepare(recipe, adapters.load_tokenizer(recipe.base))
    kind = "cuda" if gpu or torch.cuda.is_available() else "cpu"
    libraries, data = (libraries, max(memory_in_use() - libraries, 0)) if kind == "cpu" else (0, 0)
    pieces = processes if spread else 1
    shape = model_shape.shape_of(recipe)
    batch = estimate.batch_of(dataset.train.tokens, recipe.train)
    answers = estimate.answers_of(dataset, recipe, shape.config.vocab_size)
    needs = estimate.memory(recipe, shape, batch, kind, pieces, data, answers)
    dtype = torch.float32 if kind == "cpu" else torch.bfloat16
    device = devices.find(gpu, batch.tokens, shape.config.hidden_size, dtype)
    steps, tokens, flops = _work(recipe, dataset, shape, processes)
    largest = estimate.largest_batch(recipe, shape, batch, kind, device.memory - libraries - data, pieces)
    time = estimate.seconds(flops, device, processes)
    return Outlook(shape, batch, needs, device, processes, steps, tokens, time, largest, libraries)


def import_all(recipe: Recipe) -> int:
    """Import what a run of the recipe imports; the bytes that this process then holds."""
    adapters.adapter_config({})
    estimate.state_bytes(recipe.train)
    return memory_in_use()


def tell(outlook: Outlook, console: Console) -> None:
    """Print it."""
    shape, needs, device = outlook.shape, outlook.memory, outlook.device
    say = partial(console.print, highlight=False)
    total = shape.linear + shape.other + shape.trained
    say(f"{shape.trained:,} of {total:,} parameters are trained")
    say(f"{outlook.steps:,} steps, {outlook.tokens:,} tokens; the heaviest batch has {outlook.batch.tokens:,}")
    table = Table("memory of each " + ("process" if device.name == "this CPU" else "GPU"), "", box=None)
    for part in fields(needs):
        if value := getattr(needs, part.name):
            table.add_row(NAMES[part.name], readable(value))
    table.add_row("peak", readable(needs.peak))
    if outlook.libraries:
        table.add_row("imported libraries, beside it", readable(outlook.libraries))
    console.print(table)
    fits = "fits" if needs.peak + outlook.libraries <= device.memory else "DOES NOT FIT"
    say(f"{fits}: {outlook.processes} x {device.name} with {readable(device.memory)}")
    if outlook.largest is None:
        say("no batch fits: fsdp2.yaml with more devices, base.quantization=nf4, or a smaller base")
    else:
        say(f"the largest power of two that fits: train.tokens_per_batch={outlook.largest}")
    rate = device.flops * device.utilisation
    say(
        f"about {_duration(outlook.seconds)} of training steps, at {rate / 1e12:.3g} TFLOP/s a device "
        f"({device.utilisation:.0%} of {device.flops / 1e12:.3g}); evaluations come on top"
    )


def _work(recipe: Recipe, dataset: Dataset, shape: model_shape.Shape, processes: int) -> tuple[int, int, float]:
    """Steps, tokens and FLOP of the whole run."""
    config, items = recipe.train, dataset.train.tokens
    made = make_plan(dataset.stream or items, config, config.gradient_accumulation_steps * processes)
    lengths = [len(item.input_ids) for item in items]
    mean = sum(n * n for n in lengths) / sum(lengths)  # of the text that a token stands in
    part = sum(sum(label >= 0 for label in item.labels) for item in items) / sum(lengths)
    if dataset.stream:
        tokens = made.total_steps * config.tokens_per_batch * config.gradient_accumulation_steps * processes
    else:
        tokens = sum(family.num_tokens for step in made.read(0, {}) for batch in step.batches for family in batch)
    return made.total_steps, tokens, estimate.flops_per_step(recipe, shape, tokens, tokens * part, mean)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
