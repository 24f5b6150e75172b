"""Initialisations of LoRA that touch the base, and adapters that fit the untouched base all the same.

PiSSA (Meng et al., 2024) and OLoRA (Büyükakyüz, 2024) take s B0 A0 out of the weight and put it into the adapter: W = R + s B0 A0.
What is trained is R + s B A, which on the original base is W + s (B A - B0 A0): a plain LoRA of twice the rank,
A' = [A; A0], B' = [B, -B0]. That is what is saved. LoftQ (Li et al., 2023) fits A0, B0 to what a 4-bit base lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from llama_tasks.adapters.integrity import folder_of
from llama_tasks.errors import RecipeError
from llama_tasks.recipe import BaseConfig

MUTATING = ("pissa", "olora")
FROM_DATA = ("eva", "corda", "lora_ga")
INITIAL = "_initial_lora"  # of a model whose base weights were changed: name -> A0 or B0


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raise RecipeError for an initialisation that is not made here, or a setting that would not be read."""
    init = fields.get("init_lora_weights")
    if init in FROM_DATA:
        raise RecipeError(
            f"adapter.init_lora_weights: {init} is computed from a pass over the data, which is not made here; choose another, "
            "such as pissa or orthogonal."
        )
    if init == "loftq" and "loftq_config" in fields:
        raise RecipeError("adapter.loftq_config: LoftQ takes the bits of base.quantization; leave it out.")


def check(config: Any, quantized: bool, four_bits: bool, dtype: torch.dtype) -> None:
    """Raise RecipeError for an initialisation that this base cannot have."""
    init = str(getattr(config, "init_lora_weights", None)).lower()
    if init == "loftq" and not four_bits:
        raise RecipeError(
            "adapter.init_lora_weights: loftq makes good what 4 bits lose; use it with base.quantization=nf4, or choose another."
        )
    if init.startswith(MUTATING) and (quantized or dtype != torch.float32):
        raise RecipeError(
            f"adapter.init_lora_weights: {init} changes the weights of the base, and only in float32 can they be told from the "
            "adapter again; write base.dtype=float32 and leave base.quantization out."
        )


def initialise(model: Any, base: BaseConfig, init: Any) -> None:
    """After peft's own initialisation: LoftQ's decomposition, or a note of what was taken out of the base."""
    if init == "loftq":
        _fit_to_what_was_lost(model, base)
    elif str(init).lower().startswith(MUTATING):
        setattr(model, INITIAL, {name: p.detach().clone() for name, p in _lora_weights(model).items()})


@torch.no_grad()
def _fit_to_what_was_lost(model: Any, base: BaseConfig) -> None:
    """s B A = the best of its rank for W - Q(W), by a singular value decomposition (the first round of LoftQ). peft's own does it
    on a GPU alone, and for s = 1."""
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora import Linear4bit

    folder = folder_of(base)
    assert folder is not None  # the base has been loaded from there
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
            for name, layer in layers.items():
                key = f"{name.removeprefix('base_model.model.')}.weight"
                if key not in stored:
                    continue
                weight = layer.get_base_layer().weight
                kept = dequantize_4bit(weight.data, weight.quant_state).float()
                lost = (file.get_tensor(key).to(kept.device).float() - kept) / layer.scaling["default"]
                u, s, v = torch.linalg.svd(lost, full_matrices=False)
                rank = layer.r["default"]
                root = s[:rank].sqrt()
                layer.lora_A["default"].weight.copy_(root[:, None] * v[:rank])
                layer.lora_B["default"].weight.copy_(u[:, :rank] * root)


def save(model: Any, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write the adapter as one that fits the original base. Raises OSError where the disk refuses.

    Where the model is spread over processes, `weights` are what was trained, by parameter name, in one piece.
    """
    config = model.peft_config["default"]
    initial = getattr(model, INITIAL, None)
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
    if initial is None:
        return
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    for name, start in initial.items():
        key = name.replace(".default", "")
        parts = (state[key], start) if "lora_A" in name else (state[key], -start)
        state[key] = torch.cat([part.cpu() for part in parts], dim=0 if "lora_A" in name else 1)
    save_file(
        {key: value.contiguous() for key, value in state.items()},
        folder / "adapter_model.safetensors",
        {"format": "pt"},
    )
    before = {key: getattr(config, key) for key in ("init_lora_weights", "inference_mode", *_PATTERNS)}
    try:
        _double(config)
        config.save_pretrained(folder)
    finally:
        for key, value in before.items():
            setattr(config, key, value)


_PATTERNS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")


def _double(config: Any) -> None:
    """Twice the rank at the same scale: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    scale = 2**0.5 if config.use_rslora else 2
    config.init_lora_weights, config.inference_mode = True, True
    config.r, config.lora_alpha = 2 * config.r, scale * config.lora_alpha
    config.rank_pattern = {key: 2 * rank for key, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {key: scale * alpha for key, alpha in (config.alpha_pattern or {}).items()}


def _lora_weights(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if "lora_A." in name or "lora_B." in name}
