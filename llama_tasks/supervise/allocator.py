"""Memory that tensors left goes back to the system between the parts of a run, which differ in the sizes of their blocks: else
what one part has left lies beside what the next one needs."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import cache

import torch


def give_back() -> None:
    """Free what nothing refers to; torch's cache on a GPU, and the free pages of glibc's heap, wherever in it they lie."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's own; None where the C library is another."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim
