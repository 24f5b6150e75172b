"""Pairs of models with equal weights: transformers' LLaMA and ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama_tasks.model import NativeLlamaConfig, NativeLlamaForCausalLM

Pair = tuple[LlamaForCausalLM, NativeLlamaForCausalLM]

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Fields of a configuration small enough for any test."""
    return dict(TINY)


@pytest.fixture
def make_pair() -> Callable[..., Pair]:
    """`make_pair(seed=0, attn="sdpa", **fields)`: reference and native model, same random weights, evaluation mode."""

    def make(seed: int = 0, attn: str = "sdpa", **fields: Any) -> Pair:
        torch.manual_seed(seed)
        fields = {**TINY, "initializer_range": 0.2, **fields}
        reference = LlamaForCausalLM._from_config(LlamaConfig(**fields), attn_implementation=attn).eval()
        native = NativeLlamaForCausalLM._from_config(NativeLlamaConfig(**fields), attn_implementation=attn).eval()
        for name, parameter in reference.named_parameters():
            if name.endswith("bias") or "norm" in name:  # else all zeros, all ones: a swapped one would pass
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
        native.load_state_dict(reference.state_dict())
        return reference, native

    return make


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    """A tiny reference and native model with the same weights."""
    return make_pair()
