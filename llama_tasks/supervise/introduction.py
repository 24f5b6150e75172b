"""What a run says of itself once, before step 1: what is trained on what, and how the first batch looks to the model."""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch
from rich.console import Console

from llama_tasks import adapters, parallel
from llama_tasks.clean import told
from llama_tasks.dataset import Dataset
from llama_tasks.dataset.stream import Stream
from llama_tasks.packing.plan import Step
from llama_tasks.recipe import Recipe
from llama_tasks.report import plain
from llama_tasks.sources import notes
from llama_tasks.tokens import IGNORE
from llama_tasks.train import Training

SHOWN, SHOWN_CHARACTERS = 2, 400  # of the first batch


def introduce(
    recipe: Recipe, dataset: Dataset, model: Any, training: Training, console: Console, learns_to_stop: bool
) -> None:
    """Say once what will be trained on what, with every derived value and where it came from."""
    train = dataset.train
    tokens = sum(len(item.input_ids) for item in train.tokens)
    console.print(
        f"task {dataset.task.name} · base {recipe.base.model} · {adapters.count_parameters(model)}", highlight=False
    )
    size = "a stream of examples" if dataset.stream else f"{len(train.tokens):,} training examples, {tokens:,} tokens"
    console.print(
        f"{size} · validation {len(dataset.prompts['validation']):,} · "
        f"test {len(dataset.prompts['test']):,} · {training.total_steps} steps of up to "
        f"{recipe.train.tokens_per_batch * recipe.train.gradient_accumulation_steps:,} tokens",
        highlight=False,
    )
    console.print(
        f"learning rate {recipe.train.learning_rate} · threads {torch.get_num_threads()} of {os.cpu_count()}",
        highlight=False,
    )
    if training.accelerator.num_processes > 1:
        console.print(
            f"processes {training.accelerator.num_processes}, {parallel.layout(training.accelerator)}", highlight=False
        )
    if training.plan.saved:
        console.print(
            f"shared prefixes: {training.plan.saved:.0%} of the tokens need not be computed again (train.share_prefixes)",
            highlight=False,
        )
    for line in notes(dataset.fingerprints):
        console.print(plain(line), highlight=False, markup=False)
    for name, about in dataset.fingerprints.items():
        if "cleaning" in about:
            console.print(f"cleaned {name}: {told(about['cleaning'])}", highlight=False, markup=False)
    for finding in dataset.findings:
        console.print(plain(f"note: {finding}"), highlight=False, markup=False)
    if learns_to_stop:
        console.print(
            "this base has never learned to end a text: the row that scores EOS is trained too "
            "(adapter.trainable_token_indices)",
            highlight=False,
        )
    if not dataset.stream:
        _tell_too_long(len(train.dropped), len(train.answer_cut), len(train.truncated), console)
        show_first_batch(dataset, console, next(iter(training.plan.read(0, {}))))


def show_first_batch(dataset: Dataset, console: Console, step: Step) -> None:
    """The beginning of a step's first batch as the model gets it, decoded from its ids; what carries loss stands in ⟦ ⟧."""
    members = [member for family in step.batches[0] for member in family.members]
    console.print(f"first batch, {len(members)} examples; ⟦what carries loss⟧:", highlight=False)
    for item in members[:SHOWN]:
        labelled = itertools.groupby(zip(item.input_ids, item.labels, strict=True), key=lambda pair: pair[1] != IGNORE)
        parts = [(loss, dataset.encoder.tokenizer.decode([i for i, _ in run])) for loss, run in labelled]
        text = "".join(f"⟦{part}⟧" if loss else part for loss, part in parts)
        cut = (
            text
            if len(text) <= SHOWN_CHARACTERS
            else f"{text[: SHOWN_CHARACTERS // 2]} … {text[-SHOWN_CHARACTERS // 2 :]}"
        )
        console.print(plain(f"  {' '.join(cut.split())}"), highlight=False, markup=False)


def _tell_too_long(dropped: int, answer_cut: int, truncated: int, console: Console) -> None:
    if dropped or truncated:
        why = f" ({answer_cut:,} of them because shortening would cut out the answer)" if answer_cut else ""
        console.print(f"too long: {dropped:,} examples dropped{why}, {truncated:,} shortened", highlight=False)


def tell_of_stream(stream: Stream, console: Console) -> None:
    """What happened to its rows, known only now; a row counts in every pass."""
    _tell_too_long(stream.dropped, stream.answer_cut, stream.truncated, console)
    for line in notes({"train": {"set_aside": stream.bad.describe()}}) if stream.bad.count else ():
        console.print(plain(line), highlight=False, markup=False)
    if stream.cleaning.before:
        console.print(f"cleaned train: {told(stream.cleaning.describe())}", highlight=False, markup=False)
