"""Every family of `llama` checkpoints: a config.json as its authors published it, made small, and the weights beside it.

The folder is read by transformers' LLaMA and by ours; both must give the same numbers, within and beyond the length
that the configuration names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from llama_tasks.model import load_native, products

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "initializer_range": 0.02,
    "bos_token_id": 1, "eos_token_id": 2, "use_cache": True, "vocab_size": 97, "hidden_size": 64, "intermediate_size": 88,
    "num_attention_heads": 8, "num_hidden_layers": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
}  # fmt: skip
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
LONG = [1.0, 2.0, 3.0, 4.0]
# What sets each family apart, in the spelling of its own config.json; sizes keep the ratios of its heads.
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama-1": {"dtype": "float16", "max_sequence_length": 32, "pad_token_id": 0, "rms_norm_eps": 1e-6},
    "Llama-2-7B": {"dtype": "float16", "pretraining_tp": 1, "rope_scaling": None, "num_key_value_heads": 8},
    "Llama-2-70B": {"dtype": "float16", "pretraining_tp": 2, "num_key_value_heads": 1, "rope_scaling": None},
    "Llama-3-8B": {"dtype": "bfloat16", "rope_theta": 500000.0, "num_key_value_heads": 2, "attention_bias": False},
    "Llama-3.1-8B-Instruct": {
        "dtype": "bfloat16", "rope_theta": 500000.0, "num_key_value_heads": 2, "eos_token_id": [2, 3, 4], "mlp_bias": False,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, **LLAMA3},
    },
    "Llama-3.2-1B": {
        "dtype": "bfloat16", "rope_theta": 500000.0, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, **LLAMA3},
    },
    "TinyLlama": {"dtype": "float32", "num_key_value_heads": 1, "rope_scaling": None, "pretraining_tp": 1},
    "SmolLM2-135M": {
        "dtype": "bfloat16", "hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "rope_theta": 100000,
        "is_llama_config": True, "rope_interleaved": False, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
    },
    "Yi-6B": {"dtype": "bfloat16", "num_key_value_heads": 1, "rope_theta": 5000000.0, "pad_token_id": 0},
    "Vicuna-16k": {
        "dtype": "float16", "pad_token_id": 0, "max_sequence_length": 32, "rope_scaling": {"factor": 4.0, "type": "linear"},
    },
    "DeepSeek-LLM-67B": {"dtype": "bfloat16", "num_key_value_heads": 1, "pretraining_tp": 1, "rms_norm_eps": 1e-6},
    "DeepSeek-Coder": {"dtype": "bfloat16", "rope_theta": 100000, "rope_scaling": {"factor": 4.0, "type": "linear"}},
    "Chinese-LLaMA-2": {"dtype": "float16", "vocab_size": 113, "pad_token_id": 0, "rope_scaling": None},
    "dynamic, old spelling": {"dtype": "float32", "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "yarn, old spelling": {
        "dtype": "float32", "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16},
    },
    "yarn": {
        "dtype": "bfloat16", "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 8,
            "attention_factor": 1.1, "beta_fast": 16.0, "beta_slow": 2.0,
        },
    },
    "longrope": {
        "dtype": "float32", "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": LONG, "original_max_position_embeddings": 16,
        },
    },
    "biases": {"dtype": "float32", "attention_bias": True, "mlp_bias": True, "head_dim": 16, "num_key_value_heads": 4},
}  # fmt: skip


def publish(folder: Path, name: str) -> Path:
    """A checkpoint of that family with random weights, in shards, under its authors' config.json."""
    fields = {**SMALL, **FAMILIES[name]}
    dtype = fields.pop("dtype")
    torch.manual_seed(0)
    (folder / "config.json").write_text(json.dumps(fields))
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder, initializer_range=0.2))
    model.generation_config = GenerationConfig()
    for key, parameter in model.named_parameters():
        if key.endswith("bias") or "norm" in key:
            torch.nn.init.normal_(parameter, mean=float("norm" in key), std=0.3)
    model.to(getattr(torch, dtype)).save_pretrained(folder / "saved", max_shard_size="40KB")
    shutil.copytree(folder / "saved", folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**fields, "torch_dtype": dtype}))
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gives_the_numbers_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # To the bit, by torch's own products of half precision; by wide ones: test_evaluation_by_wide_products.
    monkeypatch.setattr(products, "is_x86_without_avx512", lambda: False)
    folder = publish(tmp_path, name)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    reference, native = LlamaForCausalLM.from_pretrained(folder).eval(), load_native(folder)
    assert native.dtype == reference.dtype == getattr(torch, FAMILIES[name]["dtype"])
    for length in (12, 48, 12):  # 48 is beyond every length named above; dynamic and longrope switch there and back
        ids = torch.randint(3, 97, (2, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            assert torch.equal(native(ids).logits, reference(ids).logits)
    for model in (reference, native):  # a first token that ends would end the comparison
        model.generation_config = GenerationConfig(max_new_tokens=40, do_sample=False, eos_token_id=-1, pad_token_id=0)
    prompt = torch.randint(3, 97, (2, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 6, [0] * 2 + [1] * 4])
    tokens = [model.generate(prompt, attention_mask=mask).tolist() for model in (native, reference)]
    assert tokens[0] == tokens[1] and len(tokens[0][0]) == 46
