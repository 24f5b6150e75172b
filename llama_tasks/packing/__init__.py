"""Tokens -> Batch: no padding, no prefix twice (`batches`); which batch when: of an epoch (`plan`), of a stream (`stream_plan`)."""

from __future__ import annotations

from llama_tasks.packing.batches import Batch, Family, collate, pack

__all__ = [
    "Batch",
    "Family",
    "collate",
    "pack",
]
