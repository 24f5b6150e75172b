"""A training of the real loop on a random LLaMA of 64 tokens, and examples for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from llama_tasks import adapters, checkpoint
from llama_tasks.recipe import BaseConfig, TrainConfig
from llama_tasks.tokens import Tokens
from llama_tasks.train import Training

TINY = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
BASE = BaseConfig(config=TINY)
CONFIG = TrainConfig(num_train_epochs=2, tokens_per_batch=60, learning_rate=1e-2, seed=3)
#: One step at the full learning rate.
ONE_STEP = replace(CONFIG, max_steps=1, lr_scheduler_type="constant", warmup_steps=0)
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8}


def examples(count: int = 24) -> list[Tokens]:
    """Random ids of 4 to 29 tokens, two of them the prompt."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 30, (count,), generator=generator).tolist()
    return [
        Tokens(f"train:{i}", torch.randint(3, 64, (n,), generator=generator).tolist(), 2) for i, n in enumerate(lengths)
    ]


def families() -> list[Tokens]:
    """Four passages with five questions each."""
    made = []
    for passage in examples(4):
        stem = (passage.input_ids * 8)[:40]
        made += [Tokens(f"{passage.id}.{q}", [*stem, 3 + q, 9, 20 + q, 2], 42) for q in range(5)]
    return made


def training(
    config: TrainConfig = CONFIG,
    tokens: Sequence[Tokens] | None = None,
    dropout: float = 0.0,
    adapter: dict[str, Any] | None = LORA,
) -> Training:
    """The same weights and random state at every call."""
    set_seed(5)
    fields = None if adapter is None else {**adapter, **({"lora_dropout": dropout} if dropout else {})}
    model = adapters.attach(adapters.load_base(BASE), fields, BASE)
    return Training(model, tokens or examples(), config, Accelerator(), float(config.learning_rate))


def assert_resumes_exactly(folder: Path, stop_at: int, **options: Any) -> None:
    """k steps, save, a fresh process-like start, the rest: byte for byte the undisturbed run."""
    whole = training(**options)
    list(whole.run())
    broken = training(**options)
    for report in broken.run():
        if report.step == stop_at:
            break
    checkpoint.save(folder, broken, {})
    torch.manual_seed(99)
    resumed = training(**options)
    checkpoint.restore(folder / f"step-{stop_at}", resumed)
    assert resumed.step == stop_at
    list(resumed.run())
    expected, found = checkpoint.trained_weights(whole), checkpoint.trained_weights(resumed)
    start = checkpoint.trained_weights(training(**options))
    assert any(not torch.equal(expected[name], start[name]) for name in expected)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
