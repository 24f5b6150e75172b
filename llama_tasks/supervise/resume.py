"""What a resumed run is checked for: the prompt contract, and the recipe; which changes it bears, and what is said of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_tasks import checkpoint, tasks
from llama_tasks.clean import hook_sha256
from llama_tasks.contract import PromptContract
from llama_tasks.dataset import make_renderer
from llama_tasks.errors import RunError
from llama_tasks.recipe import Recipe, leaves
from llama_tasks.rundir import RunDirectory
from llama_tasks.tokens import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Keys that change no weight: what is written when, what is computed in which pieces, what is scored after the training.
#: A key that is not here is compared; so is one that has yet to be invented.
MAY_CHANGE = frozenset(
    {
        "output", "train.save_steps", "train.logging_steps", "train.report_to", "train.preflight", "train.on_nonfinite",
        "train.gradient_checkpointing", "data.num_workers", "data.cache", "data.max_test_samples",
        "eval.metrics", "eval.tokens_per_batch", "eval.n_resamples", "eval.seed",
    }
)  # fmt: skip


def refuse_changes(run: Path, before: Recipe, now: Recipe) -> None:
    """Raise RunError, naming keys and both values, where `now` would train otherwise than the recipe the run began with."""
    changed = list(_changes(_at_the_same_paths(before, now), now))
    if changed:
        raise RunError(
            f"{run} was made with another recipe: {'; '.join(changed)}. Resume with the values it began with, or begin again "
            "with --overwrite."
        )


def check_contract(run: RunDirectory, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError, naming every difference, where a run would go on with other prompts than it began with.

    No row is read for it: what the rows decide (labels, solved examples) is taken as it was, and compared when they are there.
    """
    if checkpoint.newest(run.checkpoints) is None:
        return
    contract = PromptContract.load(run.checkpoints)
    renderer = make_renderer(recipe, tasks.create(recipe.task, config=recipe.prompt), Encoder(tokenizer, recipe.prompt))
    if recipe.prompt.num_fewshot and not renderer.has_fewshot:
        renderer.templates |= {key: text for key, text in contract.template.items() if key.startswith("fewshot.")}
    asked = replace(
        recipe,
        data=replace(recipe.data, labels=recipe.data.labels or contract.labels),
        prompt=replace(recipe.prompt, template=dict(renderer.templates)),
    )
    contract.check(tokenizer, run.checkpoints, asked)


def _at_the_same_paths(before: Recipe, now: Recipe) -> Recipe:
    """The run's recipe with the user's own files where `now` has them: the run keeps copies, so paths differ."""
    if tasks.source_sha256(before.task) == tasks.source_sha256(now.task) is not None:
        before = replace(before, task=now.task)
    if None not in (before.clean.hook, now.clean.hook) and _hook(before) == _hook(now):
        before = replace(before, clean=replace(before.clean, hook=now.clean.hook))
    return before


def _hook(recipe: Recipe) -> tuple[str | None, str]:
    """What a hook is, wherever its file lies: the file's hash, and the function."""
    return hook_sha256(recipe.clean.hook), (recipe.clean.hook or "").rpartition(":")[2]


def _changes(before: Recipe, now: Recipe) -> Iterator[str]:
    old, new = _flat(before), _flat(now)
    for key in sorted({*old, *new}):
        if key not in MAY_CHANGE and old.get(key) != new.get(key):
            if key == "clean.hook" and old[key] and new[key]:
                yield f"clean.hook, {new[key]}, is not the one that the run has in {old[key]}"
                continue
            yield f"{key} was {old.get(key)!r} and is now {new.get(key)!r}"


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value; and the metric that chooses the best weights, which is the suite's first where none is named."""
    train = recipe.train
    lead = train.metric_for_best_model or next(iter(recipe.eval.metrics), None)
    flat = dict(leaves(dataclasses.asdict(recipe)))
    return {**flat, "train.metric_for_best_model": lead}
