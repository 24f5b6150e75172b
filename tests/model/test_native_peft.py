"""LoRA and NF4 on the native model, and an adapter's way from it to plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from llama_tasks.model import load_native
from llama_tasks.model.alone import Alone

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.tensor([[1, 5, 9, 4, 33, 96, 7, 21, 3]])
BOUNDS = torch.tensor([0, 4, 9], dtype=torch.int32)


def lora(model: Any) -> Any:
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules=LINEAR, task_type="CAUSAL_LM"))


def train_a_little(model: Any) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(input_ids=IDS, labels=IDS, cu_seq_lens_q=BOUNDS, skip_logits=True, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_an_adapter_trained_here_is_one_for_plain_transformers(make_pair: Any, tmp_path: Path) -> None:
    reference, native = make_pair()
    trained = lora(native)
    losses = train_a_little(trained)
    assert losses == sorted(losses, reverse=True)
    trained.save_pretrained(tmp_path / "native")
    lora(reference).save_pretrained(tmp_path / "reference")
    keys = [set(load_file(tmp_path / side / "adapter_model.safetensors")) for side in ("native", "reference")]
    assert keys[0] == keys[1]

    plain, _ = make_pair()
    elsewhere = PeftModel.from_pretrained(plain, tmp_path / "native").eval()
    assert torch.equal(elsewhere(input_ids=IDS).logits, trained.eval()(input_ids=IDS).logits)


def test_nf4_base_trains_an_adapter_on_the_cpu(make_pair: Any, tmp_path: Path) -> None:
    reference, _ = make_pair(hidden_size=64, intermediate_size=128)
    reference.save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    native = load_native(tmp_path, dtype=torch.float32, quantization_config=quantization)
    assert type(native.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert type(native.lm_head) is torch.nn.Linear
    quantized = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, quantization_config=quantization)
    assert torch.equal(native(IDS).logits, quantized(IDS).logits)
    losses = train_a_little(lora(native))
    assert losses == sorted(losses, reverse=True)


def test_no_short_step_lays_out_a_4_bit_base(make_pair: Any, tmp_path: Path) -> None:
    make_pair(hidden_size=64, intermediate_size=128)[0].save_pretrained(tmp_path)
    narrow = torch.bfloat16
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=narrow)
    native = load_native(tmp_path, dtype=narrow, quantization_config=quantization)
    lora(native)
    assert Alone.gains(native) and Alone.of(native) is None
