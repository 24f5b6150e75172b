"""A proof on a user's own recipe and data: loss and gradients do not depend on how examples come into batches.

The first examples of the recipe go through the run's own plan, batches and accumulation in several ways, and each way is compared
with one example at a time. Weights are float32 (a quantised base stays so), dropout is off: what is left is rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from llama_tasks import adapters, parallel
from llama_tasks.adapters.freezing import freeze
from llama_tasks.dataset import prepare
from llama_tasks.errors import RecipeError
from llama_tasks.finetune import make_accelerator
from llama_tasks.model.attention_packed import SHARES_PREFIXES
from llama_tasks.packing import collate
from llama_tasks.packing.plan import MemoryPlan
from llama_tasks.recipe import Recipe, TrainConfig
from llama_tasks.supervise.settling import settle
from llama_tasks.tokens import Tokens
from llama_tasks.train import Training
from llama_tasks.train.distillation import load_teacher
from llama_tasks.verify.certificate import TOLERANCE, Certificate, Line, apart, gradients_apart

EXAMPLES = 16
ALL = 10**9  # batches in one step
# 8-bit products round their input by its largest value, which is that of the whole batch.
TOLERANCES = {"float32": TOLERANCE["float32"], "4-bit": TOLERANCE["nf4"], "8-bit": 5e-2}


@dataclass(frozen=True)
class _Way:
    """How the examples come into batches."""

    name: str
    tokens_per_batch: int
    share_prefixes: bool = False
    gradient_checkpointing: bool = False


def verify_recipe(recipe: Recipe, count: int = EXAMPLES) -> Certificate:
    """Compare loss and gradients of the first `count` training examples over all ways.

    Raises:
        LlamaTasksError: whatever would stop the run itself, or fewer than two examples.
    """
    if count < 2:
        raise RecipeError(f"--examples is {count}; two at least are needed to be put into one batch.")
    recipe = replace(recipe, train=replace(recipe.train, report_to=[]))
    if not recipe.base.is_quantized:
        recipe = replace(recipe, base=replace(recipe.base, dtype="float32"))
    training, tokens = _make(recipe, count)
    precision = _precision(training.model)
    expected = _step(training, tokens, _Way("one example at a time", 1))
    lines = []
    for way in _ways(recipe.train, tokens, training.model.config._attn_implementation):
        loss, gradients = _step(training, tokens, way)
        limit = TOLERANCES[precision]
        lines.append(Line(f"loss, {way.name}", precision, apart(loss, expected[0]), limit))
        lines.append(Line(f"gradients, {way.name}", precision, gradients_apart(gradients, expected[1]), 3 * limit))
    return Certificate(
        model=f"{recipe.base.model}, {len(tokens)} examples of {recipe.data.train[0]}",
        revision=recipe.base.revision,
        device=str(training.accelerator.device),
        tokens=sum(len(item.input_ids) for item in tokens),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: version(name) for name in ("llama-tasks", "torch", "transformers", "peft")},
        lines=tuple(lines),
    )


def _make(recipe: Recipe, count: int) -> tuple[Training, list[Tokens]]:
    """The recipe's own training, without what is random in a forward pass, and its first examples."""
    accelerator = make_accelerator(recipe)
    if parallel.is_deepspeed(accelerator) or accelerator.num_processes > 1:
        raise RecipeError(
            "verify compares the batches and gradients of one process; run it without a launcher and without DeepSpeed."
        )
    set_seed(recipe.train.seed)
    dataset = prepare(recipe, adapters.load_tokenizer(recipe.base))
    base = adapters.load_base(recipe.base, accelerator.device)
    recipe = settle(recipe, base, dataset)
    model = adapters.attach(base, recipe.adapter, recipe.base)
    freeze(model, recipe.train.freeze)
    teacher = load_teacher(recipe, dataset.encoder.tokenizer, accelerator.device)
    tokens = list(dataset.train.tokens[:count])
    config = replace(recipe.train, gradient_checkpointing=False)
    rate = float(recipe.train.learning_rate)
    training = Training(model, tokens, config, accelerator, rate, teacher)
    training.model.train()
    _without_dropout(training.model)
    _leave_zero(training.model)
    return training, tokens


def _without_dropout(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0


@torch.no_grad()
def _leave_zero(model: Any) -> None:
    """Adapters begin with a factor of zeros, through which the other one gets no gradient: nothing would be compared."""
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            parameter.normal_(std=0.02)


def _ways(config: TrainConfig, tokens: list[Tokens], attention: str) -> Iterator[_Way]:
    everything = sum(len(item.input_ids) for item in tokens)
    yield _Way("all in one batch", everything)
    yield _Way("two batches accumulated", everything // 2 + 1)
    yield _Way(f"packed by {config.tokens_per_batch:,} tokens", config.tokens_per_batch)
    if attention in SHARES_PREFIXES and not (config.neftune_noise_alpha or config.fgm_epsilon):
        yield _Way("shared prefixes", max(config.tokens_per_batch, everything), share_prefixes=True)
    yield _Way("gradient checkpointing", everything, gradient_checkpointing=True)


def _step(training: Training, tokens: list[Tokens], way: _Way) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one optimizer step over all examples, before it is taken."""
    config = replace(
        training.config, max_steps=1, tokens_per_batch=way.tokens_per_batch, share_prefixes=way.share_prefixes
    )
    (step,) = MemoryPlan(tokens, config, ALL).read(0, {})
    batches = [collate(families) for families in step.batches]
    if way.gradient_checkpointing:
        training.checkpoint_gradients()
    loss = training.accumulate(batches, sum(batch.target_weight for batch in batches), 0)
    gradients = {name: p.grad.float().cpu() for name, p in training.model.named_parameters() if p.grad is not None}
    training.optimizer.zero_grad(set_to_none=True)
    return torch.tensor(loss), gradients


def _precision(model: Any) -> str:
    if getattr(model, "is_loaded_in_8bit", False):
        return "8-bit"
    return "4-bit" if getattr(model, "is_loaded_in_4bit", False) else "float32"
