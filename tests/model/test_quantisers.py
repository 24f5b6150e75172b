"""Weights in 4 and 8 bits, by whichever quantiser transformers reaches through `quantization_config`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaForCausalLM, QuantoConfig, TorchAoConfig

from llama_tasks.errors import ModelError
from llama_tasks.model import load_native
from llama_tasks.model.loading import _is_finite

IDS = torch.tensor([[1, 5, 9, 4, 33, 96, 7, 21, 3]])


def quanto() -> Any:
    pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
    return QuantoConfig(weights="int8")


def torchao() -> Any:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig())


QUANTISERS: dict[str, Callable[[], Any]] = {
    "int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "int8, all layers but one": lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["down_proj"]),
    "fp4": lambda: BitsAndBytesConfig(load_in_4bit=True),
    "nf4": lambda: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
    ),
    "quanto": quanto,
    "torchao": torchao,
}  # fmt: skip


@pytest.fixture
def checkpoint(make_pair: Any, tmp_path: Path) -> Path:
    reference, _ = make_pair(hidden_size=128, intermediate_size=256)
    reference.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # of the quantisers
@pytest.mark.parametrize("name", QUANTISERS)
def test_a_quantised_model_gives_the_logits_of_transformers(checkpoint: Path, name: str) -> None:
    native = load_native(checkpoint, dtype=torch.float32, quantization_config=QUANTISERS[name]())
    reference = LlamaForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, quantization_config=QUANTISERS[name]()
    )
    layers = [[type(m) for m in model.modules() if "Linear" in type(m).__name__] for model in (native, reference)]
    assert layers[0] == layers[1]
    with torch.no_grad():
        logits, exact = native(IDS).logits, load_native(checkpoint)(IDS).logits
        assert torch.equal(logits, reference(IDS).logits)
    assert 0 < (logits - exact).abs().mean() < exact.abs().mean()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_quantised_model_is_saved_and_loaded_as_it_is(checkpoint: Path, tmp_path: Path, name: str) -> None:
    native = load_native(checkpoint, dtype=torch.float32, quantization_config=QUANTISERS[name]())
    native.save_pretrained(tmp_path / "quantised")
    again = load_native(tmp_path / "quantised")
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, native(IDS).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_damage_is_found_in_every_dtype(dtype: torch.dtype) -> None:
    whole = torch.nn.Parameter(torch.ones(4).to(dtype), requires_grad=False)
    broken = torch.nn.Parameter(torch.tensor([1.0, float("nan")]).to(dtype), requires_grad=False)
    assert _is_finite(whole) and not _is_finite(broken)


@pytest.mark.filterwarnings("ignore")
def test_damage_is_found_under_a_quantiser(make_pair: Any, tmp_path: Path) -> None:
    reference, _ = make_pair(hidden_size=128, intermediate_size=256)
    reference.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    reference.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="up_proj"):
        load_native(tmp_path, dtype=torch.float32, quantization_config=torchao())
