"""Layers that full fine-tuning leaves as they are (`train.freeze`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from llama_tasks.errors import RecipeError, did_you_mean


def freeze(model: Any, patterns: Sequence[str]) -> None:
    """Leave the parameters that `train.freeze` names as they are: by a run of their dotted name (`embed_tokens`, `layers.3`), or by
    a regular expression for all of it.

    Raises:
        RecipeError: the recipe trains an adapter, a pattern matches nothing or is no expression, or nothing is left to train.
    """
    if not patterns:
        return
    if hasattr(model, "peft_config"):
        raise RecipeError(
            "train.freeze is for `adapter: null`; an adapter names its layers (adapter.layers_to_transform)."
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied head by its own name too
    for pattern in patterns:
        try:
            named = [name for name in parameters if f".{pattern}." in f".{name}." or re.fullmatch(pattern, name)]
        except re.error as error:
            raise RecipeError(f"train.freeze: {pattern!r} is no regular expression ({error}).") from None
        if not named:
            raise RecipeError(
                f"train.freeze: {pattern!r} matches no parameter.{did_you_mean(pattern, _parts(parameters))}"
            )
        for name in named:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise RecipeError("train.freeze leaves nothing to train.")


def _parts(names: Iterable[str]) -> list[str]:
    """What a parameter may be named by: `layers.0`, `self_attn.q_proj`, `embed_tokens`."""
    found = (re.findall(r"layers\.\d+|self_attn\.\w+|mlp\.\w+|\w+(?=\.weight)", name) for name in names)
    return sorted({part for parts in found for part in parts})
