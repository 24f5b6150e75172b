"""Whatever transformers' generation offers gives the tokens that its own LLaMA gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import ContinuousBatchingConfig, GenerationConfig, StaticCache

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
    "min_p": {"do_sample": True, "min_p": 0.1},
    "typical": {"do_sample": True, "typical_p": 0.5},
    "watermark": {"watermarking_config": {"bias": 2.0, "seeding_scheme": "lefthash"}},
    "several beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5, "early_stopping": True},
    "prompt in pieces": {"prefill_chunk_size": 4},
    "float8 cache": {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}},
    "float8 cache, beam": {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}, "num_beams": 3},
}
# A quantiser's own settings: groups that fit the tiny model's heads, and a window short enough to be left.
FOUR_BITS = {"nbits": 4, "q_group_size": 16, "residual_length": 4}


def generate(model: Any, rows: slice = slice(None), **options: Any) -> list[list[int]]:
    torch.manual_seed(1)
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0, **options}
    return model.generate(IDS[rows], attention_mask=MASK[rows], **options).tolist()


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", MODES)
def test_modes(make_pair: Any, mode: str, attn: str) -> None:
    reference, native = make_pair(attn=attn)
    assert generate(native, **MODES[mode]) == generate(reference, **MODES[mode])


@pytest.mark.parametrize(("library", "axis"), [("hqq", 1), ("optimum.quanto", 0)])
def test_cache_in_four_bits(pair: Any, library: str, axis: int) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    settings = {"backend": library.split(".")[-1], "axis_key": axis, "axis_value": axis, **FOUR_BITS}
    found = [generate(model, cache_implementation="quantized", cache_config=settings) for model in pair]
    assert found[0] == found[1] != generate(pair[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloaded caches move keys and values by CUDA streams")
@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static"])
def test_offloaded_cache(pair: Any, kind: str) -> None:
    _, native = pair
    native.cuda()
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "attention_mask": MASK.cuda()}
    kept = native.generate(IDS.cuda(), **settings)
    assert torch.equal(native.generate(IDS.cuda(), cache_implementation=kind, **settings), kept)


def contrastive(model: Any, input_ids: torch.Tensor, generation_config: Any = None, **_: Any) -> torch.Tensor:
    """Contrastive search (Su et al., 2022) of one row: likely tokens that lead away from what the text already means."""
    for _ in range(generation_config.max_new_tokens):
        likely = model(input_ids).logits[0, -1].softmax(-1).topk(generation_config.top_k)
        rows = torch.cat([input_ids.expand(len(likely.indices), -1), likely.indices[:, None]], dim=1)
        states = F.normalize(model(rows, output_hidden_states=True).hidden_states[-1], dim=-1)
        alike = (states[:, :-1] @ states[:, -1:].mT).amax(dim=1)[:, 0]
        best = int((0.4 * likely.values - 0.6 * alike).argmax())
        input_ids = rows[best : best + 1]
    return input_ids


def test_a_way_of_generating_of_ones_own(pair: Any) -> None:
    """transformers gave contrastive search away; it comes back through `custom_generate`."""
    options = {"custom_generate": contrastive, "top_k": 4}
    found = [generate(model, slice(1, 2), **options) for model in pair]
    assert found[0] == found[1] != generate(pair[1], slice(1, 2))


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_what_generation_saw_on_the_way(make_pair: Any, attn: str) -> None:
    settings: dict[str, Any] = {
        "max_new_tokens": 5,
        "do_sample": False,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
    }
    seen = {
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
        "output_attentions": attn == "eager",
    }
    theirs, ours = (m.generate(IDS, attention_mask=MASK, **settings, **seen) for m in make_pair(attn=attn))
    assert ours.keys() == theirs.keys()
    for name in ("scores", "logits", "hidden_states", *(["attentions"] if attn == "eager" else [])):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0)


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
    few = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=256)  # else it fills the memory of the machine
    prompts = [IDS[1].tolist(), IDS[0, 3:].tolist()]
    found = [
        model.generate_batch(inputs=prompts, generation_config=settings, continuous_batching_config=few)
        for model in (native, reference)
    ]
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
