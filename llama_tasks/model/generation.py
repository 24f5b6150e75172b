"""What transformers' `generate` gets from the native model beside its forward: a cache with room, and a short step for one text.

    room    k k k k k . . . .        keys [B, K, S, C] of a layer; `keys` is the view of those that are there

transformers' dynamic cache copies the whole past for every token; here a token is written behind it, and the past is copied only
when the room is full, or when the past is not what was written last (beams in another order, a draft that was refused).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticCache, StaticLayer

from .alone import ALONE_AFTER, Alone
from .caches import CACHE

LEAST = 256  # tokens of room beyond those at hand; a quarter of them where that is more


class _Room:
    """Memory [B, K, S, C] of which the first `filled` places have been written. Never are they written again: a cache that was
    cropped, or copied without its tensors, finds the places behind its own taken, and moves out."""

    def __init__(self, past: Tensor, new: Tensor) -> None:
        self.filled = past.shape[-2] if past.numel() else 0
        end = self.filled + new.shape[-2]
        self.memory = new.new_empty(*new.shape[:2], end + max(LEAST, end // 4), new.shape[-1])
        if self.filled:
            self.memory[:, :, : self.filled] = past

    def holds(self, past: Tensor, more: int) -> bool:
        """Whether `past` is what has been written here, and `more` places are free."""
        if self.memory.is_inference() and not torch.is_inference_mode_enabled():
            return False
        same = past.data_ptr() == self.memory.data_ptr() and past.shape[:2] == self.memory.shape[:2]
        return same and past.shape[-2] == self.filled and self.filled + more <= self.memory.shape[-2]

    def add(self, new: Tensor) -> Tensor:
        """Write behind what is there; the view of all of it."""
        end = self.filled + new.shape[-2]
        self.memory[:, :, self.filled : end] = new
        self.filled = end
        return self.memory[:, :, :end]


_Place: TypeAlias = tuple[int, torch.Size]


def _place(x: Tensor) -> _Place:
    """Where a tensor lies, and its shape."""
    return x.data_ptr(), x.shape


class RoomyLayer(DynamicLayer):
    """A layer of transformers' dynamic cache that does not copy the past for every token."""

    # Beside `__dict__`, which transformers' exporters take for the cache, and make a layer of without `__init__`.
    __slots__ = ("_last", "_rooms")
    keys: Tensor
    values: Tensor
    _rooms: list[_Room | None]
    _last: list[_Place | None]  # what was given out last of keys and of values

    def __new__(cls, *args: Any, **kwargs: Any) -> RoomyLayer:
        layer = super().__new__(cls)
        layer._rooms, layer._last = [None, None], [None, None]
        return layer

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, S, C] with the new ones [B, K, T, C] behind them."""
        # A gradient, be it of queries alone, needs tensors that stay as they are; what is traced has no memory to compare.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or type(key_states) is not Tensor:
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._add(0, self.keys, key_states), self._add(1, self.values, value_states)
        as_base: DynamicLayer = self  # whose attributes they are; `__slots__` names this class's own alone
        as_base.keys, as_base.values = keys, values
        return keys, values

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._rooms, self._last = [None, None], [None, None]

    def _add(self, which: int, past: Tensor, new: Tensor) -> Tensor:
        room = self._rooms[which]
        if room is None or not room.holds(past, new.shape[-2]):
            # Room is for a past that grows; one that is replaced at each step (beams) would be given it each time.
            grows = past.numel() == 0 or self._last[which] == _place(past)
            room = self._rooms[which] = _Room(past, new) if grows else None
        seen = torch.cat((past, new), dim=-2) if room is None else room.add(new)
        self._last[which] = _place(seen)
        return seen


def make_room(cache: Any) -> None:
    """Give a new dynamic cache layers with room."""
    if type(cache) is DynamicCache and not cache.offloading:
        fresh = [type(layer) is DynamicLayer and not layer.is_initialized for layer in cache.layers]
        cache.layers = [RoomyLayer() if new else layer for new, layer in zip(fresh, cache.layers, strict=True)]


class NativeGenerationMixin(GenerationMixin):
    """transformers' generation with both."""

    _lone: LoneText | None = None

    def short_step(self, *asked: Any) -> Tensor | None:
        """Logits [1, 1, V] of a step within `generate` that the short way can do (`LoneText.step`), else None."""
        lone = self._lone  # read once: another thread's `generate` may end
        return None if lone is None or torch.compiler.is_compiling() else lone.step(*asked)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As transformers has it; a dynamic cache that is made here has room to grow into."""
        given = model_kwargs.get(CACHE)
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if given is None:
            make_room(model_kwargs.get(CACHE))

    @contextmanager
    def _optimize_model_for_decode(self) -> Iterator[None]:
        """Around the steps of `generate`, by transformers' name: a single text has a shorter way."""
        with super()._optimize_model_for_decode():
            # Elsewhere nothing is asked of a step: whether a mask hides something would be a wait for the device.
            self._lone = LoneText(self) if Alone.gains(self) else None
            try:
                yield
            finally:
                self._lone = None


class LoneText:
    """One text of `generate` on the CPU, token by token, by `alone` from its eighth step on; dropped when `generate` returns."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.steps = 0
        self.alone: Alone | None = None

    def step(
        self,
        input_ids: Tensor | None,
        attention_mask: Any,
        position_ids: Tensor | None,
        cache: Any,
        others: dict[str, Any],
    ) -> Tensor | None:
        """Logits [1, 1, V] behind the one token of `input_ids` [1, 1]; None where the model has to run as always."""
        if input_ids is None or input_ids.shape != (1, 1) or not self._is_plain(attention_mask, cache, others):
            return None
        self.steps += 1
        if self.steps == ALONE_AFTER:
            self.alone = Alone.of(self.model)
        if self.alone is None or not self.alone.is_current():
            return None
        body = self.model.model
        hidden = body.embed_tokens(input_ids[0])
        place = int(cache.get_seq_length())
        if position_ids is None:
            position_ids = torch.tensor([[place]])
        cos, sin = (table[0, 0] for table in body.rotary_emb(hidden, position_ids=position_ids))

        def remember(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = cache.update(k, v, layer)
            return keys[:, :, : place + 1], values[:, :, : place + 1]  # of a static cache, those that are there

        return self.alone.step(hidden, cos, sin, remember)[None]

    def _is_plain(self, attention_mask: Any, cache: Any, others: dict[str, Any]) -> bool:
        model, config = self.model, self.model.config
        if model.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return False
        if config._attn_implementation != "sdpa" or config.output_attentions or config.output_hidden_states:
            return False
        if any(value is not None and value is not False for value in others.values()):
            return False
        return _remembers_all(cache) and (attention_mask is None or _sees_all(attention_mask, cache))


def _remembers_all(cache: Any) -> bool:
    """A dynamic or static cache of the whole past, here and in full precision."""
    if type(cache) not in (DynamicCache, StaticCache) or cache.offloading:
        return False
    return all(type(layer) in (DynamicLayer, RoomyLayer, StaticLayer) for layer in cache.layers)


def _sees_all(mask: Any, cache: Cache) -> bool:
    """Whether the mask of one token, [1, S], or [1, 1, 1, S] as `generate` makes it for a static cache, hides none of the past."""
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        return False
    if mask.dim() == 2:
        return bool(mask.all())
    seen = int(cache.get_seq_length()) + 1
    return mask.dtype == torch.bool and bool(mask[..., :seen].all()) and not bool(mask[..., seen:].any())
