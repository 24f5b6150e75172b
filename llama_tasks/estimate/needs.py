"""What a run will need, before a weight is loaded: the model as a shape (meta tensors), the data as they are, the rest by formula.

Memory of one process at the worst moment of a step, with T tokens in the heaviest batch of which N carry loss (or are read),
H hidden, I intermediate and K key-value width, L layers, r the rank of LoRA, b bytes a number:

    saved by a layer    b T (7 H + 4 I + 2 K + 7 r)      its two norms' inputs and outputs, q, k, v, what attention gives, gate,
                                                          up, silu(gate), their product; x A^T of the seven layers of LoRA
    saved in all        (L - 1) layers; the last one keeps K and V of T tokens, the rest of N; N H for the loss
    recomputed          with gradient checkpointing b T H a layer, and one layer in full
    logits              a chunk of them (loss.rows_per_chunk), never all
    backward            b T 3 I: the gradients of gate, up and their product, held at once

Time: 4 P FLOP a token with frozen weights (forward, and backward to the inputs alone), 6 P where they are trained, 2 P more
with gradient checkpointing; P without the embedding, and the head at targets alone; 12 L H x (mean length / 2) for attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from llama_tasks import adapters
from llama_tasks.errors import RecipeError
from llama_tasks.estimate.devices import Device
from llama_tasks.model import NativeLlamaConfig, NativeLlamaForCausalLM
from llama_tasks.model.loading import read_config
from llama_tasks.model.loss import rows_per_chunk
from llama_tasks.model.modeling_native_llama import READS_AT_MOST
from llama_tasks.packing.plan import families_of
from llama_tasks.recipe import Recipe, TrainConfig
from llama_tasks.supervise.preflight import heaviest
from llama_tasks.tokens import Tokens
from llama_tasks.train.optimizers import make_optimizer

#: Bytes a weight of a linear layer takes; nf4 with its doubly quantised scales (a byte for 64 weights, four for 64 x 256).
PACKED = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
#: On a CPU the allocator holds freed blocks of activations that later ones do not fit (bench/results/plan.json).
HELD = {"cpu": 1.2, "cuda": 1.05}
#: A process's own: threads' stacks, the libraries' scratch memory; on a GPU the context and the collectives' buffers.
FIXED = {"cpu": 24 * 2**20, "cuda": 2**30}


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and its adapter without weights: numbers of each kind, and the configuration."""

    config: NativeLlamaConfig
    linear: int
    """Frozen weights of linear layers, which quantisation packs; the head is not among them."""
    other: int
    """All other frozen weights."""
    trained: int
    rank: int
    head: int
    """Weights of the output layer, tied or not."""

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied by."""
        return self.linear if self.linear else self.trained - self.config.vocab_size * self.config.hidden_size


@dataclasses.dataclass(frozen=True)
class Batch:
    """The heaviest batch: tokens, those that the last layer is computed for, those with loss, and how many more attention lays
    out where prefixes are shared."""

    tokens: int
    read: int
    targets: int
    laid_out: int = 0


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one process, part by part."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    backward: int
    data: int
    fixed: int

    @property
    def peak(self) -> int:
        """All of them at the worst moment: either a chunk of logits or a layer's own gradients stand on what is saved."""
        return sum(dataclasses.astuple(self)) - min(self.logits, self.backward)


def shape_of(recipe: Recipe) -> Shape:
    """The recipe's model and adapter, made on the meta device. Raises ModelError or RecipeError as a run would."""
    base = recipe.base
    with torch.device("meta"):
        if base.config is not None:
            model = adapters.new_model(base.config)
        else:
            model = NativeLlamaForCausalLM(read_config(adapters.where_is(base.model), revision=base.revision))
        quantised = dataclasses.replace(
            base, quantization="none"
        )  # the same names and numbers; how they are packed comes later
        if recipe.adapter is not None:
            model = adapters.attach(model, recipe.adapter, quantised)
    frozen = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}
    linear = sum(count for name, count in frozen.items() if ".layers." in name and "norm" not in name)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rank = 0 if recipe.adapter is None else adapters.adapter_config(recipe.adapter).r
    config = model.config
    return Shape(config, linear, sum(frozen.values()) - linear, trained, rank, config.vocab_size * config.hidden_size)


def batch_of(tokens: Sequence[Tokens], config: TrainConfig) -> Batch:
    """The heaviest batch of the training rows."""
    made = heaviest(tokens, config.tokens_per_batch)
    families, saved = families_of(tokens, config)
    more = sum(f.num_laid_out for f in families) / sum(f.num_tokens for f in families) - 1 if saved else 0.0
    read = made.num_targets if made.num_targets <= READS_AT_MOST * made.num_tokens else made.num_tokens
    return Batch(made.num_tokens, read, made.num_targets, int(more * made.num_tokens))


def memory(recipe: Recipe, shape: Shape, batch: Batch, device: str, spread: int = 1, data: int = 0) -> Memory:
    """Bytes of one process on a `cpu` or `cuda` device, the model in `spread` pieces (1: whole on each)."""
    size = adapters.resolve_dtype(recipe.base.dtype, "cpu").itemsize if device == "cpu" else _on_gpu(recipe)
    kept = 4 if recipe.adapter is None else size
    packed = PACKED.get(recipe.base.quantization, size)
    head = nn.Linear(1, shape.config.vocab_size, bias=False, device="meta")
    rows = min(rows_per_chunk(head, torch.device(device)), batch.targets)
    chunk = rows * shape.config.vocab_size * (4 if size == 4 else 4 + size)
    whole_head = 4 * shape.head if recipe.adapter is None else 0  # its gradient, summed over chunks
    frozen = 0 if recipe.adapter is None else int(shape.linear * packed + shape.other * size)
    trained = shape.trained * 4
    return Memory(
        weights=(frozen if recipe.adapter is not None else trained) // spread,
        adapter=(trained if recipe.adapter is not None else 0) // spread,
        gradients=trained // spread,
        optimizer=int(shape.trained * state_bytes(recipe.train)) // spread,
        activations=int(HELD[device] * _saved(recipe.train, shape, batch, kept)),
        logits=chunk + whole_head,
        backward=3 * kept * batch.tokens * shape.config.intermediate_size,
        data=data,
        fixed=FIXED[device],
    )


def state_bytes(config: TrainConfig) -> float:
    """Bytes that the recipe's optimizer keeps for each trained number, by asking it on a small layer."""
    layer = nn.Linear(128, 128, bias=False)
    optimizer = make_optimizer(layer, dataclasses.replace(config, loraplus_lr_ratio=None), 1e-3, 0)
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()
    held = [
        v for slot in optimizer.state.values() for v in slot.values() if isinstance(v, torch.Tensor) and v.numel() > 1
    ]
    return sum(v.numel() * v.element_size() for v in held) / layer.weight.numel()


def flops_per_step(recipe: Recipe, shape: Shape, tokens: float, targets: float, mean_length: float) -> float:
    """FLOP of one optimizer step over `tokens`, of which `targets` carry loss."""
    ways = (6 if recipe.adapter is None else 4) + (2 if recipe.train.gradient_checkpointing else 0)
    attention = ways * shape.config.num_hidden_layers * shape.config.hidden_size * mean_length
    return tokens * (ways * (shape.multiplied + _low_rank(shape, recipe)) + attention) + targets * 4 * shape.head


def seconds(flops: float, device: Device, processes: int) -> float:
    """At the device's peak times its usual utilisation."""
    return flops / (device.flops * device.utilisation * processes)


def largest_batch(recipe: Recipe, shape: Shape, batch: Batch, device: str, room: int, spread: int = 1) -> int | None:
    """The largest power of two that `train.tokens_per_batch` may be within `room` bytes, or None where no batch fits."""
    part = {"read": batch.read / batch.tokens, "targets": batch.targets / batch.tokens}
    for size in (2**i for i in range(20, 6, -1)):
        tried = Batch(size, int(size * part["read"]), int(size * part["targets"]))
        if memory(recipe, shape, tried, device, spread).peak <= room:
            return size
    return None


def check(recipe: Recipe) -> None:
    """Raise RecipeError for what the formulas were not made for."""
    kind = str((recipe.adapter or {}).get("peft_type", "LORA")).upper()
    if kind != "LORA":
        raise RecipeError(f"adapter.peft_type: {kind}: plan knows what LORA and training all weights need.")


def _saved(config: TrainConfig, shape: Shape, batch: Batch, size: int) -> int:
    model = shape.config
    hidden, wide = model.hidden_size, model.intermediate_size
    narrow = (model.num_key_value_heads or model.num_attention_heads) * (
        model.head_dim or hidden // model.num_attention_heads
    )
    layer = 7 * hidden + 4 * wide + 2 * narrow + 7 * shape.rank
    layers = model.num_hidden_layers
    if config.gradient_checkpointing:
        return size * (layers * batch.tokens * hidden + batch.tokens * layer + batch.read * hidden)
    last = batch.read * layer + (0 if batch.read == batch.tokens else batch.tokens * (hidden + 2 * narrow))
    shared = layers * batch.laid_out * 2 * narrow  # keys and values of a prefix, once for each that continues it
    return size * ((layers - 1) * batch.tokens * layer + last + batch.read * 2 * hidden + shared)


def _low_rank(shape: Shape, recipe: Recipe) -> int:
    return shape.trained if recipe.adapter is not None else 0


def _on_gpu(recipe: Recipe) -> int:
    return 2 if recipe.base.dtype == "auto" else getattr(torch, recipe.base.dtype).itemsize
