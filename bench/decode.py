"""Decoding speed of batch 1 against transformers' own LLaMA: greedy `generate`, the same weights, cache and prompt.

    make bench-decode ARGS="--shapes 15M 135M --dtypes fp32 bf16 --adapters none lora --caches dynamic static slots"

Both models live in one process of one thread and take turns (A B A B); the number is new tokens per CPU second, the ratio the
median over pairs of turns. The prompt's own pass is part of both. In float32 both must write the same tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import results
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM
from workloads import SHAPES, TOKENS, save_model

from llama_tasks.model import NativeLlamaForCausalLM, load_native
from llama_tasks.model.decoding import Decoder
from llama_tasks.packing import collate
from llama_tasks.tokens import Tokens

KEY = ("shape", "dtype", "adapter", "cache")
PROMPT = 32  # tokens
CACHES = ("dynamic", "static", "slots")
ADAPTERS = ("none", "lora")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def generate(model: Any, input_ids: torch.Tensor, count: int, cache: str) -> torch.Tensor:
    """`count` new tokens [1, count], greedily; nothing ends them earlier. For `slots`, transformers takes its dynamic cache."""
    if cache == "slots" and isinstance(model, NativeLlamaForCausalLM):
        return by_slots(model, input_ids, count)
    made = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        cache_implementation="static" if cache == "static" else None,
        pad_token_id=0,
        disable_compile=True,
    )
    return made[:, input_ids.shape[1] :]


@torch.inference_mode()
def by_slots(model: NativeLlamaForCausalLM, input_ids: torch.Tensor, count: int) -> torch.Tensor:
    """The same through llama-tasks' own decoding, as `llama_tasks.generate` uses it, with one slot."""
    length = input_ids.shape[1]
    prompt = collate([Tokens("prompt", input_ids[0].tolist(), 1)])
    decoder = Decoder(model, 1, length + count)
    made = [decoder.enter(prompt.inputs(model.device), [[(0, length)]], [length - 1]).argmax(-1)]
    while len(made) < count:
        made.append(decoder.step(made[-1]).argmax(-1))
    return torch.stack(made, dim=1)


def in_turns(
    models: dict[str, Any], input_ids: torch.Tensor, count: int, cache: str, rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Tokens per second of `clock` of every model, turn by turn, and whether they write the same."""
    tokens = {name: generate(model, input_ids, count, cache) for name, model in models.items()}  # warms up
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            began = clock()
            generate(model, input_ids, count, cache)
            speeds[name].append(round(count / (clock() - began), 2))
    first, *others = tokens.values()
    same = min((float((first == other).float().cumprod(1).mean()) for other in others), default=1.0)
    return {"tokens_per_second": speeds, "same_tokens": round(same, 3)}


def with_lora(model: Any) -> Any:
    """The model with an adapter of peft on all its layers, which does something; the same one for the same shape."""
    torch.manual_seed(0)
    config = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, config).eval()
    return model


def measure(shape: str, dtype: str, adapter: str, cache: str, count: int, rounds: int) -> dict[str, Any]:
    """One row: native and transformers in turns on the CPU."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_model(shape, Path(folder))
        models = {
            "native": load_native(folder, dtype=DTYPES[dtype]).eval(),
            "transformers": LlamaForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype]).eval(),
        }
    if adapter == "lora":
        models = {name: with_lora(model) for name, model in models.items()}
    ids = torch.randint(3, SHAPES[shape]["vocab_size"], (1, PROMPT), generator=torch.Generator().manual_seed(0))
    found = in_turns(models, ids, count, cache, rounds, time.process_time)
    if dtype == "fp32" and found["same_tokens"] < 1:
        raise SystemExit(f"{shape} {dtype} {adapter} {cache}: the two models write different tokens")
    pairs = zip(found["tokens_per_second"]["native"], found["tokens_per_second"]["transformers"], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    what = {"shape": shape, "dtype": dtype, "adapter": adapter, "cache": cache, "new_tokens": count}
    return {**what, "speed": round(ratio, 2), **found}


def main() -> None:
    """Measure every combination and save each row when it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["15M", "135M"], choices=list(TOKENS))
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=DTYPES)
    parser.add_argument("--adapters", nargs="+", default=list(ADAPTERS), choices=ADAPTERS)
    parser.add_argument("--caches", nargs="+", default=list(CACHES), choices=CACHES)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=results.FOLDER / "decode.json")
    args = parser.parse_args()
    for shape, dtype, adapter, cache in itertools.product(args.shapes, args.dtypes, args.adapters, args.caches):
        row = measure(shape, dtype, adapter, cache, args.new_tokens, args.rounds)
        results.save(args.output, row, *KEY)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
