"""The step of one text alone gives the logits of the model's own step, adapters included, or leaves the text to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LNTuningConfig, LoraConfig, get_peft_model

from llama_tasks.model import NativeLlamaForCausalLM, alone
from llama_tasks.model.alone import Alone
from llama_tasks.model.decoding import ALONE_AFTER, Decoder

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "every head its own": {"num_key_value_heads": 4},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied, wide heads, gelu": {"tie_word_embeddings": True, "head_dim": 16, "hidden_act": "gelu"},
}


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "turning_is_faster", lambda: True)


def logits_of_steps(model: NativeLlamaForCausalLM, count: int = ALONE_AFTER + 6) -> tuple[torch.Tensor, Decoder]:
    """Of `count` single tokens, [count, V], and the decoder that has taken them in."""
    ids = torch.randint(3, 97, (count, 1), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        decoder = Decoder(model, 2, count + 8)
        prompt = {"input_ids": torch.tensor([[7, 8]]), "cu_seq_lens_q": torch.tensor([0, 2])}
        decoder.enter(prompt, [[(0, 2)]], [1])
        return torch.cat([decoder.step(token) for token in ids]), decoder


def plain_steps(model: NativeLlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    with monkeypatch.context() as context:
        context.setattr(alone, "turning_is_faster", lambda: False)
        logits, decoder = logits_of_steps(model)
    assert decoder._alone is None
    return logits


def with_lora(model: NativeLlamaForCausalLM, **fields: Any) -> NativeLlamaForCausalLM:
    """Its layers carry a LoRA that does something; the native model inside peft's wrapper."""
    torch.manual_seed(2)
    config = LoraConfig(r=4, init_lora_weights=False, **{"target_modules": "all-linear", **fields})
    wrapped = get_peft_model(model, config)
    native = wrapped.get_base_model().eval()
    assert isinstance(native, NativeLlamaForCausalLM)
    return native


@pytest.mark.parametrize("lora", [False, True], ids=["base", "LoRA"])
@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_logits_are_those_of_the_models_own_step(
    make_pair: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], lora: bool
) -> None:
    _, model = make_pair(**fields)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    model = with_lora(model) if lora else model
    expected = plain_steps(model, monkeypatch)
    logits, decoder = logits_of_steps(model)
    assert decoder._alone is not None
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


LORAS: dict[str, dict[str, Any] | None] = {
    "base": None,
    "LoRA": {},
    "LoRA on some": {"target_modules": ["k_proj", "up_proj", "down_proj"]},
    "LoRA in bfloat16": {"narrow": True},
}


@pytest.mark.parametrize("lora", LORAS.values(), ids=LORAS)
@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_bfloat16_is_as_near_to_float32_as_by_the_models_own_step(
    make_pair: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], lora: dict[str, Any] | None
) -> None:
    exact, model = make_pair(**fields)[1], make_pair(**fields)[1].to(torch.bfloat16)
    if lora is not None:
        lora = dict(lora)
        narrow = lora.pop("narrow", False)
        exact, model = with_lora(exact, **lora), with_lora(model, **lora)
        assert model.model.layers[0].mlp.up_proj.lora_A["default"].weight.dtype == torch.float32
        model = model.to(torch.bfloat16) if narrow else model
    exact.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    with monkeypatch.context() as context:
        context.setattr(Alone, "of", lambda model: None)
        usual, truth = logits_of_steps(model)[0].float(), logits_of_steps(exact)[0]
    logits, decoder = logits_of_steps(model)
    assert decoder._alone is not None and logits.dtype == torch.bfloat16
    if lora is not None:
        onto: Any = decoder._alone.layers[0].down
        assert (
            onto.product.a_RD.dtype == onto.product.b_RF.dtype == torch.float32
        )  # as peft computes it, whatever it is kept in

    def error(found: torch.Tensor) -> float:
        return float((found - truth).norm() / truth.norm())

    assert error(logits.float()) < 1.3 * error(usual) + 1e-3 < 0.04


def test_bfloat16_has_the_short_step_on_every_cpu(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "turning_is_faster", lambda: False)
    assert Alone.of(pair[1]) is None
    assert Alone.of(pair[1].to(torch.bfloat16)) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_laid_out_is_what_is_read(pair: Any, dtype: torch.dtype) -> None:
    _, decoder = logits_of_steps(pair[1].to(dtype))
    assert decoder._alone is not None
    with torch.inference_mode():
        head: Any = decoder._alone.head
        (head.weight_DF if dtype == torch.float32 else head.weight_FD).zero_()
        assert not decoder.step(torch.tensor([5])).any()


def test_a_second_text_is_decoded_by_the_models_own_step(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds what the step of one text wrote, and the other way round."""

    def three_turns() -> torch.Tensor:
        _, decoder = logits_of_steps(pair[1])
        with torch.inference_mode():
            decoder.enter({"input_ids": torch.tensor([[9]]), "cu_seq_lens_q": torch.tensor([0, 1])}, [[(0, 1)]], [0])
            both = decoder.step(torch.tensor([5, 6]))
            decoder.leave(1)
            return torch.cat([both[:1], decoder.step(torch.tensor([4]))])

    turns = three_turns()
    monkeypatch.setattr(alone, "turning_is_faster", lambda: False)
    torch.testing.assert_close(turns, three_turns(), atol=1e-5, rtol=1e-5)


def _norms_tuned(model: NativeLlamaForCausalLM) -> Any:
    return get_peft_model(model, LNTuningConfig(target_modules=["input_layernorm", "norm"])).get_base_model().eval()


def _hooked(model: NativeLlamaForCausalLM) -> NativeLlamaForCausalLM:
    model.model.layers[0].register_forward_hook(lambda *_: None)
    return model


def _one_layer_narrow(model: NativeLlamaForCausalLM) -> NativeLlamaForCausalLM:
    model.model.layers[1].mlp.up_proj.to(torch.bfloat16)
    return model


def _one_norm_narrow(model: NativeLlamaForCausalLM) -> NativeLlamaForCausalLM:
    model.model.layers[1].input_layernorm.to(torch.bfloat16)
    return model


REFUSED: dict[str, Callable[[NativeLlamaForCausalLM], Any]] = {
    "another dtype": lambda model: model.to(torch.float16),
    "a layer of another dtype": _one_layer_narrow,
    "a norm of another dtype": _one_norm_narrow,
    "a hook": _hooked,
    "DoRA": lambda model: with_lora(model, use_dora=True),
    "a copy of the head that is trained": lambda model: with_lora(model, modules_to_save=["lm_head"]),
    "an adapter on the norms": _norms_tuned,
}


def test_trained_rows_of_an_embedding_go_with_it(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lora(pair[1], trainable_token_indices=[5, 6])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "token_adapter" in name:
                weight.add_(1.0)
    expected = plain_steps(model, monkeypatch)
    logits, decoder = logits_of_steps(model)
    assert decoder._alone is not None
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_outputs_that_were_once_recorded_change_nothing(pair: Any) -> None:
    """transformers' hooks for them stay on the layers."""
    pair[1](torch.tensor([[5, 6]]), output_hidden_states=True)
    assert pair[1].model.layers[0]._forward_hooks
    assert Alone.of(pair[1]) is not None
    assert Alone.of(_hooked(pair[1])) is None


@pytest.mark.filterwarnings(
    "ignore:Unsupported layer type"
)  # peft's, of LNTuning on a norm that it does not know by name
@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_is_more_than_products_is_left_alone(pair: Any, change: Callable[[Any], Any]) -> None:
    assert Alone.of(pair[1]) is not None
    assert Alone.of(change(pair[1])) is None
