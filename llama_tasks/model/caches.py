"""What transformers calls the cache of keys and values: `cache` from 5.24 on, `past_key_values` before. Here it is `cache`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg

#: The word of the transformers that is installed, for arguments and outputs.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"

Forward = TypeVar("Forward", bound=Callable[..., Any])


def takes_cache(forward: Forward) -> Forward:
    """Let a function with a parameter `cache` be called by both words; its signature has that of the installed transformers."""
    if CACHE == "cache":
        renamed: Forward = deprecate_kwarg("past_key_values", version="5.40.0", new_name="cache")(forward)
        return renamed

    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        if CACHE in kwargs:
            kwargs["cache"] = kwargs.pop(CACHE)
        return forward(*args, **kwargs)

    signature = inspect.signature(forward)
    named = [p.replace(name=CACHE) if p.name == "cache" else p for p in signature.parameters.values()]
    called: Any = call
    called.__signature__ = signature.replace(parameters=named)
    by_both: Forward = called
    return by_both


def is_paged(cache: Any) -> bool:
    """Whether it is the cache of continuous batching (`generate_batch`)."""
    return isinstance(cache, PagedAttentionCache)


def remember(cache: Any, k: Tensor, v: Tensor, layer_idx: int, attend_with: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Keys and values [B, K, S, C] of all that is seen: those of the cache, if there is one, and behind them the new [B, K, T, C].
    It may change the keywords `attend_with` of the attention that follows, from 5.24 on; before, that wrote to a paged one."""
    if cache is None:
        return k, v
    seen: tuple[Tensor, Tensor]
    if CACHE == "cache":
        seen = cache.update(k, v, layer_idx, kwargs=attend_with)
    elif is_paged(cache):
        attend_with["cache"] = cache
        seen = k, v
    else:
        seen = cache.update(k, v, layer_idx)
    return seen
