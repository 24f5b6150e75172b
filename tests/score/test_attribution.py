"""Attributions: their sums, their causality, and the same numbers from transformers' LLaMA by plain autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import plain_embedded

from llama_tasks import adapters
from llama_tasks.recipe import BaseConfig
from llama_tasks.score import attribution

IDS = [1, 300, 17, 2045, 99, 1200, 3000, 41]
ASKED = 5


@pytest.fixture(scope="module")
def found() -> dict[str, torch.Tensor]:
    return attribution.explain(adapters.load_base(BaseConfig()), IDS, ASKED)


@pytest.fixture(scope="module")
def plain() -> Any:
    return plain_embedded()


def test_of_a_linear_function_the_parts_are_the_products_and_add_up() -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(3, 4 * 6), torch.randn(1, 4, 6)
    parts = attribution.input_x_gradient(lambda x: weight @ x.flatten(), inputs)
    products = (weight.view(3, 4, 6) * inputs).sum(-1)
    torch.testing.assert_close(parts, products)
    torch.testing.assert_close(parts.sum(-1), weight @ inputs.flatten())


def test_rollout_of_two_layers_by_hand() -> None:
    first = torch.tensor([[[[1.0, 0.0], [0.2, 0.8]], [[1.0, 0.0], [0.6, 0.4]]]])  # two heads, mean [0.4, 0.6]
    second = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    # Layer 1 with the residual: [0.2, 0.8]; layer 2: half itself, half token 0.
    expected = torch.tensor([[1.0, 0.0], [0.5 + 0.5 * 0.2, 0.5 * 0.8]])
    torch.testing.assert_close(attribution.attention_rollout([first, second]), expected)


def test_rollout_adds_up_to_one_and_looks_back_alone(found: dict[str, torch.Tensor]) -> None:
    rollout = found["attention_rollout"]
    assert rollout.shape == (len(IDS) - ASKED, len(IDS))
    torch.testing.assert_close(rollout.sum(-1), torch.ones(len(IDS) - ASKED), atol=1e-5, rtol=0)
    assert (rollout >= 0).all()


def test_nothing_rests_on_later_tokens(found: dict[str, torch.Tensor]) -> None:
    for weights in found.values():
        for place, row in enumerate(weights):
            assert (row[ASKED + place :] == 0).all()
            assert (row[: ASKED + place] != 0).all()


def test_input_x_gradient_is_that_of_transformers_llama(found: dict[str, torch.Tensor], plain: Any) -> None:
    embeddings = plain.model.embed_tokens(torch.tensor([IDS])).detach()
    for place in range(len(IDS) - ASKED):
        inputs = embeddings.clone().requires_grad_()
        logits = plain(inputs_embeds=inputs).logits[0, ASKED + place - 1]
        logits[IDS[ASKED + place]].backward()
        expected = (inputs.grad * inputs).sum(-1)[0]
        torch.testing.assert_close(found["input_x_gradient"][place], expected, atol=2e-4, rtol=1e-3)


def test_rollout_is_that_of_transformers_attentions(found: dict[str, torch.Tensor], plain: Any) -> None:
    plain.set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = plain(input_ids=torch.tensor([IDS]), output_attentions=True).attentions
    rollout = torch.eye(len(IDS), dtype=torch.float64)
    for weights in attentions:
        layer = (weights[0].double().mean(0) + torch.eye(len(IDS))) / 2
        rollout = layer @ rollout
    expected = rollout[ASKED - 1 : -1].float()
    torch.testing.assert_close(found["attention_rollout"], expected, atol=1e-5, rtol=1e-4)


def test_the_model_stays_as_it_was() -> None:
    model = adapters.load_base(BaseConfig())
    model.train()
    attribution.explain(model, IDS, ASKED)
    assert model.training and model.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in model.parameters())
