"""Which texts and rows say the same: two texts nearly (`near`), rows within and between splits (`overlap`)."""

from __future__ import annotations

from llama_tasks.duplicates.near import near_duplicate_groups, normalised

__all__ = [
    "near_duplicate_groups",
    "normalised",
]
