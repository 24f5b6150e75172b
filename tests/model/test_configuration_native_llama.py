"""The configuration refuses what does not fit and says the same things as transformers' own."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig

from llama_tasks.model import NativeLlamaConfig


def test_fields_and_defaults_are_those_of_llama() -> None:
    def defaults(config: type) -> dict[str, Any]:
        return {f.name: f.default for f in dataclasses.fields(config)}

    assert defaults(NativeLlamaConfig) == defaults(LlamaConfig)
    assert NativeLlamaConfig.base_model_tp_plan == LlamaConfig.base_model_tp_plan
    assert NativeLlamaConfig.base_model_pp_plan == LlamaConfig.base_model_pp_plan


def test_what_is_derived() -> None:
    config = NativeLlamaConfig(hidden_size=64, num_attention_heads=4)
    assert (config.num_key_value_heads, config.head_dim) == (4, 16)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}


def test_old_spellings_of_rope() -> None:
    config = NativeLlamaConfig(rope_theta=5000.0, rope_scaling={"type": "linear", "factor": 2.0})
    assert config.rope_parameters is not None
    assert {k: config.rope_parameters[k] for k in ("rope_type", "rope_theta", "factor")} == {
        "rope_type": "linear",
        "rope_theta": 5000.0,
        "factor": 2.0,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "multiple of num_attention_heads"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1.0}}, "'spiral' is not one of default, linear"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        NativeLlamaConfig(**fields)


def test_survives_a_round_trip() -> None:
    config = NativeLlamaConfig(hidden_size=64, num_attention_heads=4, eos_token_id=[2, 3])
    assert NativeLlamaConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
