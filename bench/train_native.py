"""llama-tasks' own training loop on a workload, as the CPU benchmarks run it."""

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
    """Train one epoch; the result of the clock, and what the base's weights take."""
    clock = Clock()
    adapted = load(model, dtype)
    training = plan(adapted, shape, workload, batch_tokens, total)
    losses = []
    for report in training.run():
        losses.append(report.loss)
        clock.mark(useful_tokens(training, report.step - 1))
    return {**clock.result(losses[0]), "weights_mib": round(weights_mib(adapted), 1)}


def load(model: str, dtype: str) -> Any:
    """The native model of a folder in `fp32`, `bf16` or `nf4`, with LoRA on all linear layers."""
    base = BaseConfig(
        model=model,
        dtype="float32" if dtype == "fp32" else "bfloat16",
        quantization="nf4" if dtype == "nf4" else "none",
    )
    torch.manual_seed(0)
    return adapters.attach(adapters.load_base(base), {"r": RANK, "lora_alpha": 2 * RANK}, base)


def plan(
    adapted: Any,
    shape: str,
    workload: str,
    batch_tokens: int,
    total: int,
    share_prefixes: bool | None = None,
    learning_rate: float = 1e-3,
) -> Training:
    """One epoch of the workload; prefixes are shared where the workload has some, unless told otherwise."""
    rows = examples(workload, SHAPES[shape]["vocab_size"], total)
    items = [Tokens(str(i), prompt + response, len(prompt)) for i, (prompt, response) in enumerate(rows)]
    config = TrainConfig(
        num_train_epochs=1,
        tokens_per_batch=batch_tokens,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        share_prefixes=workload == "5q" if share_prefixes is None else share_prefixes,
    )
    return Training(adapted, items, config, Accelerator(cpu=True), learning_rate)


def useful_tokens(training: Training, step: int) -> int:
    """Tokens of a step's examples, a shared prefix counted for each of them."""
    batches = training.plan.steps[step][1]
    return sum(
        len(member.input_ids) for batch in batches for i in batch for member in training.plan.families[i].members
    )


def weights_mib(adapted: Any) -> float:
    """Memory of the frozen base, with the scales of 4-bit weights."""
    frozen = [weight for weight in adapted.parameters() if not weight.requires_grad]
    states = [state for weight in frozen if (state := getattr(weight, "quant_state", None)) is not None]
    nested = [state.state2 for state in states if state.state2 is not None]
    scales = [tensor for state in states + nested for tensor in (state.absmax, state.code)]
    return sum(tensor.numel() * tensor.element_size() for tensor in (*frozen, *scales)) / 2**20
