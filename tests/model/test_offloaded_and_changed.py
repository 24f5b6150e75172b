"""What is no longer the plain architecture, or whose weights lie elsewhere, generates as transformers' LLaMA does then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from torch import nn

from llama_tasks.model import alone, products

ROWS = torch.tensor([[11, 12, 13, 14], [21, 22, 23, 24]])


@pytest.fixture(autouse=True)
def short_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other way of decoding is tried, whatever the processor."""
    monkeypatch.setattr(alone, "turning_is_faster", lambda: True)
    monkeypatch.setattr(products, "turning_is_faster", lambda: True)


def generated(model: Any, rows: int) -> list[list[int]]:
    return model.generate(ROWS[:rows], max_new_tokens=16, min_new_tokens=16, do_sample=False, pad_token_id=0).tolist()


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("lora", [False, True])
def test_offloaded_weights_are_fetched(pair: Any, lora: bool, rows: int) -> None:
    def offloaded(model: Any) -> Any:
        torch.manual_seed(1)
        fields = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "up_proj", "down_proj"], init_lora_weights=False)
        return cpu_offload(get_peft_model(model, fields) if lora else model, torch.device("cpu"))

    expected, found = (generated(offloaded(model), rows) for model in pair)
    assert found == expected


def _negated(module: Any) -> None:
    plain = module.forward
    module.forward = lambda *args, **kwargs: -plain(*args, **kwargs)


class _Doubled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * self.inner(*args, **kwargs)


def _set(module: Any, name: str, value: Any) -> None:
    setattr(module, name, value)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "patched mlp": lambda model: _negated(model.model.layers[1].mlp),
    "patched head": lambda model: _negated(model.lm_head),
    "replaced layer": lambda model: _set(model.model.layers, "0", _Doubled(model.model.layers[0])),
    "another norm": lambda model: _set(model.model.layers[1], "input_layernorm", nn.LayerNorm(32)),
    "another activation": lambda model: _set(model.model.layers[1].mlp, "act_fn", nn.Tanh()),
    "another scale": lambda model: _set(model.model.layers[1].self_attn, "scaling", 4.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_module_counts(pair: Any, change: Callable[[Any], Any]) -> None:
    plain = generated(pair[0], 1)
    for model in pair:
        change(model)
    expected, found = (generated(model, 1) for model in pair)
    assert found == expected != plain


def test_hooks_on_all_modules_are_called(pair: Any) -> None:
    def calls(model: Any) -> int:
        seen: list[str] = []
        hook = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
        try:
            generated(model, 1)
        finally:
            hook.remove()
        return seen.count("Linear")

    expected, found = (calls(model) for model in pair)
    assert found == expected
