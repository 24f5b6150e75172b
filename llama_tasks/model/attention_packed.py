"""Attention for packed batches: many documents in one row `[1, T]`, none padded, none seeing another.

The linear layers run on the packed row. Only attention looks at documents, and for it the tokens are laid out once more
as rectangles, one document a row, documents of like length together:

    packed    a0 a1 a2 b0 c0 c1 c2 c3 d0          cu_seq_lens = [0, 3, 4, 8, 9]

    padded    b0            a0 a1 a2 a2           slots beyond a document's end repeat its last token
              d0            c0 c1 c2 c3

A slot beyond the end stands to the right of every real token of its row, so causal attention never reads it and needs
no mask; what it computes is dropped on the way back. The indices are built once per forward and shared by all layers.

Shapes: T tokens of the row, P padded slots, N documents, L longest document, H query heads, K key/value heads,
C channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def document_bounds(cu_seq_lens: Tensor, n_tokens: int) -> Tensor:
    """`cu_seq_lens` int [n_docs + 1] as int64 on the CPU.

    Raises ValueError unless it begins with 0, never falls and ends with `n_tokens`.
    """
    bounds = cu_seq_lens.cpu().long()
    if bounds[0] != 0 or bounds[-1] != n_tokens or (bounds.diff() < 0).any():
        raise ValueError(f"cu_seq_lens must rise from 0 to the row's {n_tokens} tokens, got {bounds.tolist()}")
    return bounds


def packed_positions(bounds: Tensor) -> Tensor:
    """Positions that restart at 0 with every document, int64 [1, T]."""
    first_T = torch.repeat_interleave(bounds[:-1], bounds.diff())
    return (torch.arange(len(first_T)) - first_T).unsqueeze(0)


@dataclass(frozen=True)
class PackedLayout:
    """Where every token of a packed row stands in the padded rectangles, and back."""

    rectangles: tuple[tuple[int, int], ...]  # (documents, length) of each
    token_of_slot_P: Tensor
    slot_of_token_T: Tensor

    @classmethod
    def build(cls, bounds: Tensor, device: torch.device) -> PackedLayout:
        """Lay out the documents between `bounds`, as `document_bounds` gives them, with indices on `device`."""
        lengths = bounds.diff()
        rectangles, tokens = [], []
        slot_of_token = torch.empty(int(bounds[-1]), dtype=torch.long)
        n_slots = 0
        for documents in _like_lengths(lengths):
            starts_N1, lengths_N1 = bounds[documents, None], lengths[documents, None]
            n_documents, length = len(documents), int(lengths_N1.max())
            step_L = torch.arange(length)
            tokens_NL = starts_N1 + torch.minimum(step_L, lengths_N1 - 1)
            slots_NL = n_slots + torch.arange(n_documents * length).view(n_documents, length)
            real_NL = step_L < lengths_N1
            slot_of_token[tokens_NL[real_NL]] = slots_NL[real_NL]
            rectangles.append((n_documents, length))
            tokens.append(tokens_NL.flatten())
            n_slots += n_documents * length
        return cls(tuple(rectangles), torch.cat(tokens).to(device), slot_of_token.to(device))


def _like_lengths(lengths: Tensor) -> list[Tensor]:
    """Group the indices of non-empty documents by half octaves: in a group, lengths differ by less than a factor 1.42.

    Measured on one core: finer groups gain nothing, one group costs half as much again (20-100 tokens a document) to
    twice as much (10-500).
    """
    half_octave = torch.ceil(2 * torch.log2(lengths.clamp(min=1).double()))
    half_octave[lengths == 0] = -1
    return [(half_octave == value).nonzero().flatten() for value in half_octave.unique().tolist() if value >= 0]


class _Pad(torch.autograd.Function):
    """Packed rows [T, ...] -> padded rows [P, ...].

    The gradient of a slot beyond a document's end is exactly zero, so backward is a gather and not a slow scatter-add.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, token_of_slot: Tensor, slot_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of_token)
        return rows.index_select(0, token_of_slot)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """Padded rows [P, ...] -> packed rows [T, ...]; slots beyond a document's end get zero gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slot_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of_token)
        ctx.n_slots = rows.shape[0]
        return rows.index_select(0, slot_of_token)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        padded = grad.new_zeros(ctx.n_slots, *grad.shape[1:])
        return padded.index_copy_(0, ctx.saved_tensors[0], grad), None


def packed_attention(
    q_1THC: Tensor, k_1TKC: Tensor, v_1TKC: Tensor, layout: PackedLayout, *, scaling: float, dropout: float = 0.0
) -> Tensor:
    """Causal attention within each document of a packed row; returns [1, T, H, C]."""
    sizes = [documents * length for documents, length in layout.rectangles]
    q, k, v = (
        _Pad.apply(x.squeeze(0), layout.token_of_slot_P, layout.slot_of_token_T).split(sizes)
        for x in (q_1THC, k_1TKC, v_1TKC)
    )
    grouped = q_1THC.shape[2] != k_1TKC.shape[2]
    outputs = []
    for i, (documents, length) in enumerate(layout.rectangles):
        q_NHLC, k_NKLC, v_NKLC = (x[i].unflatten(0, (documents, length)).transpose(1, 2) for x in (q, k, v))
        out_NHLC = F.scaled_dot_product_attention(
            q_NHLC, k_NKLC, v_NKLC, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        outputs.append(out_NHLC.transpose(1, 2).flatten(0, 1))
    return _Unpad.apply(torch.cat(outputs), layout.slot_of_token_T).unsqueeze(0)
