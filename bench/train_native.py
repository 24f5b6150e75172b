"""One run of the speed benchmark through llama-tasks' own training loop (started by speed.py, in a process of its own)."""

from __future__ import annotations

from typing import Any

import peft  # noqa: F401  imported before the clock starts, as the peer's is
import torch
from accelerate import Accelerator
from workloads import RANK, SHAPES, Clock, examples

from llama_tasks import adapters
from llama_tasks.recipe import BaseConfig, TrainConfig
from llama_tasks.tokens import Tokens
from llama_tasks.train import Training


def run(model: str, shape: str, workload: str, dtype: str, batch_tokens: int, total: int) -> dict[str, Any]:
    """Train one epoch; the result of the clock."""
    rows = examples(workload, SHAPES[shape]["vocab_size"], total)
    items = [Tokens(str(i), prompt + response, len(prompt)) for i, (prompt, response) in enumerate(rows)]
    clock = Clock()
    base = BaseConfig(
        model=model,
        dtype="float32" if dtype == "fp32" else "bfloat16",
        quantization="nf4" if dtype == "nf4" else "none",
    )
    torch.manual_seed(0)
    adapted = adapters.attach(adapters.load_base(base), {"r": RANK, "lora_alpha": 2 * RANK}, base)
    config = TrainConfig(
        num_train_epochs=1,
        tokens_per_batch=batch_tokens,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        warmup_steps=0,
        share_prefixes=workload == "5q",
    )
    training = Training(adapted, items, config, Accelerator(cpu=True), 1e-3)
    losses = []
    for report, (_, batches) in zip(training.run(), training.plan.steps, strict=True):
        losses.append(report.loss)
        clock.mark(sum(len(m.input_ids) for batch in batches for i in batch for m in training.plan.families[i].members))
    return clock.result(losses[0])
