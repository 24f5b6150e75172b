"""The native model gives what transformers' LLaMA gives, for every switch of the configuration."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache, LlamaForCausalLM

from llama_tasks.model import load_native
from llama_tasks.model.caches import CACHE

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 16,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "mqa": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True, "hidden_act": "gelu"},
    "head_dim": {"head_dim": 16, "num_key_value_heads": 1, "rms_norm_eps": 1e-3},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "pad_token_id": 0},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        "max_position_embeddings": 16,
    },
    "yarn": {"rope_parameters": YARN},
    "llama3": {"rope_parameters": LLAMA3, "tie_word_embeddings": True},
    "longrope": {"rope_parameters": LONGROPE},
    "old spelling": {"rope_theta": 20000.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
}


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_logits_loss_and_gradients_equal_transformers(make_pair: Any, name: str, attn: str) -> None:
    """Lengths go beyond the dynamic limits and back, because those rotary types remember the longest one."""
    reference, native = make_pair(attn=attn, **CONFIGURATIONS[name])
    for length in (9, 33, 12):
        ids = tokens(2, length, seed=length)
        expected, got = reference(ids, labels=ids), native(ids, labels=ids)
        torch.testing.assert_close(got.logits, expected.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(got.loss, expected.loss, atol=1e-6, rtol=0)
        expected.loss.backward()
        got.loss.backward()
    gradients = dict(native.named_parameters())
    for key, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[key].grad, parameter.grad, atol=1e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("model", ["stories260K", "babyllama-tok105-1M"])
def test_real_checkpoints_give_the_same_logits(shared: Any, model: str) -> None:
    path = shared(f"models/{model}/hf")
    reference, native = LlamaForCausalLM.from_pretrained(path), load_native(path)
    ids = tokens(2, 40)
    torch.testing.assert_close(native(ids).logits, reference(ids).logits, atol=1e-5, rtol=0)


def test_bfloat16_rounds_where_transformers_rounds(pair: Any) -> None:
    reference, native = (model.to(torch.bfloat16) for model in pair)
    ids = tokens(2, 20)
    assert torch.equal(native(ids).logits, reference(ids).logits)


def test_hidden_states_and_attentions(make_pair: Any) -> None:
    reference, native = make_pair(attn="eager")
    options = {"output_hidden_states": True, "output_attentions": True}
    expected, got = reference(tokens(2, 7), **options), native(tokens(2, 7), **options)
    assert len(got.hidden_states) == 3
    assert [a.shape for a in got.attentions] == [(2, 4, 7, 7)] * 2
    torch.testing.assert_close(got.hidden_states, expected.hidden_states)
    torch.testing.assert_close(got.attentions, expected.attentions)


def test_logits_to_keep(pair: Any) -> None:
    _, native = pair
    ids = tokens(2, 9)
    full = native(ids).logits
    assert torch.equal(native(ids, logits_to_keep=2).logits, full[:, -2:])
    assert torch.equal(native(ids, logits_to_keep=torch.tensor([1, 5])).logits, full[:, [1, 5]])
    own = torch.tensor([[1, 5], [0, 8]])
    assert torch.equal(native(ids, logits_to_keep=own).logits, torch.stack([full[0, [1, 5]], full[1, [0, 8]]]))
    mask = torch.zeros(2, 9, dtype=torch.bool).index_put_(
        (torch.tensor([0, 1, 1]), torch.tensor([3, 0, 8])), torch.tensor(True)
    )
    torch.testing.assert_close(native(ids, logits_to_keep=mask).logits, full[mask])


def test_logits_to_keep_of_a_packed_row(pair: Any) -> None:
    _, native = pair
    ids, bounds = tokens(1, 12), torch.tensor([0, 4, 12], dtype=torch.int32)
    full = native(ids, cu_seq_lens_q=bounds).logits
    some = torch.arange(12) % 3 == 1
    for wanted, expected in (
        (torch.tensor([3, 1, 3]), full[:, [3, 1, 3]]),
        (torch.tensor([-1, 2]), full[:, [-1, 2]]),
        (torch.tensor([[1, 5]]), full[:, [1, 5]]),
        (some[None], full[some[None]]),
        (some, full[:, some]),
        (torch.tensor([], dtype=torch.long), full[:, :0]),
        (2, full[:, -2:]),
    ):
        found = native(ids, cu_seq_lens_q=bounds, logits_to_keep=wanted).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    labels = ids.clone()
    expected = native(ids, cu_seq_lens_q=bounds, labels=labels).loss
    every = native(ids, cu_seq_lens_q=bounds, labels=labels, logits_to_keep=torch.arange(12))
    torch.testing.assert_close(every.loss, expected)


def test_tuple_output(pair: Any) -> None:
    _, native = pair
    ids = tokens(1, 5)
    assert torch.equal(native(ids, return_dict=False)[0], native(ids).logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(pair: Any, side: str) -> None:
    _, native = pair
    long, short = tokens(12, seed=1), tokens(7, seed=2)
    pad = torch.zeros(5, dtype=torch.long)
    padded = torch.cat((pad, short) if side == "left" else (short, pad))
    mask = torch.stack((torch.ones(12, dtype=torch.long), (padded != 0).long()))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = native(torch.stack((long, padded)), attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(logits[0], native(long[None]).logits[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[1][mask[1].bool()], native(short[None]).logits[0], atol=1e-5, rtol=0)


def test_cache_gives_the_same_logits_in_pieces(pair: Any) -> None:
    _, native = pair
    ids = tokens(2, 15)
    cache = DynamicCache(config=native.config)
    pieces = [native(part, **{CACHE: cache}, use_cache=True).logits for part in ids.split([6, 1, 5, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), native(ids, use_cache=False).logits, atol=1e-5, rtol=0)
    assert cache.get_seq_length() == 15


def test_layers_and_caches_are_called_as_by_llama(pair: Any) -> None:
    """What a hook, a cache of one's own, and a caller of one layer by position meet."""
    ids = tokens(1, 6)
    found = []
    for model in pair:
        seen: list[Any] = []

        class Listening(DynamicCache):
            def update(self, k: Any, v: Any, layer_idx: int, *args: Any, seen: list = seen, **kwargs: Any) -> Any:
                seen.append({name: sorted(value) for name, value in kwargs.items()})
                return super().update(k, v, layer_idx, *args, **kwargs)

        def look(_: Any, args: tuple, kwargs: dict, seen: list = seen) -> None:
            seen.append((len(args), set(kwargs) - {"position_embeddings"}))

        layer = model.model.layers[0]
        for module in (layer, layer.self_attn):
            module.register_forward_pre_hook(look, with_kwargs=True)
        model(ids, **{CACHE: Listening(config=model.config)})
        hidden, places = model.model.embed_tokens(ids), torch.arange(6)[None]
        angles = model.model.rotary_emb(hidden, places)
        cache = DynamicCache(config=model.config)
        found.append((seen, layer(hidden, None, places, cache, True, angles), cache.layers[0].keys))
    (seen, *numbers), (native_seen, *native_numbers) = found
    assert native_seen == seen
    torch.testing.assert_close(native_numbers, numbers, atol=1e-5, rtol=0)


def test_angles_have_gradients(pair: Any) -> None:
    rotary = pair[1].model.rotary_emb
    rotary.inv_freq = rotary.inv_freq.clone().requires_grad_()
    pair[1](tokens(1, 6), labels=tokens(1, 6)).loss.backward()
    assert rotary.inv_freq.grad.any()


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("word", ["cache", "past_key_values"])
def test_a_cache_goes_by_both_words(pair: Any, word: str) -> None:
    """transformers renamed it in 5.24; signatures and outputs have the word of the one that is installed."""
    reference, native = pair
    ids = tokens(2, 15)
    got = []
    for part in (native, native.model, native.model.layers[0].self_attn):
        assert CACHE in inspect.signature(part.forward).parameters
    for model in (reference, native):
        cache = DynamicCache(config=model.config)
        first = model(ids[:, :9], **{CACHE if model is reference else word: cache})
        assert getattr(first, CACHE) is cache
        got.append(model(ids[:, 9:], **{CACHE if model is reference else word: cache}).logits)
    torch.testing.assert_close(*got, atol=1e-5, rtol=0)
    layer = native.model.layers[0]
    cache = DynamicCache(config=native.config)
    hidden = native.model.embed_tokens(ids)
    layer(hidden, position_embeddings=native.model.rotary_emb(hidden, torch.arange(15)[None]), **{word: cache})
    assert cache.get_seq_length() == 15


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_generation_equals_transformers_token_by_token(pair: Any, options: dict[str, Any]) -> None:
    reference, native = pair
    ids = tokens(3, 8)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    ids[1, :3] = 0
    options = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0, "attention_mask": mask, **options}
    assert native.generate(ids, **options).tolist() == reference.generate(ids, **options).tolist()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(make_pair: Any, use_reentrant: bool) -> None:
    _, native = make_pair()
    native.train()
    ids = tokens(2, 11)
    native(ids, labels=ids, use_cache=False).loss.backward()
    expected = {key: p.grad.clone() for key, p in native.named_parameters()}
    native.zero_grad()
    native.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    native.enable_input_require_grads()
    native(ids, labels=ids, use_cache=False).loss.backward()
    for key, parameter in native.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], msg=key)


def test_inputs_embeds_stand_for_input_ids(pair: Any) -> None:
    _, native = pair
    ids = tokens(2, 6)
    embeds = native.get_input_embeddings()(ids)
    assert torch.equal(native(inputs_embeds=embeds).logits, native(ids).logits)
    with pytest.raises(ValueError, match="exactly one"):
        native(ids, inputs_embeds=embeds)


def test_attention_dropout_acts_in_training_only(make_pair: Any) -> None:
    _, native = make_pair(attention_dropout=0.5)
    ids, cu_seq_lens = tokens(1, 12), torch.tensor([0, 5, 12], dtype=torch.int32)
    assert torch.equal(native(ids).logits, native(ids).logits)
    native.train()
    assert not torch.equal(native(ids).logits, native(ids).logits)
    assert not torch.equal(native(ids, cu_seq_lens_q=cu_seq_lens).logits, native(ids, cu_seq_lens_q=cu_seq_lens).logits)


def test_norm_gradient_is_the_derivative() -> None:
    from llama_tasks.model.modeling_native_llama import NativeLlamaRMSNorm

    torch.manual_seed(0)
    norm = NativeLlamaRMSNorm(16, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, 16, requires_grad=True)
    weights = torch.randn(3, 5, 16)
    (norm(x) * weights).sum().backward()
    got = (x.grad, norm.weight.grad)
    plain = torch.nn.functional.rms_norm(x, (16,), norm.weight, 1e-3)
    expected = torch.autograd.grad((plain * weights).sum(), (x, norm.weight))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("lora", [False, True])
def test_the_meta_device(pair: Any, lora: bool) -> None:
    native, ids = pair[1], torch.ones(2, 9, dtype=torch.long, device="meta")
    if lora:
        native = get_peft_model(native, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    native = native.to("meta").train()
    made = native(input_ids=ids, labels=ids)
    made.loss.backward()
    assert made.logits.shape == (2, 9, 97)
    assert all(p.grad.shape == p.shape for p in native.parameters() if p.requires_grad)
