"""What our training loop costs beside a bare PyTorch loop with the same model and the same batches, and what checkpoints cost.

    make bench-loop [ARGS="--shapes embedded 15M --rounds 8"]

Both loops take turns in one process, some steps each, from the same weights; process CPU time counts. The bare loop has its batches
collated beforehand and only calls model, backward, clipping, optimizer and schedule. A checkpoint is timed alone and set against
`train.save_steps` (the default) steps.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import results
import torch
import train_native
from transformers import get_scheduler
from workloads import save_model

from llama_tasks import checkpoint
from llama_tasks.packing import collate
from llama_tasks.recipe import TrainConfig
from llama_tasks.tokens.tokenizer import EMBEDDED
from llama_tasks.train import Training

RESULT = results.FOLDER / "loop.json"
STEPS = 4  # in a turn


def ours(training: Training, steps: int) -> float:
    """CPU seconds a step of our loop."""
    running = training.run()
    began = time.process_time()
    for _ in range(steps):
        next(running)
    return (time.process_time() - began) / steps


def bare(model: Any, optimizer: Any, scheduler: Any, batches: list[Any]) -> float:
    """CPU seconds a step of the bare loop, one batch a step."""
    model.train()
    began = time.process_time()
    for batch in batches:
        loss = model(**batch.inputs(), labels=batch.labels, num_items_in_batch=batch.num_targets, skip_logits=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.process_time() - began) / len(batches)


def measure(folder: str, shape: str, rounds: int, batch_tokens: int) -> dict[str, Any]:
    """Both loops in turns, and the cost of a checkpoint."""
    adapted = train_native.load(folder, "fp32")
    other = copy.deepcopy(adapted)
    total = (rounds + 1) * STEPS * batch_tokens * 2
    training = train_native.plan(adapted, "tiny" if shape == "embedded" else shape, "64+1", batch_tokens, total)
    optimizer = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], lr=1e-3, fused=True)
    scheduler = get_scheduler("constant", optimizer)
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(rounds + 1):
        planned = training.plan.steps[turn * STEPS : (turn + 1) * STEPS]
        batches = [collate([training.plan.families[i] for i in step[1][0]]) for step in planned]
        loops = {"ours": partial(ours, training, STEPS), "bare": partial(bare, other, optimizer, scheduler, batches)}
        for name in sorted(loops, reverse=turn % 2 == 0):  # each goes first in every other turn
            seconds = loops[name]()
            if turn:  # the first turn warms both up
                found[name].append(seconds)
    step, saving = median(found["ours"]), save_seconds(training)
    ratio = median(a / b for a, b in zip(found["ours"], found["bare"], strict=True))
    every = TrainConfig().save_steps
    return {"shape": shape, "batch_tokens": batch_tokens, "seconds_per_step": {k: median(v) for k, v in found.items()},
            "loop_over_bare": round(ratio, 4), "checkpoint_seconds": round(saving, 4), "save_steps": every,
            "checkpoint_share": round(saving / (every * step), 5)}  # fmt: skip


def save_seconds(training: Training) -> float:
    """CPU seconds of one checkpoint, the median of three."""
    taken = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            checkpoint.save(Path(folder), training, {})
            taken.append(time.process_time() - began)
    return median(taken)


def main() -> None:
    """Measure the shapes and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["embedded", "15M"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            if shape != "embedded":
                save_model(shape, Path(folder))
            row = measure(str(EMBEDDED) if shape == "embedded" else folder, shape, args.rounds, args.batch_tokens)
        results.save(args.out, row, "shape", "batch_tokens")
        print(
            f"{shape}: loop {row['loop_over_bare']:.3f} of bare, checkpoints {row['checkpoint_share']:.2%} of the time"
        )


if __name__ == "__main__":
    main()
