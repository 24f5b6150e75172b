"""That an adapter does what its configuration says: peft passes over names that fit nothing, and some fields do nothing, or not
what they say, under this loop. Those are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from llama_tasks.errors import RecipeError, did_you_mean

WRITTEN = "is written when an adapter is saved"
OF_DATA = "belongs to an initialisation that is computed from a pass over the data, which is not made here"
#: Fields whose effect cannot be had here, and why.
UNFIT_FIELDS = {
    "alora_invocation_tokens": "needs the place of these tokens in every example, which packed batches do not tell",
    "auto_mapping": WRITTEN,
    "base_model_name_or_path": WRITTEN,
    "corda_config": OF_DATA,
    "eva_config": OF_DATA,
    "inference_mode": "is set when an adapter is loaded, not when it is trained",
    "kasa_config": "takes a part of the base away for good, which could then not be scored beside the adapter",
    "layer_replication": "changes the base itself, which could then not be scored beside the adapter",
    "lora_ga_config": OF_DATA,
    "megatron_config": "is for a model of Megatron's layers",
    "monteclora_config": "needs a term of its own in the loss, which is not added here",
    "peft_version": WRITTEN,
    "revision": WRITTEN,
    "task_type": "is CAUSAL_LM for every recipe",
    "use_qalora": "is for bases quantised by GPTQ, which are not loaded here",
}
PATTERNS = ("rank_pattern", "alpha_pattern", "block_size_pattern")


def check_fields(kind: str, fields: Mapping[str, Any]) -> None:
    """Raise RecipeError for a field that would do nothing, or something else than it says."""
    for name in UNFIT_FIELDS.keys() & fields.keys():
        raise RecipeError(f"adapter.{name} {UNFIT_FIELDS[name]}; leave it out.")
    if fields.get("bias", "none") not in ("none", False):
        raise RecipeError(
            "adapter.bias would train the biases of the base itself, of which most LLaMAs have none, and without which the base "
            "could not be scored beside the adapter; leave it out."
        )
    if kind == "ADALORA" and "r" in fields:
        raise RecipeError("adapter.r is not read by ADALORA, which has init_r and target_r.")


def check_names(model: Any, fields: Mapping[str, Any]) -> None:
    """Raise RecipeError where a name or layer number of the configuration fits nothing in the adapted model, or no number
    is trained."""
    targeted = model.base_model.targeted_module_names
    every = [name for name, _ in model.base_model.model.named_modules()]
    parts = sorted({name.rpartition(".")[2] for name in every if "_" in name.rpartition(".")[2]} | {"norm"})
    for key, names in (("target_modules", targeted), ("modules_to_save", every)):
        given = fields.get(key)
        for name in [] if isinstance(given, str) else given or []:
            if not any(f".{found}".endswith(f".{name}") for found in names):
                raise RecipeError(f"adapter.{key}: {name!r} fits no layer.{did_you_mean(str(name), parts)}")
    for key in PATTERNS:
        for pattern in fields.get(key) or {}:
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in targeted):  # peft's own rule
                raise RecipeError(f"adapter.{key}: {pattern!r} fits no layer that the adapter changes.")
    numbers, count = fields.get("layers_to_transform"), model.config.num_hidden_layers
    for number in numbers if isinstance(numbers, list) else [] if numbers is None else [numbers]:
        if not 0 <= number < count:
            raise RecipeError(
                f"adapter.layers_to_transform: there is no layer {number}; the base has 0 to {count - 1}."
            )
    if not any(parameter.requires_grad and parameter.numel() for parameter in model.parameters()):
        raise RecipeError("The adapter has no number to train; name its layers or tokens.")


@torch.no_grad()
def check_product(model: Any) -> None:
    """One token through an adapter on a quantised base. Raises RecipeError where the two cannot be multiplied; not all of peft's
    methods read packed weights, nor bitsandbytes a head that is tied."""
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise RecipeError(
            "This adapter cannot compute on this quantised base; choose LORA, other settings of base.quantization_config, or "
            f"base.quantization=none ({str(error).splitlines()[0]})."
        ) from None
