"""Which changes of a recipe a resumed run bears, and the sentence for those that it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_tasks.errors import RunError
from llama_tasks.recipe import Recipe, leaves

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
    changed = list(_changes(before, now))
    if changed:
        raise RunError(
            f"{run} was made with another recipe: {'; '.join(changed)}. Resume with the values it began with, or begin again "
            "with --overwrite."
        )


def _changes(before: Recipe, now: Recipe) -> Iterator[str]:
    old, new = _flat(before), _flat(now)
    for key in sorted({*old, *new}):
        if key not in MAY_CHANGE and old.get(key) != new.get(key):
            yield f"{key} was {old.get(key)!r} and is now {new.get(key)!r}"


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value; and the metric that chooses the best weights, which is the suite's first where none is named."""
    train = recipe.train
    lead = train.metric_for_best_model or next(iter(recipe.eval.metrics), None)
    flat = dict(leaves(dataclasses.asdict(recipe)))
    return {**flat, "train.metric_for_best_model": lead}
