"""What a run will need, told before a weight is loaded: the formulas (`needs`), the machine (`devices`), the table (`planning`)."""

from __future__ import annotations

from llama_tasks.estimate.needs import (
    HELD,
    Batch,
    check,
    flops_per_step,
    largest_batch,
    memory,
    seconds,
    shape_of,
    state_bytes,
)

__all__ = [
    "HELD",
    "Batch",
    "check",
    "flops_per_step",
    "largest_batch",
    "memory",
    "seconds",
    "shape_of",
    "state_bytes",
]
