"""Models of bench/gpu.py: one set of random weights on the device, in native and transformers' LLaMA, without copies."""

from __future__ import annotations

from typing import Any

import bitsandbytes
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from workloads import RANK

from llama_tasks.adapters import LINEAR_LAYERS
from llama_tasks.adapters.quantization import compute_4bit_as_trained
from llama_tasks.model import NativeLlamaConfig, NativeLlamaForCausalLM

DTYPE = torch.bfloat16
CONTEXT = 8192
CLASSES = {"native": (NativeLlamaForCausalLM, NativeLlamaConfig), "transformers": (LlamaForCausalLM, LlamaConfig)}


def make_weights(shape: dict[str, Any], device: torch.device, quantized: bool) -> dict[str, torch.Tensor]:
    """Random weights by name, drawn on the device; those of the linear layers in 4 bits where asked."""
    generator = torch.Generator(device).manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for name, empty in on_meta("transformers", shape, "sdpa").state_dict().items():
        made = torch.ones(empty.shape, dtype=DTYPE, device=device)
        if empty.dim() > 1:
            made.normal_(std=0.02, generator=generator)
        weights[name] = in_4bit(made) if quantized and name.split(".")[-2] in LINEAR_LAYERS else made
    if shape["tie_word_embeddings"]:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def in_4bit(weight: torch.Tensor) -> torch.Tensor:
    """NF4 with double quantisation, as the recipes' `quantization: nf4` has it."""
    made = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
    return made.to(weight.device)


def build(engine: str, shape: dict[str, Any], weights: dict[str, torch.Tensor], attention: str, lora: bool) -> Any:
    """A model around the weights, frozen, with LoRA on its linear layers where asked."""
    model = on_meta(engine, shape, attention)
    device = weights["model.norm.weight"].device
    quantized = any(isinstance(weight, bitsandbytes.nn.Params4bit) for weight in weights.values())
    if quantized:
        put_4bit_layers(model, weights)
        model.is_loaded_in_4bit = True  # peft asks this before it looks at the layers
    plain = {name: w for name, w in weights.items() if not isinstance(w, bitsandbytes.nn.Params4bit)}
    model.load_state_dict(plain, strict=False, assign=True)
    model.tie_weights()
    rotary = type(model.model.rotary_emb)(config=model.config)  # its buffers are made, not loaded
    model.model.rotary_emb = rotary.to(device)
    left = [name for name, weight in (*model.named_parameters(), *model.named_buffers()) if weight.is_meta]
    if left:
        raise ValueError(f"no weights for {left[:3]}")
    model.requires_grad_(False)
    if quantized and engine == "transformers":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if not lora:
        return model
    torch.manual_seed(0)
    return get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=2 * RANK, task_type="CAUSAL_LM", target_modules=LINEAR_LAYERS)
    )


def on_meta(engine: str, shape: dict[str, Any], attention: str) -> Any:
    """The model without memory for weights."""
    model, config = CLASSES[engine]
    with torch.device("meta"):
        return model._from_config(
            config(max_position_embeddings=CONTEXT, **shape), attn_implementation=attention, dtype=DTYPE
        )


def put_4bit_layers(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """4-bit layers in place of those whose weight is in 4 bits."""
    for name, layer in list(model.named_modules()):
        weight = weights.get(f"{name}.weight")
        if isinstance(layer, nn.Linear) and isinstance(weight, bitsandbytes.nn.Params4bit):
            made = bitsandbytes.nn.Linear4bit(
                layer.in_features, layer.out_features, bias=False, compute_dtype=DTYPE, quant_type="nf4", device="meta"
            )
            made.weight = weight
            model.set_submodule(name, made)
    compute_4bit_as_trained(model)
