"""The fine-tuning path, station by station: recipe -> data -> base -> adapter -> steps -> best adapter -> report."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from rich.console import Console

from llama_tasks import adapters, checkpoint, evaluation, rundir, supervise
from llama_tasks.dataset import Dataset, prepare
from llama_tasks.errors import RecipeError
from llama_tasks.prompts import PromptContract, hash_of, special_ids, tokenizer_sha256
from llama_tasks.recipe import Recipe
from llama_tasks.sources import pin
from llama_tasks.train import Training


def finetune(
    recipe: Recipe, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Run a recipe from rows to report; returns the report.

    Raises:
        LlamaTasksError: anything that the user can mend; nothing half-written stays.
        Interrupted: Ctrl-C or SIGTERM; the run is saved and can be resumed.
    """
    began = time.perf_counter()
    accelerator = make_accelerator(recipe)
    console = console or Console(quiet=not accelerator.is_main_process)
    run = rundir.RunDirectory(Path(recipe.output or f"runs/{recipe.task}"))
    if accelerator.is_main_process:
        rundir.claim(run.path, resume, overwrite)
    evaluation.check_suite(recipe)
    set_seed(recipe.train.seed)
    recipe = replace(recipe, data=pin(recipe.data))
    dataset = prepare(recipe, adapters.load_tokenizer(recipe.base))
    base = adapters.load_base(recipe.base, accelerator.device)
    recipe = settle(recipe, base, dataset)
    model = adapters.attach(base, recipe.adapter, recipe.base)
    training = Training(model, dataset.train.tokens, recipe.train, accelerator, float(recipe.train.learning_rate))
    _introduce(recipe, dataset, model, training, console)
    keeper = supervise.begin(run, recipe, dataset, training, resume, overwrite)
    supervise.train(run, recipe, dataset, training, keeper, console, began)
    save_trained(run, recipe, dataset, training, keeper)
    if recipe.eval.scoring == "perplexity" or not accelerator.is_main_process:
        return {}
    return evaluation.evaluate(run, recipe, dataset, lambda text: console.print(text, highlight=False))


def make_accelerator(recipe: Recipe) -> Accelerator:
    """accelerate with the recipe's trackers. Raises RecipeError for one that is unknown or not installed."""
    available = [tracker.value for tracker in get_available_trackers()]
    for name in recipe.train.report_to:
        if name not in available:
            raise RecipeError(
                f"train.report_to: {name!r} is not installed (pip install {name}) or not known to accelerate."
            )
    return Accelerator(log_with=recipe.train.report_to or None, project_dir=recipe.output)


def settle(recipe: Recipe, base: Any, dataset: Dataset) -> Recipe:
    """The recipe with everything derived written out: learning rate, labels, commit of the base. Raises RecipeError."""
    config = base.config
    limit = config.max_position_embeddings
    if recipe.prompt.max_length > limit:
        raise RecipeError(
            f"prompt.max_length is {recipe.prompt.max_length}, but the base {recipe.base.model!r} was made for {limit} tokens."
        )
    if len(dataset.encoder.tokenizer) > base.get_input_embeddings().num_embeddings:
        raise RecipeError(
            f"The tokenizer has {len(dataset.encoder.tokenizer)} tokens, more than the base's embedding "
            f"({base.get_input_embeddings().num_embeddings})."
        )
    rate = recipe.train.learning_rate
    if rate == "auto":
        if recipe.adapter is None:
            raise RecipeError(
                "train.learning_rate: auto is a rule for LoRA; write a number where all weights are trained."
            )
        rate = float(f"{adapters.auto_learning_rate(config.hidden_size):.3g}")
    commit = getattr(config, "_commit_hash", None) or recipe.base.revision
    return replace(
        recipe,
        base=replace(recipe.base, revision=commit),
        data=replace(recipe.data, labels=dataset.labels or None),
        prompt=replace(recipe.prompt, template=dict(dataset.renderer.templates)),
        train=replace(recipe.train, learning_rate=rate),
    )


def save_trained(
    run: rundir.RunDirectory, recipe: Recipe, dataset: Dataset, training: Training, keeper: supervise.Keeper
) -> None:
    """Write the best weights as an adapter (or a whole model) with tokenizer and prompt contract, then load them again
    and compare the logits. Raises ModelError where they differ."""
    if keeper.weights:
        checkpoint.load_trained_weights(training, keeper.weights)
    if not training.accelerator.is_main_process:
        return
    model = training.accelerator.unwrap_model(training.model).eval()
    contract = make_contract(recipe, dataset)
    target = run.path / ("adapter" if recipe.adapter is not None else "model")
    with checkpoint.staged(target) as staging:
        adapters.save_trained(model, staging, recipe.base)
        dataset.encoder.tokenizer.save_pretrained(staging)
        contract.save(staging)
        adapters.check_reload(model, recipe.base, staging, contract.sample["input_ids"])


def make_contract(recipe: Recipe, dataset: Dataset) -> PromptContract:
    """The prompt contract of a run, with its shortest training example (never a shortened one) as the sample."""
    tokenizer = dataset.encoder.tokenizer
    first = min(dataset.train.tokens, key=lambda item: len(item.input_ids))
    prompt = next(p for p in dataset.prompts["train"] if p.example.id == first.id.split(".")[0])
    return PromptContract(
        task=recipe.task,
        template=dict(dataset.renderer.templates),
        template_sha256=hash_of(dict(dataset.renderer.templates)),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        special_ids=special_ids(tokenizer),
        max_length=recipe.prompt.max_length,
        labels=list(dataset.labels),
        sample={"prompt": prompt.text, "response": prompt.response, "input_ids": list(first.input_ids),
                "prompt_length": first.prompt_length},
        decoding={"max_new_tokens": recipe.eval.max_new_tokens, "num_beams": recipe.eval.num_beams, "do_sample": False},
    )  # fmt: skip


def _introduce(recipe: Recipe, dataset: Dataset, model: Any, training: Training, console: Console) -> None:
    """Say once what will be trained on what, with every derived value and where it came from."""
    train = dataset.train
    tokens = sum(len(item.input_ids) for item in train.tokens)
    console.print(
        f"task {recipe.task} · base {recipe.base.model} · {adapters.count_parameters(model)}", highlight=False
    )
    console.print(
        f"{len(train.tokens):,} training examples, {tokens:,} tokens · validation {len(dataset.prompts['validation']):,} · "
        f"test {len(dataset.prompts['test']):,} · {training.total_steps} steps of up to "
        f"{recipe.train.tokens_per_batch * recipe.train.gradient_accumulation_steps:,} tokens",
        highlight=False,
    )
    console.print(
        f"learning rate {recipe.train.learning_rate} · threads {torch.get_num_threads()} of {os.cpu_count()}",
        highlight=False,
    )
    if train.dropped or train.truncated:
        console.print(
            f"too long: {len(train.dropped)} examples dropped, {len(train.truncated)} shortened", highlight=False
        )
