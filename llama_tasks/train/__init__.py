"""The training loop (`loop`) and its parts: `optimizers`, learning from a teacher (`distillation`), noise (`perturbation`)."""

from __future__ import annotations

from llama_tasks.train.loop import SKIPS, NonFiniteLoss, StepReport, Training

__all__ = [
    "SKIPS",
    "NonFiniteLoss",
    "StepReport",
    "Training",
]
