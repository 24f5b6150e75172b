"""Decoding many texts at once, of any length, each in a slot of one memory that is laid out at the beginning.

    slot 0   p p p p p o o o .        p: keys and values of the prompt       o: of the output so far
    slot 1   p p o o o o . . .        .: free
    slot 2   p p p p o . . . .        a step appends one token to every slot

Prompts enter packed (no padding; what several begin with is computed once), a step computes one token of every slot, and
nothing is allocated for the past. A text that has ended leaves its slot to the last one, so slots in use lie together.

Shapes: T tokens of a packed row, N slots in use of B, S places of a slot, H query heads, K key/value heads, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .alone import ALONE_AFTER, Alone
from .attention_products import attend_step

# Types of rotary frequencies that stay as they are however long a text grows; of the others, texts cannot share a step.
STEADY_ROPE = ("default", "linear", "llama3", "yarn")


def can_decode(model: Any) -> bool:
    """Whether a `NativeLlamaForCausalLM` (without wrapper) can be decoded by slots."""
    spread = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1  # the slots lie on one device
    return bool(
        model.config._attn_implementation == "sdpa" and model.model.rotary_emb.rope_type in STEADY_ROPE and not spread
    )


class Slots:
    """Keys and values of every layer, [B, K, S, C] each, and what the pass at hand reads and writes of them."""

    def __init__(self, config: Any, rows: int, places: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (rows, config.num_key_value_heads, places, config.head_dim)
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.rows, self.places = rows, places
        self._heads = torch.arange(shape[1], device=device)
        self._source: Tensor | None = None
        self._target = torch.empty(0)
        self._mask: Tensor | None = None
        self._used = self._seen = 0

    def expect(self, tokens: Tensor, slots: Tensor, places: Tensor) -> None:
        """The next pass is a packed row whose `tokens` [M] belong to these slots and places; one may belong to several."""
        self._source, self._target = tokens, self._index(slots, places)

    def expect_step(self, places: Tensor, longest: int) -> None:
        """The next pass adds one token to each of the first N slots, at `places` [N], of which `longest` is the greatest."""
        self._source, self._target = None, self._index(torch.arange(len(places), device=places.device), places)
        self._used, self._seen = len(places), longest + 1
        steps = torch.arange(self._seen, device=places.device)
        self._mask = (steps <= places[:, None])[:, None, None] if self._used > 1 else None

    def write(self, layer: int, k_XTKC: Tensor, v_XTKC: Tensor) -> None:
        """Keep the keys and values of the pass at hand."""
        for memory, new in ((self.keys[layer], k_XTKC), (self.values[layer], v_XTKC)):
            rows = new.flatten(0, 1) if self._source is None else new[0].index_select(0, self._source)
            memory.view(-1, memory.shape[-1]).index_copy_(0, self._target, rows.flatten(0, 1))

    def attend(self, layer: int, q_N1HC: Tensor, scaling: float) -> Tensor:
        """Of each slot's newest token to all of its text, [N, 1, H, C]."""
        k, v = (memory[layer][: self._used, :, : self._seen] for memory in (self.keys, self.values))
        return attend_step(q_N1HC.transpose(1, 2), k, v, self._mask, scaling).transpose(1, 2)

    def append(self, place: int, layer: int, k_1K1C: Tensor, v_1K1C: Tensor) -> tuple[Tensor, Tensor]:
        """Keep a token of the first slot at `place`; the keys and values of its text so far, [1, K, S, C]."""
        k, v = self.keys[layer][:1], self.values[layer][:1]
        k[:, :, place], v[:, :, place] = k_1K1C[:, :, 0], v_1K1C[:, :, 0]
        return k[:, :, : place + 1], v[:, :, : place + 1]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` places of one slot to another."""
        for memory in (*self.keys, *self.values):
            memory[target, :, :length] = memory[source, :, :length]

    def _index(self, slots: Tensor, places: Tensor) -> Tensor:
        """Rows of [B K S] that hold these places of these slots, heads innermost."""
        heads = slots[:, None] * len(self._heads) + self._heads
        return (heads * self.places + places[:, None]).flatten()


class Decoder:
    """A model with its slots: `enter` prompts, `step` all, `leave`. Evaluation mode; call it under inference_mode. The weights
    must not change meanwhile."""

    def __init__(self, model: Any, rows: int, places: int) -> None:
        self.model = model
        self.device = model.model.embed_tokens.weight.device
        dtype = model.model.norm.weight.dtype
        self.slots = Slots(model.config, rows, places, dtype, self.device)
        probe = torch.empty(0, dtype=dtype, device=self.device)
        self.rotary = model.model.rotary_emb(probe, torch.arange(places, device=self.device)[None])
        self.layers = list(model.model.layers[: model.config.num_hidden_layers])
        self.lengths: list[int] = []  # places taken of each slot in use
        self._steps_alone = 0  # of a single text, in all
        self._alone: Alone | None = None

    @property
    def free(self) -> int:
        """Slots that prompts can enter."""
        return self.slots.rows - len(self.lengths)

    def enter(self, inputs: dict[str, Any], texts: Sequence[Sequence[tuple[int, int]]], last: Sequence[int]) -> Tensor:
        """Take in packed prompts, each into the next free slot; the logits [M, V] that follow each.

        Args:
            inputs: of the model's forward, a packed row of T tokens.
            texts: of each prompt its spans [start, end) of the row, in reading order (a shared prefix, then its own).
            last: of each prompt its last token in the row.
        """
        first = len(self.lengths)
        tokens = [torch.cat([torch.arange(*span) for span in spans]) for spans in texts]
        self.lengths += [len(text) for text in tokens]
        slots = torch.repeat_interleave(torch.arange(first, len(self.lengths)), torch.tensor([len(t) for t in tokens]))
        places = torch.cat([torch.arange(len(text)) for text in tokens])
        self.slots.expect(*(x.to(self.device) for x in (torch.cat(tokens), slots, places)))
        at = torch.tensor(last, device=self.device)
        return self.model(**inputs, slots=self.slots, logits_to_keep=at).logits[0]

    def step(self, ids_N: Tensor) -> Tensor:
        """Append a token to each slot in use; the logits [N, V] that follow."""
        if len(self.lengths) == 1:
            self._steps_alone += 1
            if self._steps_alone == ALONE_AFTER:
                self._alone = Alone.of(self.model)
            if self._alone:
                return self._step_alone(self._alone, ids_N)
        places = torch.tensor(self.lengths, device=self.device)
        self.slots.expect_step(places, max(self.lengths))
        self.lengths = [length + 1 for length in self.lengths]
        body = self.model.model
        hidden = body.embed_tokens(ids_N)[:, None]
        cos, sin = (table[0, places][:, None] for table in self.rotary)
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=(cos, sin), slots=self.slots)
        logits: Tensor = self.model.project_to_vocabulary(body.norm(hidden))
        return logits[:, 0]

    def _step_alone(self, alone: Alone, ids_1: Tensor) -> Tensor:
        place = self.lengths[0]
        self.lengths[0] += 1
        cos, sin = (table[0, place] for table in self.rotary)
        remember = partial(self.slots.append, place)
        return alone.step(self.model.model.embed_tokens(ids_1), cos, sin, remember)

    def leave(self, slot: int) -> None:
        """Free a slot; the last one in use takes its place (and number)."""
        last = len(self.lengths) - 1
        if slot != last:
            self.slots.move(last, slot, self.lengths[last])
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()
