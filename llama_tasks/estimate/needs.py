"""What a run will need, before a weight is loaded: the model as a shape (meta tensors), the data as they are, the rest by formula.

Memory of one process at the worst moment of a step, with T tokens in the heaviest batch of which N carry loss (or are read),
H hidden, I intermediate and K key-value width, L layers, r the rank of LoRA, b bytes a number:

    saved by a layer    b T (7 H + 4 I + 2 K + 7 r)      its two norms' inputs and outputs, q, k, v, what attention gives, gate,
                                                          up, silu(gate), their product; x A^T of the seven layers of LoRA;
                                                          b for each weight of attention, where a CPU keeps them
    saved in all        (L - 1) layers; the last one keeps K and V of T tokens, the rest of N; N H for the loss
    recomputed          with gradient checkpointing b T H a layer, and one layer in full
    logits              a chunk of them (loss.rows_per_chunk), never all; beside a teacher's, six times that
    backward            b T 3 I: the gradients of gate, up and their product, held at once
    evaluation          b (T' (4 H + 4 I) + 2 K L S): a layer without gradients over the T' tokens of the longest prompts that
                        are read together, and keys and values of S places; b V a position for plain text's logits

Resident memory is more than live tensors: glibc takes blocks below 32 MiB from a heap and keeps them, and later ones of other
sizes fit them badly (`HELD`). Larger blocks are mapped by themselves and leave no trace.

Time: 4 P FLOP a token with frozen weights (forward, and backward to the inputs alone), 6 P where they are trained, 2 P more
with gradient checkpointing; P without the embedding, and the head at targets alone; 12 L H x (mean length / 2) for attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from llama_tasks.dataset import Dataset
from llama_tasks.errors import RecipeError
from llama_tasks.estimate.devices import Device
from llama_tasks.estimate.shape import Shape, frozen_bytes, shape_of, size_of
from llama_tasks.model.alone import SHORT
from llama_tasks.model.attention_packed import laid_out
from llama_tasks.model.attention_products import weights_kept
from llama_tasks.model.loss import rows_per_chunk
from llama_tasks.model.modeling_native_llama import READS_AT_MOST
from llama_tasks.model.products import is_x86_without_avx512, turning_is_faster
from llama_tasks.packing.plan import families_of
from llama_tasks.recipe import BaseConfig, Recipe, TrainConfig
from llama_tasks.score import LOGITS
from llama_tasks.supervise.preflight import answered_together, heaviest, in_blocks
from llama_tasks.tokens import Tokens
from llama_tasks.train.optimizers import make_optimizer, step_once

#: Resident bytes for each live byte of activations: on a CPU 1.3 to 1.5 of them in blocks of 0.2 to 8 MiB, after some steps of
#: batches that differ, and 1.8 to 2.0 in decoding, where keys and values grow with every step (bench/results/plan.json); on a
#: GPU torch's own allocator.
HELD = {"cpu": 1.4, "cuda": 1.05}
HELD_DECODING = {"cpu": 1.8, "cuda": 1.05}
MAPPED = 32 * 2**20  # glibc's largest M_MMAP_THRESHOLD: blocks from here on are mapped, and given back whole
#: A process's own: threads' stacks, scratch memory of the products, modules that come with their first use; on a GPU the
#: context and the collectives' buffers.
FIXED = {"cpu": 16 * 2**20, "cuda": 2**30}
TAUGHT = 6  # tensors as large as a chunk of logits that distillation holds at once: of both models logits, log p, and their product


@dataclasses.dataclass(frozen=True)
class Batch:
    """The heaviest batch: tokens, those that the last layer is computed for, those with loss, how many more attention lays
    out where prefixes are shared, and the weights of attention that float32 training on this CPU keeps, a token and head."""

    tokens: int
    read: int
    targets: int
    laid_out: int = 0
    weights: float = 0.0


@dataclasses.dataclass(frozen=True)
class Answers:
    """What an evaluation holds at once: prompt tokens read together, places for keys and values, positions with logits."""

    tokens: int = 0
    places: int = 0
    logits: int = 0


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one process above the imported libraries, part by part."""

    weights: int
    adapter: int
    best: int
    """A copy of the trained weights: the best ones so far, before them those that the pre-flight puts back."""
    teacher: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    backward: int
    evaluation: int
    data: int
    fixed: int

    @property
    def peak(self) -> int:
        """At the worst moment: what stays, and either a training step (in it, a chunk of logits or a layer's own gradients on
        what is saved) or an evaluation."""
        step = self.gradients + self.activations + max(self.logits, self.backward)
        passing = (self.gradients, self.activations, self.logits, self.backward, self.evaluation)
        return sum(dataclasses.astuple(self)) - sum(passing) + max(step, self.evaluation)


def batch_of(tokens: Sequence[Tokens], config: TrainConfig) -> Batch:
    """The heaviest batch of the training rows, with what attention lays out more of shared prefixes."""
    made = heaviest_batch(tokens, config)
    families, share = families_of(tokens, config)
    more = sum(f.num_laid_out for f in families) / sum(f.num_tokens for f in families) - 1 if share else 0.0
    return dataclasses.replace(made, laid_out=int(more * made.tokens))


def heaviest_batch(tokens: Sequence[Tokens], config: TrainConfig) -> Batch:
    """The heaviest batch of the training rows."""
    made = heaviest(tokens, config.tokens_per_batch)
    read = made.num_targets if made.num_targets <= READS_AT_MOST * made.num_tokens else made.num_tokens
    shorter = in_blocks(tokens)  # a batch of them has most weights
    lengths = heaviest(shorter, config.tokens_per_batch).cu_seq_lens.diff().long() if shorter else torch.zeros(0).long()
    weights = sum(weights_kept(length) for length in laid_out(lengths).tolist())
    return Batch(made.num_tokens, read, made.num_targets, weights=weights / made.num_tokens)


def answers_of(dataset: Dataset, recipe: Recipe, vocabulary: int) -> Answers:
    """The heaviest part of an evaluation on the validation rows, as `preflight.evaluate` tries it."""
    suite, prompts = recipe.eval, dataset.prompts.get("validation", [])
    if not prompts:
        return Answers()
    if suite.scoring == "perplexity":
        tokens = min(suite.tokens_per_batch, LOGITS // vocabulary)
        return Answers(tokens, logits=tokens)
    lengths, together = answered_together(dataset, suite, suite.tokens_per_batch)
    if suite.scoring == "likelihood":
        return Answers(min(sum(lengths), suite.tokens_per_batch))
    # Prompts enter in passes of `tokens_per_batch`, however many the slots hold.
    read = min(sum(lengths[i] for i in together), max(suite.tokens_per_batch, lengths[together[0]]))
    return Answers(read, len(together) * (lengths[together[0]] + suite.max_new_tokens), len(together))


def memory(
    recipe: Recipe,
    shape: Shape,
    batch: Batch,
    device: str,
    spread: int = 1,
    data: int = 0,
    answers: Answers = Answers(),
) -> Memory:
    """Bytes of one process on a `cpu` or `cuda` device, the model in `spread` pieces (1: whole on each)."""
    size = size_of(recipe.base, device)
    kept = 4 if recipe.adapter is None else size
    config = shape.config
    head = nn.Linear(1, config.vocab_size, bias=False, device="meta")
    rows = min(rows_per_chunk(head, torch.device(device)), batch.targets)
    chunk = rows * config.vocab_size * (4 if size == 4 else 4 + size) * (TAUGHT if recipe.distill else 1)
    whole_head = 4 * shape.head if recipe.adapter is None else 0  # its gradient, summed over chunks
    trained = shape.trained * 4
    loose = (HELD_DECODING if answers.places else HELD)[device]
    unpacked = config.hidden_size * config.intermediate_size * size if recipe.base.is_quantized else 0
    made_again = device == "cpu" and recipe.adapter is not None  # on a GPU liger-kernel may do it, and keeps it
    in_float32 = device == "cpu" and (kept == 4 or is_x86_without_avx512())
    return Memory(
        weights=(frozen_bytes(shape, recipe.base, device) + (trained if recipe.adapter is None else 0)) // spread,
        adapter=(trained if recipe.adapter is not None else 0) // spread,
        best=trained if device == "cpu" else 0,  # whole, in the memory of the CPU
        teacher=_teacher(recipe, batch, device),
        gradients=trained // spread,
        optimizer=int(shape.trained * state_bytes(recipe.train)) // spread,
        activations=int(
            held(shape, batch.tokens, kept, HELD[device]) * saved(recipe.train, shape, batch, kept, made_again)
            + (HELD[device] * attention_in_float32(recipe.train, shape, batch, kept) if in_float32 else 0)
        ),
        logits=chunk + whole_head,
        backward=3 * (4 if in_float32 else kept) * batch.tokens * config.intermediate_size + unpacked,
        evaluation=_evaluation(shape, answers, size, loose, device) + unpacked,
        data=data,
        fixed=FIXED[device],
    )


def held(shape: Shape, tokens: int, size: int, of_heap: float) -> float:
    """Resident bytes for each byte of activations of so many tokens, `of_heap` for those in blocks that the heap keeps."""
    hidden, wide = shape.config.hidden_size, shape.config.intermediate_size
    by_width = ((7 * hidden, hidden), (4 * wide, wide))
    kept = sum(part for part, width in by_width if tokens * width * size < MAPPED)
    return 1 + (of_heap - 1) * kept / sum(part for part, _ in by_width)


def state_bytes(config: TrainConfig) -> float:
    """Bytes that the recipe's optimizer keeps for each trained number, by asking it on a layer."""
    with torch.random.fork_rng(devices=[]):  # a run's own draws stay as they are
        layer = nn.Linear(512, 512, bias=False)
    optimizer = make_optimizer(layer, dataclasses.replace(config, loraplus_lr_ratio=None), 1e-3, 0)
    layer.weight.grad = torch.zeros_like(layer.weight)
    step_once(optimizer)
    tensors = [v for v in _leaves(list(optimizer.state.values())) if v.numel() > 1]
    return sum(v.numel() * v.element_size() for v in tensors) / layer.weight.numel()


def _leaves(state: object) -> list[torch.Tensor]:
    """All tensors of an optimizer's state; bitsandbytes nests some."""
    if isinstance(state, torch.Tensor):
        return [state]
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [leaf for part in inner for leaf in _leaves(part)]


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
        tried = Batch(size, int(size * part["read"]), int(size * part["targets"]), weights=batch.weights)
        if memory(recipe, shape, tried, device, spread).peak <= room:
            return size
    return None


def check(recipe: Recipe) -> None:
    """Raise RecipeError for what the formulas were not made for."""
    kind = str((recipe.adapter or {}).get("peft_type", "LORA")).upper()
    if kind != "LORA":
        raise RecipeError(f"adapter.peft_type: {kind}: plan knows what LORA and training all weights need.")


def saved(config: TrainConfig, shape: Shape, batch: Batch, size: int, made_again: bool) -> int:
    """Bytes that autograd saves of a batch, at `size` bytes a number; what the MLP's last layer reads may be made again."""
    model = shape.config
    hidden, wide, narrow = model.hidden_size, model.intermediate_size, shape.narrow
    layer = 6 * hidden + (2 if made_again else 3) * wide + 2 * narrow + 7 * shape.rank
    layers = model.num_hidden_layers
    if config.gradient_checkpointing:
        return size * (layers * batch.tokens * hidden + batch.tokens * layer + batch.read * hidden)
    last = batch.read * layer + (0 if batch.read == batch.tokens else batch.tokens * (hidden + 2 * narrow))
    shared = layers * batch.laid_out * 2 * narrow  # keys and values of a prefix, once for each that continues it
    return size * ((layers - 1) * batch.tokens * layer + last + batch.read * 2 * hidden + shared)


def attention_in_float32(config: TrainConfig, shape: Shape, batch: Batch, kept: int) -> int:
    """Bytes of the weights that attention keeps for the backward pass (a last layer of few queries, which is masked, keeps none),
    and of what stays in float32 beside them in a narrower model."""
    heads, layers = shape.config.num_attention_heads, shape.config.num_hidden_layers
    layers = 1 if config.gradient_checkpointing else layers if batch.read == batch.tokens else layers - 1
    wider = (4 - kept) * (shape.config.hidden_size + 2 * shape.narrow + 7 * shape.rank)
    if kept < 4 and not batch.weights:  # torch's attention keeps its output too, beside the narrow one
        wider += 4 * (shape.config.hidden_size + heads)
    return int(layers * batch.tokens * (4 * heads * batch.weights + wider))


def _evaluation(shape: Shape, answers: Answers, size: int, loose: float, device: str) -> int:
    """The larger of the pass in which prompts enter and the last text, which is decoded with weights of its own layout."""
    past = size * answers.places * 2 * shape.narrow * shape.config.num_hidden_layers
    entering = held(shape, answers.tokens, size, loose) * _answering(shape, answers, size)
    fits = device == "cpu" and size == 4 and shape.config.hidden_size <= SHORT and turning_is_faster()
    alone = loose * past + 4 * (shape.linear + shape.head) if answers.places and fits else 0
    return int(max(entering, alone))


def _answering(shape: Shape, answers: Answers, size: int) -> int:
    model = shape.config
    layer = answers.tokens * 4 * (model.hidden_size + model.intermediate_size)
    past = answers.places * 2 * shape.narrow * model.num_hidden_layers
    return size * (layer + past) + answers.logits * model.vocab_size * (size + 4)


def _teacher(recipe: Recipe, batch: Batch, device: str) -> int:
    """A distillation's teacher, whole on each process: its weights, and one of its layers on the batch."""
    config = recipe.distill
    if config is None:
        return 0
    base = BaseConfig(config.teacher, revision=config.revision, dtype=config.dtype, quantization=config.quantization)
    train = dataclasses.replace(recipe.train, freeze=[])
    shape = shape_of(dataclasses.replace(recipe, base=base, adapter={"r": 1}, train=train))
    return frozen_bytes(shape, base, device) + _answering(shape, Answers(batch.tokens), size_of(base, device))


def _low_rank(shape: Shape, recipe: Recipe) -> int:
    return shape.trained if recipe.adapter is not None else 0
