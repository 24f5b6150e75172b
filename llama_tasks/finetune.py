"""The fine-tuning path, station by station: recipe -> data -> base -> adapter -> steps -> best adapter -> report."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, set_seed
from rich.console import Console

from llama_tasks import adapters, checkpoint, evaluation, files, parallel, rundir
from llama_tasks.adapters import integrity
from llama_tasks.adapters.freezing import freeze
from llama_tasks.contract import PromptContract
from llama_tasks.dataset import Dataset, prepare
from llama_tasks.errors import RecipeError, did_you_mean
from llama_tasks.estimate import forecast
from llama_tasks.recipe import Recipe
from llama_tasks.rundir.lock import locked
from llama_tasks.supervise import preflight, watch
from llama_tasks.supervise.allocator import give_back
from llama_tasks.supervise.introduction import introduce, show_first_batch, tell_of_stream
from llama_tasks.supervise.resume import check_contract
from llama_tasks.supervise.settling import make_contract, pin_all, settle
from llama_tasks.train import Training
from llama_tasks.train.distillation import load_teacher


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
    run = rundir.RunDirectory(Path(recipe.output or f"runs/{Path(recipe.task).stem}"))
    if accelerator.is_main_process:
        rundir.claim(run.path, resume, overwrite)
    evaluation.check_suite(recipe)
    set_seed(recipe.train.seed)
    recipe = pin_all(recipe, run if resume else None)
    tokenizer = adapters.load_tokenizer(recipe.base)
    if resume:
        check_contract(run, recipe, tokenizer)
    dataset = prepare(recipe, tokenizer)
    evaluation.rehearse(dataset, recipe.eval)
    if recipe.train.preflight:
        forecast.refuse_hopeless(recipe, dataset, accelerator)
    same = resume and run.recipe().base.model == recipe.base.model  # another base is refused later, by its name
    known = run.environment().get("base") if same else None
    weights = integrity.check_base(recipe.base, known) if accelerator.is_main_process else {}
    base = partial(adapters.load_base, recipe.base, accelerator.device, spread=parallel.will_spread(accelerator))
    return fit(run, recipe, dataset, base(), accelerator, console, began, resume, overwrite, weights)


def fit(
    run: rundir.RunDirectory,
    recipe: Recipe,
    dataset: Dataset,
    base: Any,
    accelerator: Accelerator,
    console: Console,
    began: float,
    resume: bool,
    overwrite: bool,
    weights: dict[str, str],
    on_loaded_base: bool = False,
) -> dict[str, Any]:
    """From a loaded base to the report. `on_loaded_base`: the adapter is read back onto this base, not onto one loaded anew, and
    taken off it again at the end.

    Raises:
        LlamaTasksError, Interrupted: as `finetune`.
    """
    say = partial(console.print, highlight=False, markup=False)
    recipe, asked = settle(recipe, base, dataset, resume), recipe
    model = adapters.attach(base, recipe.adapter, recipe.base)
    freeze(model, recipe.train.freeze)
    data = dataset.stream or dataset.train.tokens
    teacher = load_teacher(recipe, dataset.encoder.tokenizer, accelerator.device)
    processes = run.environment().get("processes") if resume else None
    training = Training(model, data, recipe.train, accelerator, float(recipe.train.learning_rate), teacher, processes)
    if accelerator.process_index:  # all made the same weights; from here each draws its own dropout
        torch.manual_seed(recipe.train.seed + accelerator.process_index)
    introduce(recipe, dataset, model, training, console, learns_to_stop=recipe.adapter != asked.adapter)
    contract = make_contract(recipe, dataset)
    with locked(run.path) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            rundir.claim(run.path, resume, overwrite, mine=True)  # another run may have ended in it since
            preflight.check_space(run.path, training)
        with watch.speaking(run, training):
            if recipe.train.preflight:
                guess = partial(forecast.largest_now, recipe, dataset, accelerator)
                preflight.preflight(run.path, recipe, dataset, training, guess)
            keeper = watch.begin(run, recipe, dataset, training, contract, resume, overwrite, say, weights)
            look = (
                partial(show_first_batch, dataset, console) if dataset.stream else None
            )  # rows at hand are shown by now
            watch.train(run, recipe, dataset, training, keeper, console, began, look)
            if dataset.stream:
                tell_of_stream(dataset.stream, console)
            expected = save_trained(run, recipe, dataset, training, keeper, contract)
            accelerator.wait_for_everyone()
        onto = model.unload() if on_loaded_base else None
        # The trained model leaves the memory before its copy from the disk comes; accelerate too keeps what it has prepared.
        del base, model, training, keeper, teacher
        accelerator.free_memory()
        give_back()
        reloaded = adapters.load_trained(recipe.base, run.adapter, accelerator.device, onto)
        adapters.check_reload(expected, reloaded, contract.sample["input_ids"])
        report = evaluation.evaluate(run, recipe, dataset, reloaded, say, evaluation.all_ranks())
        if on_loaded_base:
            reloaded.unload()
        accelerator.end_training()
        return report


def make_accelerator(recipe: Recipe) -> Accelerator:
    """accelerate with the recipe's trackers. Raises RecipeError for one that is unknown or not installed."""
    available = [tracker.value for tracker in get_available_trackers()]
    known = [tracker.value for tracker in LoggerType if tracker is not LoggerType.ALL]
    for name in recipe.train.report_to:
        if name not in known:  # a misspelt name is nothing to install
            raise RecipeError(f"train.report_to: accelerate knows no tracker {name!r}.{did_you_mean(name, known)}")
        if name not in available:
            raise RecipeError(
                f"train.report_to: {name} is not installed; install it (`pip install {name}`), or leave it out."
            )
    # Precision belongs to base.dtype and accumulation to train.*; what a launcher's settings say of them is not used.
    accelerator = parallel.make_accelerator(
        recipe, mixed_precision="no", log_with=recipe.train.report_to or None, project_dir=recipe.output
    )
    accelerator.gradient_accumulation_steps = 1
    return accelerator


def save_trained(
    run: rundir.RunDirectory,
    recipe: Recipe,
    dataset: Dataset,
    training: Training,
    keeper: watch.Keeper,
    contract: PromptContract,
) -> torch.Tensor:
    """Write the best weights as an adapter (or a whole model) with tokenizer and prompt contract; returns the trained
    model's logits on the contract's sample."""
    if keeper.weights:
        checkpoint.load_trained_weights(training, keeper.weights)
    else:
        training.optimizer.eval()
    model = training.accelerator.unwrap_model(training.model)
    spread = parallel.is_spread(model)
    weights = parallel.whole_weights(model, trained=recipe.adapter is not None) if spread else None
    if training.accelerator.is_main_process:
        with files.staged(run.path / ("adapter" if recipe.adapter is not None else "model")) as staging:
            adapters.save_trained(model, staging, recipe.base, weights)
            dataset.encoder.tokenizer.save_pretrained(staging)
            contract.save(staging)
        rundir.write_json(run.path / integrity.TRAINED, integrity.check(run.adapter, {}, "save it again"))
    return adapters.sample_logits(model, contract.sample["input_ids"])
