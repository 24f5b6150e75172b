"""The fine-tuning path, station by station: recipe -> data -> base -> adapter -> steps -> best adapter -> report."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from rich.console import Console

from llama_tasks import (
    adapters,
    checkpoint,
    evaluation,
    files,
    forecast,
    integrity,
    parallel,
    preflight,
    rundir,
    score,
    supervise,
    tasks,
)
from llama_tasks.clean import hook_sha256, told
from llama_tasks.contract import PromptContract, hash_of, options_of, special_ids, tokenizer_sha256
from llama_tasks.dataset import Dataset, prepare
from llama_tasks.decoding_fields import settings
from llama_tasks.distillation import load_teacher
from llama_tasks.errors import RecipeError
from llama_tasks.freezing import freeze
from llama_tasks.lock import locked
from llama_tasks.model.attention_packed import SHARES_PREFIXES
from llama_tasks.plan import Step
from llama_tasks.recipe import BaseConfig, DistillConfig, Recipe
from llama_tasks.report import plain
from llama_tasks.resume import check_contract
from llama_tasks.sources import notes, pin
from llama_tasks.stream import Stream
from llama_tasks.tokens import IGNORE
from llama_tasks.train import Training

SHOWN, SHOWN_CHARACTERS = 2, 400  # of the first batch
END_SAMPLE = 32  # examples on which a base shows whether it knows how to end
# Share of the vocabulary above EOS at the end of a text: 0.00 to 0.02 on the embedded base, 0.73 to 0.94 on bases of
# llama2.c, which never met EOS.
NEVER_LEARNED = 0.5


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
    base = partial(adapters.load_base, recipe.base, accelerator.device, spread=accelerator.is_fsdp2)
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
    _introduce(recipe, dataset, model, training, console, learns_to_stop=recipe.adapter != asked.adapter)
    contract = make_contract(recipe, dataset)
    with locked(run.path) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            rundir.claim(run.path, resume, overwrite, mine=True)  # another run may have ended in it since
            preflight.check_space(run.path, training)
        if recipe.train.preflight:
            guess = partial(forecast.largest_now, recipe, dataset, accelerator)
            preflight.preflight(run.path, recipe, dataset, training, guess)
        keeper = supervise.begin(run, recipe, dataset, training, contract, resume, overwrite, say, weights)
        look = partial(_show_first_batch, dataset, console) if dataset.stream else None  # rows at hand are shown by now
        supervise.train(run, recipe, dataset, training, keeper, console, began, look)
        if dataset.stream:
            _tell_of_stream(dataset.stream, console)
        expected = save_trained(run, recipe, dataset, training, keeper, contract)
        accelerator.wait_for_everyone()
        onto = model.unload() if on_loaded_base else None
        # The trained model leaves the memory before its copy from the disk comes.
        del base, model, training, keeper, teacher
        reloaded = adapters.load_trained(recipe.base, run.adapter, accelerator.device, onto)
        adapters.check_reload(expected, reloaded, contract.sample["input_ids"])
        report = evaluation.evaluate(run, recipe, dataset, reloaded, say, evaluation.all_ranks())
        if on_loaded_base:
            reloaded.unload()
        accelerator.end_training()
        return report


def pin_all(recipe: Recipe, resumed: rundir.RunDirectory | None) -> Recipe:
    """The recipe with Hub revisions as commits and the precision for training; a resumed run keeps what it began with.

    All weights are trained in float32 unless the recipe says otherwise: small updates vanish in bfloat16.
    """
    base, data, adapter = recipe.base, recipe.data, recipe.adapter
    if resumed is not None:
        before = resumed.recipe()
        learned = {key: value for key, value in (before.adapter or {}).items() if key == "trainable_token_indices"}
        adapter = {**learned, **adapter} if adapter is not None else None
        base = replace(base, revision=base.revision or before.base.revision)
        data = replace(data, revision=data.revision or before.data.revision)
    if recipe.adapter is None and base.dtype == "auto":
        base = replace(base, dtype="float32")
    distill = _pin_teacher(recipe.distill, resumed.recipe().distill if resumed is not None else None)
    return replace(recipe, base=adapters.pin(base), data=pin(data), adapter=adapter, distill=distill)


def _pin_teacher(distill: DistillConfig | None, before: DistillConfig | None) -> DistillConfig | None:
    if distill is None:
        return None
    revision = distill.revision or (before.revision if before is not None else None)
    return replace(distill, revision=adapters.pin(BaseConfig(distill.teacher, revision)).revision)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """accelerate with the recipe's trackers. Raises RecipeError for one that is unknown or not installed."""
    available = [tracker.value for tracker in get_available_trackers()]
    for name in recipe.train.report_to:
        if name not in available:
            raise RecipeError(
                f"train.report_to: {name!r} is not installed (pip install {name}) or not known to accelerate."
            )
    # Precision belongs to base.dtype and accumulation to train.*; what a launcher's settings say of them is not used.
    accelerator = Accelerator(mixed_precision="no", log_with=recipe.train.report_to or None, project_dir=recipe.output)
    accelerator.gradient_accumulation_steps = 1
    parallel.check_launch(accelerator)
    return accelerator


def settle(recipe: Recipe, base: Any, dataset: Dataset, resume: bool = False) -> Recipe:
    """The recipe with everything derived written out: learning rate, labels, commit of the base, whether the adapter learns
    EOS (a resumed run has that from its own recipe). Raises RecipeError."""
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
    share = recipe.train.share_prefixes
    if recipe.train.neftune_noise_alpha or recipe.train.fgm_epsilon:
        if share is True:
            raise RecipeError(
                "train.share_prefixes computes a common beginning once, and train.neftune_noise_alpha and train.fgm_epsilon "
                "give every example its own; leave one out."
            )
        share = False
    if share == "auto" and config._attn_implementation not in SHARES_PREFIXES:
        share = False
    if share is True and config._attn_implementation not in SHARES_PREFIXES:
        raise RecipeError(
            f"train.share_prefixes needs base.attn_implementation {' or '.join(SHARES_PREFIXES)}, not "
            f"{config._attn_implementation}."
        )
    rate = recipe.train.learning_rate
    if rate == "auto":
        if recipe.adapter is None:
            raise RecipeError(
                "train.learning_rate: auto is a rule for LoRA; write a number where all weights are trained."
            )
        if "adam" not in recipe.train.optim.lower():
            raise RecipeError(
                f"train.learning_rate: auto is a rule for Adam and its kin; write a number for {recipe.train.optim}."
            )
        rate = float(f"{adapters.auto_learning_rate(config.hidden_size):.3g}")
    return replace(
        recipe,
        data=replace(recipe.data, labels=dataset.labels or None),
        prompt=replace(recipe.prompt, template=dict(dataset.renderer.templates)),
        adapter=recipe.adapter if resume else learn_to_stop(recipe, base, dataset),
        train=replace(recipe.train, learning_rate=rate, share_prefixes=share),
    )


def learn_to_stop(recipe: Recipe, base: Any, dataset: Dataset) -> dict[str, Any] | None:
    """The recipe's adapter; on a base that never met EOS it also trains the row that scores EOS.

    LoRA turns the hidden state, but the row of the head that scores EOS is frozen. In a base whose pre-training had no
    EOS (llama2.c's, many a chat token of a base model) that row is as low as all unused ones, and however long LoRA is
    trained no output ends. The row stands in the embedding where the head is tied to it. A recipe that names
    `trainable_token_indices` itself (null: none), or trains embedding or head, is left alone.
    """
    adapter, eos = recipe.adapter, dataset.encoder.eos
    ended = [item for item in dataset.train.tokens if item.input_ids[-1:] == eos and len(item.input_ids) > 1]
    if adapter is None or "trainable_token_indices" in adapter or not ended:
        return adapter
    if not hasattr(adapters.adapter_config(adapter), "trainable_token_indices") or adapters.reaches_vocabulary(adapter):
        return adapter
    if score.rank_of_end(base, ended[:: -(-len(ended) // END_SAMPLE)]) < NEVER_LEARNED:
        return adapter
    tied = base.config.tie_word_embeddings
    return {**adapter, "trainable_token_indices": list(eos) if tied else {"lm_head": list(eos)}}


def save_trained(
    run: rundir.RunDirectory,
    recipe: Recipe,
    dataset: Dataset,
    training: Training,
    keeper: supervise.Keeper,
    contract: PromptContract,
) -> torch.Tensor:
    """Write the best weights as an adapter (or a whole model) with tokenizer and prompt contract; returns the trained
    model's logits on the contract's sample."""
    if keeper.weights:
        checkpoint.load_trained_weights(training, keeper.weights)
    else:
        training.optimizer.eval()
    model = training.accelerator.unwrap_model(training.model)
    spread = training.accelerator.is_fsdp2
    weights = parallel.whole_weights(model, trained=recipe.adapter is not None) if spread else None
    if training.accelerator.is_main_process:
        with files.staged(run.path / ("adapter" if recipe.adapter is not None else "model")) as staging:
            adapters.save_trained(model, staging, recipe.base, weights)
            dataset.encoder.tokenizer.save_pretrained(staging)
            contract.save(staging)
        rundir.write_json(run.path / integrity.TRAINED, integrity.check(run.adapter, {}, "save it again"))
    return adapters.sample_logits(model, contract.sample["input_ids"])


def make_contract(recipe: Recipe, dataset: Dataset) -> PromptContract:
    """The prompt contract of a run, with its shortest training example (never a shortened one) as the sample."""
    tokenizer = dataset.encoder.tokenizer
    first = min(dataset.train.tokens, key=lambda item: len(item.input_ids))
    whole = (first.id, first.id.rpartition(".")[0])  # of plain text, the tokens are a numbered block of it
    prompt = next(p for p in dataset.prompts["train"] if p.example.id in whole)
    return PromptContract(
        task=dataset.task.name,
        task_sha256=tasks.source_sha256(recipe.task),
        template=dict(dataset.renderer.templates),
        template_sha256=hash_of(dict(dataset.renderer.templates)),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        hook_sha256=hook_sha256(recipe.clean.hook),
        special_ids=special_ids(tokenizer),
        max_length=recipe.prompt.max_length,
        labels=list(dataset.labels),
        options=options_of(recipe),
        sample={"prompt": prompt.segments[0], "response": prompt.segments[1], "input_ids": list(first.input_ids),
                "prompt_length": first.prompt_length, "variant": prompt.example.variant,
                **{key: value for key, value in prompt.example.fields.items() if key == "labels"},
                **dataset.encoder.pieces(prompt)},
        decoding={"num_beams": 1, "do_sample": False, **settings(recipe.eval)},
    )  # fmt: skip


def _introduce(
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
        console.print(f"processes {training.accelerator.num_processes}, {_layout(model)}", highlight=False)
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
        _show_first_batch(dataset, console, next(iter(training.plan.read(0, {}))))


def _show_first_batch(dataset: Dataset, console: Console, step: Step) -> None:
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


def _layout(model: Any) -> str:
    if parallel.is_spread(model):
        return "the model's weights in pieces on all of them (FSDP2)"
    return "the whole model on each (DDP)"


def _tell_too_long(dropped: int, answer_cut: int, truncated: int, console: Console) -> None:
    if dropped or truncated:
        why = f" ({answer_cut:,} of them because shortening would cut out the answer)" if answer_cut else ""
        console.print(f"too long: {dropped:,} examples dropped{why}, {truncated:,} shortened", highlight=False)


def _tell_of_stream(stream: Stream, console: Console) -> None:
    """What happened to its rows, known only now; a row counts in every pass."""
    _tell_too_long(stream.dropped, stream.answer_cut, stream.truncated, console)
    for line in notes({"train": {"set_aside": stream.bad.describe()}}) if stream.bad.count else ():
        console.print(plain(line), highlight=False, markup=False)
    if stream.cleaning.before:
        console.print(f"cleaned train: {told(stream.cleaning.describe())}", highlight=False, markup=False)
