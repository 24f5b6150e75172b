"""What a recipe's `clean` section asks: the steps, row by row (`steps`), and the shapes of personal data (`redact`)."""

from __future__ import annotations

from llama_tasks.clean.steps import (
    Cleaning,
    asks,
    by_row,
    clean_piece,
    clean_splits,
    clean_texts,
    hook_parts,
    hook_sha256,
    told,
)

__all__ = [
    "Cleaning",
    "asks",
    "by_row",
    "clean_piece",
    "clean_splits",
    "clean_texts",
    "hook_parts",
    "hook_sha256",
    "told",
]
