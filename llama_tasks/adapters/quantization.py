"""The base in 8 or 4 bits, by bitsandbytes' own settings."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from llama_tasks.errors import RecipeError, did_you_mean
from llama_tasks.recipe import BaseConfig

OF_4_BITS = ("bnb_4bit_",)
OF_8_BITS = ("llm_int8_threshold", "llm_int8_has_fp16_weight")


def quantizer(base: BaseConfig, compute_dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """bitsandbytes' settings for `base.quantization` or `base.quantization_config`; None where the base is not quantised.

    `int8` is LLM.int8() (Dettmers et al., 2022): weights and inputs in 8 bits, columns of large inputs in float16. `nf4` and `fp4`
    are 4 bits with double quantisation (Dettmers et al., 2023, QLoRA).

    Raises:
        RecipeError: both keys, a field that BitsAndBytesConfig does not have or refuses, or neither 8 nor 4 bits.
    """
    fields = _fields(base)
    if fields is None:
        return None
    if fields.get("load_in_4bit"):
        fields = {"bnb_4bit_compute_dtype": compute_dtype, **fields}
    try:
        config = BitsAndBytesConfig(**fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise RecipeError(f"base.quantization_config: bitsandbytes refuses it: {error}") from None
    if config.load_in_8bit:
        # It says at every call that inputs are rounded to float16 first.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return config


def four_bits(kind: str, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """4 bits (`nf4`, `fp4`) with double quantisation."""
    return BitsAndBytesConfig(**_BY_NAME[kind], bnb_4bit_compute_dtype=compute_dtype)


_BY_NAME: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}


def _fields(base: BaseConfig) -> dict[str, Any] | None:
    """Settings of BitsAndBytesConfig, checked by name."""
    if base.quantization_config is None:
        return _BY_NAME.get(base.quantization)
    if base.quantization != "none":
        raise RecipeError(
            "base.quantization is a short word for base.quantization_config; leave one of the two out (base.quantization=none)."
        )
    known = set(inspect.signature(BitsAndBytesConfig).parameters) - {"kwargs"}
    for name in base.quantization_config:
        if name not in known:
            raise RecipeError(f"unknown key 'base.quantization_config.{name}'.{did_you_mean(name, sorted(known))}")
    if not (base.quantization_config.get("load_in_4bit") or base.quantization_config.get("load_in_8bit")):
        raise RecipeError("base.quantization_config needs load_in_4bit: true or load_in_8bit: true.")
    bits, unread = (4, OF_8_BITS) if base.quantization_config.get("load_in_4bit") else (8, OF_4_BITS)
    for name in base.quantization_config:
        if name.startswith(unread):
            raise RecipeError(f"base.quantization_config.{name} has no effect in {bits} bits; leave it out.")
    kind = base.quantization_config.get("bnb_4bit_quant_type", "nf4")
    if kind not in ("nf4", "fp4"):
        raise RecipeError(
            f"base.quantization_config.bnb_4bit_quant_type is {kind!r}.{did_you_mean(str(kind), ['nf4', 'fp4'])}"
        )
    # A list of modules that stay replaces transformers' own, which is the head: tied to the embedding, it cannot be packed.
    kept = base.quantization_config.get("llm_int8_skip_modules")
    return {**base.quantization_config, **({"llm_int8_skip_modules": [*kept, "lm_head"]} if kept else {})}


def compute_4bit_as_trained(model: Any) -> None:
    """Keep bitsandbytes from another arithmetic in evaluation than in training.

    On a CPU with AVX512-BF16, a 4-bit layer that is called once in evaluation mode rounds its scales to bfloat16 for good
    and multiplies in bfloat16 from then on, in training too and without a gradient to the layers below; widths that are
    no multiple of 64 fail. Without that path the layer multiplies by its dequantised weight, as it does in training.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
