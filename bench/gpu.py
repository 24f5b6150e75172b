"""One GPU, one command, one JSON: training with LoRA and QLoRA on rows of 4,096 tokens, and decoding, against transformers + peft.

    make bench-gpu

bf16 (QLoRA: nf4 base) in the shapes of Llama-3.2-1B and Llama-3.1-8B, with random weights made on the device. Every part gives
tokens per second of wall clock, peak memory, and MFU:

    MFU = operations that the step needs (bench/roofline.py) / seconds / dense bf16 peak of the card

Both sides run the same loop here (forward, backward, fused AdamW), on the same weights and rows; the first loss of each stands in
the file. transformers + peft runs as its Trainer runs it, under autocast, with sdpa and, where it is installed, flash attention.
`packed` is eight documents of 512 tokens in one row, `whole` is one document.

Every part has a share of the minutes; one that would begin too late, or that runs out of memory, is named with its reason.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import decode
import results
import roofline
import torch
from gpu_models import build, make_weights
from workloads import SHAPES

from llama_tasks.packing import Batch, collate
from llama_tasks.tokens import Tokens

MINUTES = 7.0  # and what the imports take
WARMUP, STEPS = 3, 10
NEW_TOKENS = 64  # of decoding
# Dense bf16 TFLOP/s of NVIDIA's data sheets; the first name that is part of the card's, so longer ones come first.
PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H200 NVL": 835.5,
    "H200": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One measurement, and the seconds that it may take."""

    what: str  # lora, qlora, decode
    shape: str
    engine: str  # native, transformers
    attention: str
    rows: str  # packed, whole; of decode the cache
    seconds: float


def plan(shapes: list[str]) -> list[Part]:
    """All parts, the most telling ones first; those that use the same base stand together."""
    parts = []
    flash = importlib.util.find_spec("flash_attn") is not None
    for shape in shapes:
        for what, engine in (
            ("lora", "native"),
            ("lora", "transformers"),
            ("qlora", "native"),
            ("qlora", "transformers"),
        ):
            parts += [Part(what, shape, engine, "flash_attention_2", "packed", 20)] if flash else []
            parts += [Part(what, shape, engine, "sdpa", rows, 20) for rows in ("packed", "whole")]
            if (what, engine) == ("lora", "transformers"):
                parts += [Part("decode", shape, "both", "sdpa", cache, 30) for cache in decode.CACHES]
    # flex_attention is compiled at its first call, which takes longest: last.
    return parts + [Part("lora", shape, "native", "flex_attention", "packed", 60) for shape in shapes]


def measure(parts: list[Part], device: torch.device, deadline: float, save: Callable[[dict[str, Any]], None]) -> None:
    """Run the parts in turn and save a row for each, with its numbers or with the reason why there are none."""
    held: tuple[Any, Any] = (None, None)
    for part in parts:
        row: dict[str, Any] = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.name != "seconds"}
        if time.monotonic() + part.seconds > deadline:
            save({**row, "skipped": "the time was out"})
            continue
        key = part.shape, part.what == "qlora"
        with reasons(row):
            if held[0] != key:
                held = (None, None)  # the old base goes before the new one comes
                clean(device)
                held = key, make_weights(SHAPES[part.shape], device, quantized=key[1])
            if part.what == "decode":
                row |= decoding(part, held[1], device)
            else:
                row |= training(part, held[1], device, time.monotonic() + part.seconds)
        clean(device)
        save(row)


@contextlib.contextmanager
def reasons(row: dict[str, Any]) -> Iterator[None]:
    """Whatever fails in a part, memory most likely, becomes the reason in its row, and the other parts go on."""
    try:
        yield
    except Exception as error:
        row["skipped"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def training(part: Part, weights: Any, device: torch.device, until: float) -> dict[str, Any]:
    """Tokens per second, MFU and peak memory of training steps on one row."""
    shape = SHAPES[part.shape]
    batch = row_of(shape, part.rows)
    model = build(part.engine, shape, weights, part.attention, lora=True).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    inputs = {**batch.inputs(device), "labels": batch.labels.to(device), "num_items_in_batch": batch.num_targets}
    if part.engine == "native":
        inputs["skip_logits"] = True
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, losses = [], []
    while len(seconds) < WARMUP + STEPS and (len(seconds) <= WARMUP or time.monotonic() < until):
        began = now(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=part.engine != "native"):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(now(device) - began)
        losses.append(float(loss.detach()))
    step = statistics.median(seconds[WARMUP:])
    flops = roofline.batch_flops(shape, batch)
    peak = peak_tflops(device)
    return {
        "tokens_per_second": round(batch.num_tokens / step, 1), "tflops_per_second": round(flops / step / 1e12, 2),
        "mfu": None if peak is None else round(flops / step / 1e12 / peak, 3),
        "peak_gib": peak_gib(model, weights) if device.type == "cuda" else None,
        "steps": len(seconds) - WARMUP, "first_loss": losses[0],
    }  # fmt: skip


def decoding(part: Part, weights: Any, device: torch.device) -> dict[str, Any]:
    """New tokens per second of batch 1, native and transformers in turns."""
    shape = SHAPES[part.shape]
    models = {
        name: build(name, shape, weights, part.attention, lora=False).eval() for name in ("native", "transformers")
    }
    ids = torch.randint(3, shape["vocab_size"], (1, decode.PROMPT), generator=torch.Generator().manual_seed(0)).to(
        device
    )
    found = decode.in_turns(models, ids, NEW_TOKENS, part.rows, 2, lambda: now(device))
    medians = {name: statistics.median(speeds) for name, speeds in found["tokens_per_second"].items()}
    ratio = round(medians["native"] / medians["transformers"], 2)
    return {"tokens_per_second": medians, "speed": ratio, "same_tokens": found["same_tokens"]}


def row_of(shape: dict[str, Any], rows: str) -> Batch:
    """One row of 4,096 tokens (of the tiny shape, 64), eight documents or one; every token but a document's first is a target."""
    total = 64 if shape["vocab_size"] < 1000 else 4096
    count = 8 if rows == "packed" else 1
    ids = torch.randint(3, shape["vocab_size"], (count, total // count), generator=torch.Generator().manual_seed(0))
    return collate([Tokens(str(i), document, 1) for i, document in enumerate(ids.tolist())])


def peak_gib(model: Any, weights: dict[str, torch.Tensor]) -> float:
    """Peak memory of the device, without weights that the benchmark holds and the model has its own copies of."""
    used = {weight.data_ptr() for weight in model.parameters()}
    idle = {weight.data_ptr(): weight.nbytes for weight in weights.values() if weight.data_ptr() not in used}
    return round((torch.cuda.max_memory_allocated() - sum(idle.values())) / 2**30, 2)


def peak_tflops(device: torch.device) -> float | None:
    """The card's dense bf16 peak, None for one that is not in the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def now(device: torch.device) -> float:
    """Seconds, with everything done that was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def clean(device: torch.device) -> None:
    """Give back what the last part held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> int:
    """Measure on this machine's GPU; exit code 2 where there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["8B", "1B"], choices=["8B", "1B"])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all parts together")
    parser.add_argument("--output", type=Path, default=results.FOLDER / "gpu.json")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench-gpu needs a CUDA device, and torch finds none here; nothing was measured.", file=sys.stderr)
        return 2
    deadline = time.monotonic() + 60 * args.minutes
    card = {"gpu": torch.cuda.get_device_name(), "peak_tflops": peak_tflops(torch.device("cuda"))}

    def save(row: dict[str, Any]) -> None:
        key = "what", "shape", "engine", "attention", "rows"
        measured = [old for old in results.load(args.output) if "skipped" not in old]
        # What was measured before counts for more than the reason why it was not this time.
        if "skipped" not in row or all(any(old.get(name) != row[name] for name in key) for old in measured):
            results.save(args.output, {**row, **card}, *key)
        print(json.dumps(row), flush=True)

    measure(plan(args.shapes), torch.device("cuda", 0), deadline, save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
