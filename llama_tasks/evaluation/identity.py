"""What makes an evaluation this one: all that decides its rows, as one hash. Rows with another hash are made anew, never mixed.

    model      weights' hashes, the configurations that the model and its adapter are loaded with, precision, ends of an output
    prompts    texts, tokenizer, chat template, what each row says of itself (answers, choices, metadata), the recipe's `prompt`
    answers    decoding, the engine, the task (labels, the source of a file of the user's own), the version of llama-tasks

Batch size is left out: a job that ran out of memory may go on with a smaller one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llama_tasks import __version__, tasks
from llama_tasks.contract import tokenizer_sha256
from llama_tasks.prompts import Prompt
from llama_tasks.recipe import Recipe
from llama_tasks.recipe.decoding_fields import settings

if TYPE_CHECKING:
    from llama_tasks.dataset import Dataset
    from llama_tasks.tokens import Encoder


def fingerprint(
    recipe: Recipe, dataset: Dataset, prompts: Sequence[Prompt], model: Any, weights: Mapping[str, Any]
) -> str:
    """SHA-256 of all that decides what the rows are. The prompts are read one by one.

    weights: hashes of the weight files, as `adapters.integrity` gives them.
    """
    made_by = {
        "llama_tasks": __version__, "weights": weights, "base": asdict(recipe.base), "model": _model(model),
        "tokenizer": _tokenizer(dataset.encoder), "prompt": asdict(recipe.prompt), "decoding": _decoding(recipe, dataset, model),
        "task": [tasks.source_sha256(recipe.task) or recipe.task, list(dataset.task.labels)],
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True, default=_plain).encode())
    for prompt in prompts:
        digest.update(json.dumps([prompt.segments[:-1], vars(prompt.example)], default=vars).encode())
    return digest.hexdigest()


def _model(model: Any) -> dict[str, Any]:
    """Of a loaded model what its weights do not say: both configurations (a scale of an adapter, a constant of a norm)."""
    adapters = {name: config.to_dict() for name, config in getattr(model, "peft_config", {}).items()}
    return {"config": model.config.to_dict(), "adapters": adapters, "dtype": str(model.dtype)}


def _tokenizer(encoder: Encoder) -> dict[str, Any]:
    chat = encoder.chat.source if encoder.chat else None
    return {"sha256": tokenizer_sha256(encoder.tokenizer), "bos": encoder.bos, "eos": encoder.eos, "chat": chat}


def _decoding(recipe: Recipe, dataset: Dataset, model: Any) -> dict[str, Any]:
    if recipe.eval.scoring != "generate":
        return settings(recipe.eval)
    from llama_tasks.generate import engine_of, stop_ids

    ends = stop_ids(model, dataset.encoder)
    return {**settings(recipe.eval), "engine": engine_of(model, recipe.eval), "ends": ends}


def _plain(value: object) -> Any:
    """What JSON does not know: sets (whose order is another one in every process), precisions, kinds."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
