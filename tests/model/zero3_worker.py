"""Run by `test_parallel.py` in two processes: the native LLaMA and transformers' own, loaded and trained by DeepSpeed's ZeRO-3.

Writes the losses of a few steps to the JSON file named second: of all weights, and of LoRA; the native model also with the
loss of its own (`skip_logits`), and its loss on a packed row beside that of one process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM
from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

from llama_tasks.model import load_native

IDS = torch.randint(3, 96, (1, 18), generator=torch.Generator().manual_seed(0))
PACKED = {"cu_seq_lens_q": torch.tensor([0, 4, 11, 18], dtype=torch.int32), "skip_logits": True}
CONFIG: dict[str, Any] = {
    "zero_optimization": {"stage": 3},
    "train_micro_batch_size_per_gpu": 1,
    "gradient_clipping": 1.0,  # as DeepSpeed does by itself, unless told otherwise
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,  # its own Adam is one more extension to compile
}
SYSTEMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "transformers": (LlamaForCausalLM.from_pretrained, {}),
    "native": (load_native, {}),
    "native skip_logits": (load_native, {"skip_logits": True}),
}


def is_spread(model: Any) -> bool:
    """Whether this rank holds less than the whole of every weight that was loaded."""
    weights = [weight for name, weight in model.named_parameters() if "lora_" not in name]
    return all(weight.ds_tensor.numel() < weight.ds_numel for weight in weights)


def train(model: Any, adapted: bool, options: dict[str, Any], steps: int = 3) -> list[float]:
    if adapted:
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained = [weight for weight in model.train().parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0 if adapted else 0.1)
    engine, *_ = deepspeed.initialize(model=model, model_parameters=trained, optimizer=optimizer, config=CONFIG)
    losses = []
    for _ in range(steps):
        loss = engine(input_ids=IDS, labels=IDS, use_cache=False, **options).loss
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    return losses


def main(folder: str, output: str) -> None:
    with torch.no_grad():
        alone = float(load_native(folder)(IDS, labels=IDS, use_cache=False, **PACKED).loss)
    deepspeed.init_distributed(dist_backend="gloo")
    found: dict[str, Any] = {"world_size": dist.get_world_size(), "spread": True}
    asked = HfDeepSpeedConfig({**CONFIG, "train_batch_size": dist.get_world_size()})  # while it lives, loading spreads
    for way, adapted in (("whole", False), ("lora", True)):
        for name, (load, options) in SYSTEMS.items():
            model = load(folder)
            found["spread"] &= is_spread(model)
            found.setdefault(way, {})[name] = train(model, adapted, options)
    found["packed"] = [alone, train(load_native(folder), False, PACKED, steps=1)[0]]
    del asked
    unset_hf_deepspeed_config()
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
