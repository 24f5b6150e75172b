"""Before step 1: the heaviest batch forward and backward, an optimizer step, one evaluation, one save. What does not fit
memory or disk shows now, not after hours, and the setting that fits is looked for.

Nothing of it stays: weights, optimizer and random state are put back, so that a run with it equals one without, byte for byte.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from llama_tasks import checkpoint, evaluation, files, parallel
from llama_tasks.dataset import Dataset
from llama_tasks.errors import RunError
from llama_tasks.generate.slots import HELD
from llama_tasks.model.attention_products import IN_BLOCKS
from llama_tasks.packing import Batch, Family, collate
from llama_tasks.recipe import Recipe, Suite, TrainConfig
from llama_tasks.score import score_text
from llama_tasks.supervise.allocator import give_back
from llama_tasks.tokens import Tokens
from llama_tasks.train import Training

SPARE = 1.05  # a checkpoint's own tables and the page rounding of its files
KEPT = 3  # checkpoints on the disk at once: two, and the one that is being written


class OutOfMemory(RunError):
    """The recipe does not fit the memory of the device."""


Guess = Callable[[TrainConfig], int | None]  # the largest batch that may fit, by estimate


def preflight(folder: Path, recipe: Recipe, dataset: Dataset, training: Training, guess: Guess | None = None) -> None:
    """Try what the run will need, with `folder` for the save. `guess` says where the search for a batch that fits begins.

    Raises:
        OutOfMemory: with the setting that fits, on every process if one of them has too little. Where the passes of one wait for
            the others, it comes on that one alone, which leaves; that ends the others.
        RunError: too little space on the disk.
    """
    tokens, size = dataset.train.tokens, recipe.train.tokens_per_batch
    with _undisturbed(training):
        starved = _starved(training, lambda: _rehearse(training, tokens, size))
        if starved:
            began = f"The longest batch ({size:,} tokens) does not fit the memory{_of(starved, training)}"
            raise OutOfMemory(began + _training_advice(recipe, tokens, training, guess))
        starved = _starved(training, lambda: evaluate(recipe, dataset, training, recipe.eval.tokens_per_batch))
        if starved:
            longest = f"One evaluation of the longest rows (eval.tokens_per_batch={recipe.eval.tokens_per_batch})"
            began = f"{longest} does not fit the memory{_of(starved, training)}"
            raise OutOfMemory(began + _evaluation_advice(recipe, dataset, training))
        _save(folder, training)


def check_space(folder: Path, training: Training) -> None:
    """Raise RunError where the disk has no room for the checkpoints of the run, those that it holds already counted in."""
    whole, weights = checkpoint.size_of(training)
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = int(SPARE * (KEPT * whole + 2 * weights)) - held
    free = files.free_bytes(folder)
    if free < needed:
        raise RunError(
            f"{folder} needs {files.readable(needed)} for checkpoints, and {files.readable(free)} are free; free some space, "
            "or name another place with output=DIR."
        )


def heaviest(tokens: Sequence[Tokens], tokens_per_batch: int) -> Batch:
    """The longest examples as one batch, as many as it holds: none of examples that share no prefix has more tokens (families
    may be laid out at up to `plan.LAID_OUT` times as many in attention)."""
    chosen: list[Tokens] = []
    room = tokens_per_batch
    for item in sorted(tokens, key=lambda item: -len(item.input_ids)):
        if not chosen or len(item.input_ids) <= room:
            chosen.append(item)
            room -= len(item.input_ids)
    return collate([Family((item,)) for item in chosen])


def in_blocks(tokens: Sequence[Tokens]) -> list[Tokens]:
    """The examples short enough for attention to keep its weights, as a CPU may: a batch of them can need more memory than one
    of the longest."""
    return [item for item in tokens if len(item.input_ids) < IN_BLOCKS.stop]


def _rehearse(training: Training, tokens: Sequence[Tokens], tokens_per_batch: int) -> None:
    """A step with each batch that may be the heaviest; the same ones on all processes, whatever their CPUs."""
    training.rehearse(heaviest(tokens, tokens_per_batch))
    if training.accelerator.device.type == "cpu" and 0 < len(shorter := in_blocks(tokens)) < len(tokens):
        training.rehearse(heaviest(shorter, tokens_per_batch))


def evaluate(recipe: Recipe, dataset: Dataset, training: Training, tokens_per_batch: int) -> None:
    """Answer the longest validation prompts, one batch of them."""
    model = training.accelerator.unwrap_model(training.model)
    prompts = dataset.prompts["validation"]
    if recipe.eval.scoring == "perplexity":
        longest = max(dataset.encoder.blocks(prompts).tokens, key=lambda item: len(item.input_ids))
        score_text(model, [longest], 1, tokens_per_batch)
        return
    suite = replace(recipe.eval, tokens_per_batch=tokens_per_batch)
    _, together = answered_together(dataset, suite, tokens_per_batch)
    evaluation.predict(model, dataset, [prompts[i] for i in together], suite)


def answered_together(dataset: Dataset, suite: Suite, tokens_per_batch: int) -> tuple[list[int], list[int]]:
    """The lengths of the validation prompts, and the indices of the longest ones, as many as one batch answers."""
    lengths = [len(ids) for ids in dataset.encoder.prompt_ids(dataset.prompts["validation"])]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return lengths, order[: max(1, HELD * tokens_per_batch // (lengths[order[0]] + suite.max_new_tokens))]


def _save(folder: Path, training: Training) -> None:
    """One save into a scratch folder, which goes again. Raises RunError where the disk refuses."""
    scratch = folder / ".preflight.0.gone"  # a name that `files.sweep` knows; the same one on every process
    try:
        if training.accelerator.is_main_process:
            scratch.mkdir(parents=True, exist_ok=True)
        checkpoint.save(scratch, training, {})
    except OSError as error:
        if files.is_full(error):
            raise RunError(full(folder, training)) from None
        raise
    finally:
        if training.accelerator.is_main_process and scratch.exists():
            files.remove(scratch)


def full(folder: Path, training: Training) -> str:
    """The sentence for a disk without room for one more checkpoint."""
    needed, _ = checkpoint.size_of(training)
    return (
        f"There is no room for a checkpoint in {folder}: it needs {files.readable(SPARE * needed)}, and "
        f"{files.readable(files.free_bytes(folder))} are free."
    )


@contextmanager
def _undisturbed(training: Training) -> Iterator[None]:
    """Put weights, optimizer, gradients and random state back as they were. Not after an error: it ends the run, and the other
    processes may not be there to gather weights with."""
    states = checkpoint.random_states()
    # Not empty in every optimizer: Adagrad's sums, a counter of steps.
    tensors, scalars = checkpoint.optimizer_state(training.optimizer)
    tensors, scalars = {name: value.clone() for name, value in tensors.items()}, copy.deepcopy(scalars)
    weights = {name: weight.clone() for name, weight in checkpoint.trained_weights(training).items()}
    yield
    checkpoint.load_trained_weights(training, weights)
    training.optimizer.zero_grad(set_to_none=True)
    checkpoint.load_optimizer_state(training.optimizer, tensors, scalars)
    checkpoint.set_random_state(states)
    training.model.train()


def _starved(training: Training, attempt: Callable[[], Any]) -> list[int]:
    """The processes whose memory it exhausts, which is free again afterwards; the same on all of them.

    Raises OutOfMemory, on this process alone, where the others cannot be asked: they wait in the middle of the attempt.
    """
    accelerator, full = training.accelerator, False
    try:
        attempt()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        full = True
    finally:
        give_back()
    if full and parallel.needs_others(accelerator):
        raise OutOfMemory(
            f"The run does not fit the memory{_of([accelerator.process_index], training)}. Halve train.tokens_per_batch (or "
            "eval.tokens_per_batch) and double train.gradient_accumulation_steps, or set train.gradient_checkpointing=true."
        )
    return [rank for rank, is_full in enumerate(gather_object([full])) if is_full]


def _of(starved: Sequence[int], training: Training) -> str:
    """Whose memory it is, where there are several processes."""
    if training.accelerator.num_processes == 1:
        return ""
    return f" of process{'es' if len(starved) > 1 else ''} {', '.join(map(str, starved))}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was exhausted, on a GPU or (where torch raises a bare RuntimeError) on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _training_advice(recipe: Recipe, tokens: Sequence[Tokens], training: Training, guess: Guess | None) -> str:
    """Try smaller batches, then gradient checkpointing, and say the first that fits; sizes above the estimate's are not tried."""
    config = recipe.train
    longest = max(len(item.input_ids) for item in tokens)
    least = max(len(item.input_ids) for item in in_blocks(tokens) or tokens)  # smaller batches are the same ones
    for checkpointing in (config.gradient_checkpointing, True):
        if checkpointing:
            training.checkpoint_gradients()
        halvings = 0 if checkpointing and not config.gradient_checkpointing else 1
        guessed = gather_object([guess(replace(config, gradient_checkpointing=checkpointing)) if guess else None])
        most = min(guessed) if all(guessed) else None  # all processes try the same
        while most and config.tokens_per_batch >> halvings > max(most, least):
            halvings += 1
        while halvings == 0 or config.tokens_per_batch >> (halvings - 1) > least:
            size = config.tokens_per_batch >> halvings
            # A quarter to spare: memory is not laid out the same twice.
            if not _starved(training, partial(_rehearse, training, tokens, size + size // 4)):
                keys = [f"train.tokens_per_batch={size}",
                        f"train.gradient_accumulation_steps={config.gradient_accumulation_steps << halvings}"]  # fmt: skip
                keys = (keys if halvings else []) + (["train.gradient_checkpointing=true"] if checkpointing else [])
                return f". Tried, and it fits: {' '.join(keys)}."
            halvings += 1
    return (
        f", and the longest example alone ({longest:,} tokens, with gradient checkpointing) does not either. Lower "
        "prompt.max_length, use base.quantization=nf4, or choose a smaller base."
    )


def _evaluation_advice(recipe: Recipe, dataset: Dataset, training: Training) -> str:
    size = recipe.eval.tokens_per_batch
    while (size := size // 2) >= recipe.eval.max_new_tokens:
        if not _starved(training, lambda: evaluate(recipe, dataset, training, size)):
            return f". Tried, and it fits: eval.tokens_per_batch={size}."
    return ", nor does one row alone. Lower eval.max_new_tokens or prompt.max_length, or use base.quantization=nf4."
