"""Layers computed together with their LoRA give what peft's own layers give, and what is not plain LoRA is left to peft."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.modules.module import register_module_forward_hook

from llama_tasks.model import lora, products

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))


def adapted(model: Any, **fields: Any) -> Any:
    """The model with an adapter whose B is not zero, in training mode."""
    torch.manual_seed(3)
    made = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **{"target_modules": TARGETS, **fields})
    )
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.train()


def loss_and_gradients(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    loss = model(IDS, labels=IDS, skip_logits=True).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), gradients


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with the number of layers of every call that goes the fused way."""
    calls: list[int] = []
    apply = lora._Project.apply
    monkeypatch.setattr(
        lora._Project,
        "apply",
        lambda x, gate, parts, *factors: (calls.append(len(parts)), apply(x, gate, parts, *factors))[1],
    )
    return calls


def by_peft(model: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    with monkeypatch.context() as patch:
        patch.setattr(lora, "_plain_lora", lambda layer, dtype: None)
        return loss_and_gradients(model)


@pytest.mark.parametrize(
    "fields", [{}, {"attention_bias": True, "mlp_bias": True}, {"num_key_value_heads": 1, "head_dim": 16}]
)  # fmt: skip
def test_float32_loss_and_gradients_are_those_of_peft(
    make_pair: Any, monkeypatch: pytest.MonkeyPatch, count: list[int], fields: dict[str, Any]
) -> None:
    model = adapted(make_pair(**fields)[1])
    loss, gradients = loss_and_gradients(model)
    assert count == [3, 1, 2, 1] * 2
    expected_loss, expected = by_peft(model, monkeypatch)
    torch.testing.assert_close(loss, expected_loss, atol=1e-6, rtol=0)
    assert gradients.keys() == expected.keys() and len(gradients) == 28
    torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("widens", [False, True])
def test_bfloat16_is_as_near_to_the_truth_as_peft(
    make_pair: Any, monkeypatch: pytest.MonkeyPatch, count: list[int], widens: bool
) -> None:
    monkeypatch.setattr(products, "is_x86_without_avx512", lambda: widens)
    exact = by_peft(adapted(make_pair()[1]), monkeypatch)[1]
    model = adapted(make_pair()[1].bfloat16())
    model.base_model.set_adapter("default")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    ours, theirs = loss_and_gradients(model)[1], by_peft(model, monkeypatch)[1]
    assert count

    def error(found: dict[str, torch.Tensor]) -> float:
        return max(float((found[k] - exact[k]).norm() / exact[k].norm()) for k in exact)

    assert error(ours) < 1.5 * error(theirs) + 0.02


@pytest.mark.parametrize("rows", [3, 8])
def test_decoding_in_bfloat16_by_wide_products(make_pair: Any, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    model = adapted(make_pair()[1].bfloat16()).eval()
    layers = model.base_model.model.model.layers[0].self_attn
    x = torch.randn(rows, 1, layers.q_proj.in_features).bfloat16()

    def run(widens: bool) -> tuple[torch.Tensor, ...]:
        monkeypatch.setattr(products, "is_x86_without_avx512", lambda: widens)
        with torch.no_grad():
            return lora.project(x, layers.q_proj, layers.k_proj)

    for wide, narrow in zip(run(True), run(False), strict=True):
        assert wide.dtype == torch.bfloat16
        assert torch.equal(wide, narrow) == (rows == 3)
        torch.testing.assert_close(wide, narrow, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"lora_dropout": 0.1}, "dropout"), ({"use_dora": True}, "DoRA"), ({"lora_bias": True}, "a bias of its own"),
    ],
)  # fmt: skip
def test_what_is_more_than_plain_lora_goes_through_peft(
    make_pair: Any, monkeypatch: pytest.MonkeyPatch, count: list[int], fields: dict[str, Any], what: str
) -> None:
    model = adapted(make_pair(attention_bias=True, mlp_bias=True)[1], **fields)
    found = loss_and_gradients(model)
    assert not count, what
    torch.testing.assert_close(found, by_peft(model, monkeypatch), atol=0, rtol=0)


def test_merged_disabled_hooked_and_foreign_layers_go_through_peft(pair: Any, count: list[int]) -> None:
    model = adapted(pair[1], target_modules=["q_proj", "v_proj"])
    with torch.no_grad():
        model(IDS)
        assert count == []  # the key's layer has no adapter, so the three are not plain
        model = adapted(model.unload())
        model(IDS)
        assert count
        count.clear()
        with model.disable_adapter():
            model(IDS)
        for module in model.modules():
            module.register_forward_hook(lambda *_: None)
        model(IDS)
        assert not count


def test_evaluation_gives_the_bits_of_peft(pair: Any, count: list[int]) -> None:
    adapted(pair[1]).eval()(IDS)
    assert not count


def test_frozen_inputs_get_no_gradient(pair: Any, count: list[int]) -> None:
    """The first layer's input comes from the frozen embedding: nothing below it is computed, all adapters learn."""
    model = adapted(pair[1])
    _, gradients = loss_and_gradients(model)
    assert count and all(gradient.abs().sum() > 0 for gradient in gradients.values())


def test_only_one_factor_trained(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(pair[1])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    found, expected = loss_and_gradients(model)[1], by_peft(model, monkeypatch)[1]
    assert found.keys() == expected.keys() and all("lora_B" in name for name in found)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("frozen", ["q_proj.lora_A", "v_proj.lora_A", "gate_proj.lora_A"])
def test_each_factor_learns_by_itself(pair: Any, monkeypatch: pytest.MonkeyPatch, frozen: str) -> None:
    model = adapted(pair[1])
    for name, parameter in model.named_parameters():
        if frozen in name:
            parameter.requires_grad_(False)
    found, expected = loss_and_gradients(model)[1], by_peft(model, monkeypatch)[1]
    assert found.keys() == expected.keys() and len(found) == 26
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("where", ["", ".base_layer", ".lora_A.default", ".lora_B.default"])
@pytest.mark.parametrize("change", ["patched", "backward hook", "everywhere"])
def test_a_changed_call_goes_through_peft(pair: Any, count: list[int], where: str, change: str) -> None:
    model = adapted(pair[1])
    for number in range(2):
        module = model.get_submodule(f"base_model.model.model.layers.{number}.self_attn.o_proj{where}")
        if change == "patched":
            module.forward = module.forward
        elif change == "backward hook":
            module.register_full_backward_hook(lambda *_: None)
    handle = register_module_forward_hook(lambda *_: None) if change == "everywhere" else None
    loss_and_gradients(model)
    if handle is not None:
        handle.remove()
    assert count == ([] if change == "everywhere" else [3, 2, 1] * 2)
