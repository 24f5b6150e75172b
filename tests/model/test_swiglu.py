"""SwiGLU with its gradient written out is the formula, keeps less, and gives way where something else is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_tasks.model import swiglu as room
from llama_tasks.model.swiglu import swiglu


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_formula_with_its_gradient(dtype: torch.dtype) -> None:
    gate, value, dy = inputs(dtype)
    found, expected = swiglu(gate, value), F.silu(gate) * value
    assert torch.equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (gate, value), dy), torch.autograd.grad(expected, (gate, value), dy), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5 if dtype == torch.float32 else 2**-7)


def test_gradients_of_any_order() -> None:
    gate, value, _ = (x.double().detach().requires_grad_() for x in inputs())
    assert torch.autograd.gradcheck(swiglu, (gate, value))
    assert torch.autograd.gradgradcheck(swiglu, (gate, value))


def test_it_keeps_its_two_inputs_alone() -> None:
    gate, value, _ = inputs()
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        swiglu(gate, value)
    assert [x.data_ptr() for x in kept] == [gate.data_ptr(), value.data_ptr()]


def test_the_incoming_gradient_stays_as_it_is() -> None:
    gate, value, dy = inputs()
    before = dy.detach().clone()
    swiglu(gate, value).backward(dy)
    assert torch.equal(dy, before)


@pytest.mark.parametrize("change", ["another activation", "a hook", "a backward hook", "a patch"])
def test_a_changed_activation_is_called(pair: Any, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    _, native = pair
    monkeypatch.setattr(room, "_SwiGLU", None)
    ids = torch.randint(3, 97, (1, 5))
    with pytest.raises(AttributeError):
        native.train()(ids)
    for layer in native.model.layers:
        if change == "a hook":
            layer.mlp.act_fn.register_forward_hook(lambda *_: None)
        elif change == "a backward hook":
            layer.mlp.act_fn.register_full_backward_hook(lambda *_: None)
        elif change == "a patch":
            layer.mlp.act_fn.forward = torch.tanh
        else:
            layer.mlp.act_fn = nn.Tanh()
    native(ids)
