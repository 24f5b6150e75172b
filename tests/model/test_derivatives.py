"""Second derivatives and torch.func, as for transformers' LLaMA; where there are none, a sentence and not a zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

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
