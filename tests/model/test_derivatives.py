"""Second derivatives and torch.func, as for transformers' LLaMA; where there are none, a sentence and not a zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.autograd import forward_ad

from llama_tasks.model import attention_products, products

IDS = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def eager_pair(make_pair: Any) -> Any:
    return make_pair(attn="eager")  # torch's fused attention has no second derivative


def test_hessian_times_vector(eager_pair: Any) -> None:
    def product(model: Any) -> Tensor:
        embedded = model.model.embed_tokens(IDS).detach()
        along = torch.ones_like(embedded)
        loss = lambda x: model(inputs_embeds=x, labels=IDS).loss  # noqa: E731
        return torch.autograd.functional.hvp(loss, embedded, along)[1]

    expected, found = map(product, eager_pair)
    assert expected.norm() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("training", [False, True])
def test_gradient_penalty(eager_pair: Any, training: bool) -> None:
    def gradients(model: Any) -> dict[str, Tensor]:
        model.train(training)
        embedded = model.model.embed_tokens(IDS).detach().requires_grad_()
        (first,) = torch.autograd.grad(model(inputs_embeds=embedded, labels=IDS).loss, embedded, create_graph=True)
        first.square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected, found = map(gradients, eager_pair)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_gradients_of_each_sample(eager_pair: Any) -> None:
    def gradients(model: Any) -> dict[str, Tensor]:
        def loss(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
            inputs = {"input_ids": ids[None], "labels": ids[None], "use_cache": False}
            return torch.func.functional_call(model, weights, kwargs=inputs).loss

        weights = {name: p.detach() for name, p in model.named_parameters()}
        return torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, IDS)

    expected, found = map(gradients, eager_pair)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_training_step_says_that_it_has_none(eager_pair: Any) -> None:
    _, native = eager_pair
    loss = native(IDS, labels=IDS, skip_logits=True).loss
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(loss, list(native.parameters()), create_graph=True)


@pytest.mark.parametrize("widens", [False, True])
def test_second_derivatives_in_bfloat16(eager_pair: Any, monkeypatch: pytest.MonkeyPatch, widens: bool) -> None:
    monkeypatch.setattr(products, "is_x86_without_avx512", lambda: widens)

    def gradients(model: Any) -> Tensor:
        model.bfloat16().train()
        embedded = model.model.embed_tokens(IDS).detach().requires_grad_()
        (first,) = torch.autograd.grad(model(inputs_embeds=embedded, labels=IDS).loss, embedded, create_graph=True)
        first.float().square().sum().backward()
        return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])

    expected, found = map(gradients, eager_pair)
    assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_func_on_packed_documents(pair: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Long enough for attention by blocks, of several lengths, with the loss by chunks."""
    monkeypatch.setattr(products, "is_x86_without_avx512", lambda: True)
    monkeypatch.setattr(attention_products, "is_amd_without_avx512", lambda: True)
    monkeypatch.setattr(attention_products, "IN_BLOCKS", range(2, 20))
    _, native = pair
    native.to(dtype).train()
    bounds = torch.tensor([0, 8, 21, 27], dtype=torch.int32)
    inputs = {"labels": IDS.view(1, -1), "cu_seq_lens_q": bounds, "skip_logits": True}
    embedded = native.model.embed_tokens(IDS.view(1, -1)).detach()

    def loss(x: Tensor) -> Tensor:
        return native(inputs_embeds=x, **inputs).loss

    found = torch.func.grad(loss)(embedded)
    expected = torch.autograd.functional.vjp(loss, embedded)[1]
    assert (found - expected).float().norm() < (1e-5 if dtype == torch.float32 else 0.05) * expected.float().norm()


def test_forward_mode(eager_pair: Any) -> None:
    along = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(1))

    def slope(model: Any) -> Tensor:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(model.train().model.embed_tokens(IDS).detach(), along)
            return forward_ad.unpack_dual(model(inputs_embeds=dual, labels=IDS, use_cache=False).loss).tangent

    expected, found = map(slope, eager_pair)
    assert expected.abs() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [False, True])
def test_backward_inside_of_autocast(make_pair: Any, dtype: torch.dtype, lora: bool) -> None:
    """The forward pass was outside of it, and its precision counts."""

    def gradients(inside: bool) -> Tensor:
        model = make_pair()[1].to(dtype)
        if lora:
            torch.manual_seed(0)
            model = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
        loss = model.train()(IDS, labels=IDS).loss
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected, found = gradients(False), gradients(True)
    assert found.dtype == expected.dtype
    assert (found - expected).float().norm() < 0.03 * expected.float().norm()
