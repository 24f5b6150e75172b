"""Whatever transformers' generation offers gives the tokens that its own LLaMA gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, StaticCache

IDS = torch.tensor([[0, 0, 0, 11, 12, 13, 14, 15, 11], [1, 21, 22, 23, 24, 21, 22, 23, 24]])
MASK = (IDS != 0).long()

MODES: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "top_k": 10, "temperature": 0.8},
    "nucleus": {"do_sample": True, "top_p": 0.7},
    "beam": {"num_beams": 3},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "static cache": {"cache_implementation": "static"},
    "sliding cache": {"cache_implementation": "sliding_window"},
    "no cache": {"use_cache": False},
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words_ids": [[5]], "min_new_tokens": 3},
    "guidance": {"guidance_scale": 1.5},
}


def generate(model: Any, rows: slice = slice(None), **options: Any) -> list[list[int]]:
    torch.manual_seed(1)
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0, **options}
    return model.generate(IDS[rows], attention_mask=MASK[rows], **options).tolist()


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", MODES)
def test_modes(make_pair: Any, mode: str, attn: str) -> None:
    reference, native = make_pair(attn=attn)
    assert generate(native, **MODES[mode]) == generate(reference, **MODES[mode])


@pytest.mark.parametrize("helper", ["prompt lookup", "assistant", "early exit"])
def test_speculation_gives_the_greedy_tokens(pair: Any, make_pair: Any, helper: str) -> None:
    _, native = pair
    options: dict[str, Any] = {
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
        "assistant": {"assistant_model": make_pair(seed=7)[1]},
        "early exit": {"assistant_early_exit": 1},
    }[helper]
    assert generate(native, slice(1, 2), **options) == generate(native, slice(1, 2))


@pytest.mark.filterwarnings("ignore")  # its manager speaks of settings that are right for a CPU
def test_continuous_batching(pair: Any) -> None:
    reference, native = pair
    settings = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    prompts = [IDS[1].tolist(), IDS[0, 3:].tolist()]
    found = [model.generate_batch(inputs=prompts, generation_config=settings) for model in (native, reference)]
    tokens = [{key: request.generated_tokens for key, request in batch.items()} for batch in found]
    assert tokens[0] == tokens[1] and len(tokens[0]) == 2
    alone = generate(native, slice(1, 2), max_new_tokens=8)[0][9:]
    assert alone in tokens[0].values()


def test_one_graph_with_a_static_cache(pair: Any) -> None:
    """`fullgraph` refuses any break; tracing alone is tested, code generation is torch's."""
    _, native = pair
    step = torch.compile(native.forward, fullgraph=True, backend="eager")
    cache = StaticCache(config=native.config, max_cache_len=16)
    with torch.no_grad():
        step(IDS[1:], past_key_values=cache, position_ids=torch.arange(9)[None])
        got = step(torch.tensor([[5]]), past_key_values=cache, position_ids=torch.tensor([[9]])).logits
        expected = native(torch.cat([IDS[1:], torch.tensor([[5]])], dim=1)).logits[:, -1:]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
