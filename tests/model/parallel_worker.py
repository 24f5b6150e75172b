"""Run by `test_parallel.py` in two processes: the model spread over both, against the same model in one.

Writes what it found to the JSON file named second: for each way to spread, how far loss, logits and gradients are apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import DistributedConfig

from llama_tasks.model import NativeLlamaForCausalLM, load_native
from llama_tasks.model.loading import read_config

IDS = torch.randint(3, 96, (1, 18), generator=torch.Generator().manual_seed(0))
PACKED = {"cu_seq_lens_q": torch.tensor([0, 4, 11, 18], dtype=torch.int32), "skip_logits": True}


def whole(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def spread(folder: str, way: str) -> NativeLlamaForCausalLM:
    if way == "fully_shard":
        model = load_native(folder)
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
        return model
    settings = DistributedConfig(**{way: 2})
    return NativeLlamaForCausalLM.from_pretrained(folder, config=read_config(folder), distributed_config=settings)


def compare(model: Any, alone: Any, training: bool) -> dict[str, Any]:
    wanted, found = alone(IDS, labels=IDS), model(IDS, labels=IDS, use_cache=False)
    apart = {"logits": float((whole(found.logits) - wanted.logits).abs().max().detach())}
    if not training:  # transformers' pipeline is one of inference
        return apart
    apart["loss"] = abs(float(whole(found.loss).detach()) - float(wanted.loss.detach()))
    for name, options in (("plain", {}), ("packed", PACKED)):
        for one in (model, alone):
            one.zero_grad()
            whole(one(IDS, labels=IDS, use_cache=False, **options).loss).backward()
        expected = {key: p.grad for key, p in alone.named_parameters()}
        errors = [whole(p.grad) - expected[key] for key, p in model.named_parameters()]
        apart[f"{name} gradients"] = max(float(error.abs().max()) for error in errors)
    weight = model.model.layers[0].mlp.down_proj.weight
    return apart | {"share": weight.to_local().numel() / weight.numel()}


def main(folder: str, output: str) -> None:
    dist.init_process_group("gloo")
    found: dict[str, Any] = {"world_size": dist.get_world_size()}
    for way in ("tp_size", "fsdp_size", "fully_shard", "pp_size"):
        alone, model = load_native(folder).train(), spread(folder, way)
        if way == "pp_size":
            with torch.no_grad():
                found[way] = compare(model.eval(), alone.eval(), training=False)
            found[way]["layers"] = sum(
                type(layer).__name__ == "NativeLlamaDecoderLayer" for layer in model.model.layers
            )
        else:
            found[way] = compare(model.train(), alone, training=True)
        if way != "fully_shard" and way != "fsdp_size":
            settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            tokens = [one.eval().generate(IDS, **settings).tolist() for one in (model, alone)]
            found[way]["same tokens"] = tokens[0] == tokens[1]
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
