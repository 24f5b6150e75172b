"""Attention for packed batches: many documents in one row `[1, T]`, none padded, none seeing another.

The linear layers run on the packed row. Only attention looks at documents, and for it the tokens are laid out once more
as rectangles, one document a row, documents of like length together:

    packed    a0 a1 a2 b0 c0 c1 c2 c3 d0          cu_seq_lens = [0, 3, 4, 8, 9]

    padded    b0            a0 a1 a2 a2           slots beyond a document's end repeat its last token
              d0            c0 c1 c2 c3

A slot beyond the end stands to the right of every real token of its row, so causal attention never reads it and needs
no mask; what it computes is dropped on the way back. The indices are built once per forward and shared by all layers.

**Shared prefixes.** A document may continue another one: five questions after one passage are six documents, and the
passage is computed once. `prefix_documents[d]` names the document whose text goes before d (itself perhaps a
continuation), or -1. Such a document attends to all tokens before it in its chain; its rectangle gets key slots of its
own, the whole text from its beginning, and a mask:

    passage   p0 p1 p2                            prefix_documents = [-1, 0, 0]
    queries   q0 q1          keys   p0 p1 p2 q0 q1
              r0 r0                 p0 p1 p2 r0 --

**Few readers.** Of the last layer, training reads only what predicts a target. With `reads` only those tokens ask; the
keys are laid out as above, up to the last of them.

Shapes: T tokens of the row, R of them that are read, P padded slots, N documents, L query and S key slots of each,
H query heads, K key/value heads, C channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from .attention_products import causal_attention
from .gradients import is_transformed

SHARES_PREFIXES = ("sdpa", "eager")  # attention implementations that take documents which continue others


@dataclass(frozen=True)
class Documents:
    """Where the documents of a packed row begin and end, and which one each continues (int64, on the CPU).

    Attributes:
        bounds: [n_docs + 1], from 0 to T.
        prefixes: [n_docs], the index of an earlier document, or -1.
    """

    bounds: Tensor
    prefixes: Tensor

    @classmethod
    def read(cls, cu_seq_lens: Tensor, prefix_documents: Tensor | None, n_tokens: int) -> Documents:
        """From the model's arguments. Raises ValueError unless the boundaries rise from 0 to `n_tokens`, and every
        prefix stands before the document that continues it."""
        bounds = cu_seq_lens.cpu().long()
        if bounds[0] != 0 or bounds[-1] != n_tokens or (bounds.diff() < 0).any():
            raise ValueError(f"cu_seq_lens must rise from 0 to the row's {n_tokens} tokens, got {bounds.tolist()}")
        count = len(bounds) - 1
        if prefix_documents is None:
            return cls(bounds, torch.full((count,), -1))
        prefixes = prefix_documents.cpu().long()
        if len(prefixes) != count or (prefixes >= torch.arange(count)).any() or (prefixes < -1).any():
            raise ValueError(
                f"prefix_documents must name, for each of the {count} documents, one before it or -1, got {prefixes.tolist()}"
            )
        return cls(bounds, prefixes)

    @property
    def lengths(self) -> Tensor:
        """Own tokens of each document."""
        return self.bounds.diff()

    @cached_property
    def apart(self) -> bool:
        """No document continues another."""
        return not bool((self.prefixes >= 0).any())

    @cached_property
    def chains(self) -> list[Tensor]:
        """For each document the indices of all tokens before it in its text, in reading order."""
        chains: list[Tensor] = []
        for prefix in self.prefixes.tolist():
            own = torch.arange(int(self.bounds[prefix]), int(self.bounds[prefix + 1])) if prefix >= 0 else None
            chains.append(torch.empty(0, dtype=torch.long) if own is None else torch.cat((chains[prefix], own)))
        return chains

    def text(self, document: int, length: int) -> Tensor:
        """The first `length` tokens of a document's text, from the beginning of what it continues, as indices."""
        start = int(self.bounds[document])
        if self.apart:
            return torch.arange(start, start + length)
        chain = self.chains[document]
        return torch.cat((chain, torch.arange(start, start + length - len(chain))))

    def positions(self) -> Tensor:
        """Positions that restart at 0 with every document, and go on where it continues another one, int64 [1, T]."""
        before = self.before()
        shift_T = torch.repeat_interleave(before - self.bounds[:-1], self.lengths)
        return (torch.arange(len(shift_T)) + shift_T).unsqueeze(0)

    def before(self) -> Tensor:
        """How many tokens stand before each document in its text, int64 [n_docs]."""
        return torch.zeros_like(self.prefixes) if self.apart else torch.tensor([len(chain) for chain in self.chains])

    def predecessors(self) -> Tensor:
        """The token before each one in its text, which predicts it; -1 at the beginning of a text. int64 [T]"""
        before_T = torch.arange(int(self.bounds[-1])) - 1
        filled = self.lengths > 0
        first = torch.full_like(self.prefixes, -1)
        if not self.apart:
            first = torch.tensor([int(chain[-1]) if len(chain) else -1 for chain in self.chains])
        before_T[self.bounds[:-1][filled]] = first[filled]
        return before_T

    def mask(self) -> Tensor:
        """Who sees whom, bool [1, 1, T, T]; for attention implementations that know no documents."""
        total = int(self.bounds[-1])
        seen_TT = torch.zeros(total, total, dtype=torch.bool)
        spans = zip(self.bounds[:-1].tolist(), self.bounds[1:].tolist(), self.chains, strict=True)
        for start, end, chain in spans:
            seen_TT[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
            seen_TT[start:end, chain] = True
        return seen_TT[None, None]


@dataclass(frozen=True)
class Rectangle:
    """Documents of like length, laid out as rows of L query slots; where not all of a text asks, S key slots besides."""

    documents: int
    length: int
    key_tokens: Tensor | None = None  # [N * S] the tokens of the key slots; None: those of the query slots
    mask: Tensor | None = None  # bool [N, 1, L, S]; None: causal

    def to(self, device: torch.device | str) -> Rectangle:
        """The same with its indices on a device."""
        if self.key_tokens is None or self.mask is None:
            return self
        return Rectangle(self.documents, self.length, self.key_tokens.to(device), self.mask.to(device))


@dataclass(frozen=True)
class PackedLayout:
    """Where each token that asks stands in the padded rectangles, and back; `as_packed`: where it stood (one document, say)."""

    rectangles: tuple[Rectangle, ...]
    query_of_slot_P: Tensor
    slot_of_query_R: Tensor
    as_packed: bool

    def to(self, device: torch.device | str) -> PackedLayout:
        """The same with its indices on a device; layers of a model that is spread over several ask for it."""
        if self.query_of_slot_P.device == torch.device(device):
            return self
        moved = tuple(rectangle.to(device) for rectangle in self.rectangles)
        return PackedLayout(moved, self.query_of_slot_P.to(device), self.slot_of_query_R.to(device), self.as_packed)

    @classmethod
    def build(cls, documents: Documents, device: torch.device, reads: Tensor | None = None) -> PackedLayout:
        """Lay out the documents, with indices on `device`. `reads` int64 [R], rising: the tokens that ask (all: None)."""
        bounds, before = documents.bounds, documents.before()
        token_of_query = torch.arange(int(bounds[-1])) if reads is None else reads.cpu()
        starts = torch.searchsorted(token_of_query, bounds)  # of each document, among the queries
        counts = starts.diff()
        ends = before + token_of_query[starts[1:].clamp(min=1) - 1] + 1 - bounds[:-1]  # of each text, at its last query
        rectangles, queries = [], []
        slot_of_query = torch.empty(len(token_of_query), dtype=torch.long)
        n_slots = 0
        for members in _alike(counts, ends - counts):
            counts_N1, length = counts[members, None], int(counts[members].max())
            step_L = torch.arange(length)
            query_NL = starts[members, None] + torch.minimum(step_L, counts_N1 - 1)
            slots_NL = n_slots + torch.arange(len(members) * length).view(len(members), length)
            real_NL = step_L < counts_N1
            slot_of_query[query_NL[real_NL]] = slots_NL[real_NL]
            rectangle = Rectangle(len(members), length)
            if not documents.apart or reads is not None:
                order_NL = (before - bounds[:-1])[members, None] + token_of_query[query_NL]
                rectangle = _with_keys(documents, members, order_NL, ends[members], device)
            rectangles.append(rectangle)
            queries.append(query_NL.flatten())
            n_slots += len(members) * length
        query_of_slot = torch.cat(queries)
        as_packed = torch.equal(query_of_slot, torch.arange(len(token_of_query)))
        return cls(tuple(rectangles), query_of_slot.to(device), slot_of_query.to(device), as_packed)


def laid_out(lengths: Tensor) -> Tensor:
    """The query slots that each document of these lengths takes where none continues another, int64 [n_docs]."""
    slots = lengths.clone()
    for members in _alike(lengths, torch.zeros_like(lengths)):
        slots[members] = lengths[members].max()
    return slots


def _with_keys(
    documents: Documents, members: Tensor, order_NL: Tensor, ends: Tensor, device: torch.device
) -> Rectangle:
    """Rows whose queries stand at places `order_NL` of their texts, with the texts up to `ends` as keys."""
    n_documents, length = order_NL.shape
    texts = [documents.text(i, end) for i, end in zip(members.tolist(), ends.tolist(), strict=True)]
    # A slot beyond a text's end lies to the right of its queries, so the causal mask hides it.
    key_tokens_NS = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = torch.arange(key_tokens_NS.shape[1]) <= order_NL[..., None]
    return Rectangle(n_documents, length, key_tokens_NS.flatten().to(device), mask[:, None].to(device))


def _alike(lengths: Tensor, before: Tensor) -> list[Tensor]:
    """Group the indices of documents that ask by half octaves of their queries and of what else they see: in a group,
    they differ by less than a factor 1.42.

    Measured on one core: finer groups gain nothing, one group costs half as much again (20-100 tokens a document) to
    twice as much (10-500).
    """
    kinds = torch.stack((_half_octave(lengths), _half_octave(before)), dim=1)
    groups = kinds[lengths > 0].unique(dim=0)
    return [((kinds == kind).all(1) & (lengths > 0)).nonzero().flatten() for kind in groups]


def _half_octave(counts: Tensor) -> Tensor:
    return torch.where(counts > 0, torch.ceil(2 * torch.log2(counts.clamp(min=1).double())), -1.0)


class _Pad(torch.autograd.Function):
    """Query rows [R, ...] -> padded rows [P, ...].

    The gradient of a slot beyond a document's end is exactly zero, so backward is a gather and not a slow scatter-add.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, query_of_slot: Tensor, slot_of_query: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of_query)
        return rows.index_select(0, query_of_slot)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """Padded rows [P, ...] -> query rows [R, ...]; slots beyond a document's end get zero gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slot_of_query: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of_query)
        ctx.n_slots = rows.shape[0]
        return rows.index_select(0, slot_of_query)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        padded = grad.new_zeros(ctx.n_slots, *grad.shape[1:])
        return padded.index_copy_(0, ctx.saved_tensors[0], grad), None


def packed_attention(
    q_1RHC: Tensor, k_1TKC: Tensor, v_1TKC: Tensor, layout: PackedLayout, *, scaling: float, dropout: float = 0.0
) -> Tensor:
    """Causal attention within each document of a packed row, and to what it continues; returns [1, R, H, C]."""
    layout = layout.to(q_1RHC.device)
    sizes = [rectangle.documents * rectangle.length for rectangle in layout.rectangles]

    def padded(row_1RXC: Tensor) -> tuple[Tensor, ...]:
        row_RXC = row_1RXC.squeeze(0)
        if layout.as_packed:
            return row_RXC.split(sizes)
        if is_transformed():
            return row_RXC.index_select(0, layout.query_of_slot_P).split(sizes)
        return _Pad.apply(row_RXC, layout.query_of_slot_P, layout.slot_of_query_R).split(sizes)

    plain = layout.rectangles[0].key_tokens is None  # of one layout, all are plain or none is
    q = padded(q_1RHC)
    k, v = (padded(k_1TKC), padded(v_1TKC)) if plain else ((k_1TKC,) * len(sizes), (v_1TKC,) * len(sizes))
    outputs = []
    for q_P, k_P, v_P, rectangle in zip(q, k, v, layout.rectangles, strict=True):
        shape = (rectangle.documents, rectangle.length)
        if rectangle.key_tokens is None:
            k_NSKC, v_NSKC = k_P.unflatten(0, shape), v_P.unflatten(0, shape)
        else:
            k_NSKC, v_NSKC = _keys_of(k_P, rectangle), _keys_of(v_P, rectangle)
        q_NLHC = q_P.unflatten(0, shape)
        outputs.append(causal_attention(q_NLHC, k_NSKC, v_NSKC, rectangle.mask, scaling, dropout).flatten(0, 1))
    out_PHC = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    if layout.as_packed:
        return out_PHC.unsqueeze(0)
    if is_transformed():
        return out_PHC.index_select(0, layout.slot_of_query_R).unsqueeze(0)
    return _Unpad.apply(out_PHC, layout.slot_of_query_R).unsqueeze(0)


def _keys_of(row_1TKC: Tensor, rectangle: Rectangle) -> Tensor:
    """Keys or values of a rectangle's key slots, [N, S, K, C]."""
    assert rectangle.key_tokens is not None
    # As rows of one dimension: the gradient's sum over slots is then a third faster.
    slots = row_1TKC.squeeze(0).flatten(1).index_select(0, rectangle.key_tokens)
    return slots.view(rectangle.documents, -1, *row_1TKC.shape[2:])


def see_documents(
    config: Any, inputs_embeds: Tensor, position_ids: Tensor | None, cu_seq_lens: Tensor, documents: Documents
) -> tuple[Tensor, dict[str, Any]]:
    """Positions of a packed row, and the layers' keywords that keep its documents apart."""
    device = inputs_embeds.device
    implementation = config._attn_implementation
    if implementation == "sdpa":
        position_ids = documents.positions().to(device) if position_ids is None else position_ids
        return position_ids, {"packed_layout": PackedLayout.build(documents, device)}
    restarting = documents.positions().to(device)
    position_ids = restarting if position_ids is None else position_ids
    if not documents.apart:
        if implementation not in SHARES_PREFIXES:
            raise ValueError(f"prefix_documents needs attn_implementation sdpa or eager, not {implementation}.")
        hidden = ~documents.mask().to(device)
        lowest = torch.finfo(inputs_embeds.dtype).min
        return position_ids, {"attention_mask": hidden.to(inputs_embeds.dtype) * lowest}
    # Flash attention reads the boundaries (all four, or it looks for them in the positions); the others get a mask, found in
    # positions that restart.
    mask = create_causal_mask(config, inputs_embeds, None, None, restarting)
    bounds, longest = cu_seq_lens.to(device, torch.int32), int(documents.lengths.max())
    return position_ids, {
        "attention_mask": mask, "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest,
        "max_length_k": longest,
    }  # fmt: skip
