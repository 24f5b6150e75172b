"""Causal attention of a rectangle of documents, by whichever way is fastest on the device.

torch's fused attention (SDPA) is the rule. In training on CPUs it is slow in its backward pass, which makes every weight again
by many small products. Two kinds of processor write the scores out instead, as products that all heads and documents share:

- those that multiply bfloat16 in hardware, in bfloat16: SDPA's backward pass took 6 to 9 times as long (documents of 44
  tokens), 2 to 3 times at 460. The scores of a document are one product, in the precision of transformers' eager attention:
  products in bfloat16, softmax over float32 sums.
- AMD processors without AVX-512, in float32, for documents of 128 to 768 tokens: 0.62 to 0.75 of SDPA's time. Queries go in
  blocks, so that most of what no query sees is never computed, and all weights are kept for the backward pass:

        queries  0-63      ->  keys 0-63
                 64-127    ->  keys 0-127
                 128-191   ->  keys 0-191

On an x86 processor without AVX-512, slow in half precision, what is trained in it and the steps of our own decoding are computed
in float32 and rounded: a step of one text (40 to 1,000 tokens) took 0.2 to 0.5 of the time.

Shapes: N documents, L query and S key slots, H query heads, K key/value heads of G = H / K queries, C channels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .gradients import first_only, is_transformed
from .products import is_amd_without_avx512, widened, widens

LONGEST = 1024  # keys, in bfloat16; beyond, the scores of a document would be the largest thing in memory
KEPT = 256  # keys, in bfloat16; beyond, the backward pass makes the weights again instead of keeping them
BLOCK = 64  # queries, in float32; 48 to 96 take the same time
IN_BLOCKS = range(128, 769)  # queries, in float32; below, blocks gain nothing, above, weights are too large to keep


def causal_attention(
    q_NLHC: Tensor, k_NSKC: Tensor, v_NSKC: Tensor, mask: Tensor | None, scaling: float, dropout: float
) -> Tensor:
    """[N, L, H, C]. `mask` bool [N, 1, L, S] says who is seen; None (then S = L): everyone not later."""
    if widens(q_NLHC) and _learns(q_NLHC):
        out_NLHC = causal_attention(q_NLHC.float(), k_NSKC.float(), v_NSKC.float(), mask, scaling, dropout)
        return out_NLHC.to(q_NLHC.dtype)
    if dropout == 0.0 and (block := _block(q_NLHC, k_NSKC.shape[1], mask)):
        return _Products.apply(q_NLHC, k_NSKC, v_NSKC, mask, scaling, block)
    if mask is not None and q_NLHC.is_cuda:
        k_NSKC, v_NSKC = (each_query_its_own(x, q_NLHC.shape[2]) for x in (k_NSKC, v_NSKC))
    out_NLHC = F.scaled_dot_product_attention(
        q_NLHC.transpose(1, 2), k_NSKC.transpose(1, 2), v_NSKC.transpose(1, 2), attn_mask=mask, dropout_p=dropout,
        is_causal=mask is None, scale=scaling, enable_gqa=q_NLHC.shape[2] != k_NSKC.shape[2],
    )  # fmt: skip
    return out_NLHC.transpose(1, 2)


def each_query_its_own(x_NSKC: Tensor, heads: int) -> Tensor:
    """Keys or values repeated for each query head that shares them, [N, S, H, C]. With a mask, none of torch's fused kernels on a
    GPU takes fewer heads of keys than of queries, and the way that is left holds all scores."""
    return x_NSKC.repeat_interleave(heads // x_NSKC.shape[2], dim=2)


def attend_step(q_NH1C: Tensor, k_NKSC: Tensor, v_NKSC: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Of one token of each text to all of it, [N, H, 1, C]; `mask` bool [N, 1, 1, S] says what is seen (None: everything)."""
    q, k, v = widened(q_NH1C), widened(k_NKSC), widened(v_NKSC)
    if q.is_cuda:
        return of_shared_keys(q, k, v, mask, scaling)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
    return out.to(q_NH1C.dtype)


def of_shared_keys(q_NH1C: Tensor, k_NKSC: Tensor, v_NKSC: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """The same with the queries that share keys as rows beside each other, [N, K, G, C]: as many heads as keys have, which the
    fused kernels of a GPU take with a mask too, and nothing is repeated."""
    q_NKGC = q_NH1C.view(len(q_NH1C), k_NKSC.shape[1], -1, q_NH1C.shape[-1])
    return F.scaled_dot_product_attention(q_NKGC, k_NKSC, v_NKSC, attn_mask=mask, scale=scaling).reshape(q_NH1C.shape)


def weights_kept(length: int) -> int:
    """Float32 weights of each head that training keeps of a row of so many tokens, where this CPU computes them in blocks."""
    if length not in IN_BLOCKS or not is_amd_without_avx512():
        return 0
    return sum((end - start) * end for start, end in _spans(length, BLOCK))


def _block(q_NLHC: Tensor, n_keys: int, mask: Tensor | None) -> int:
    """Queries of a block, or 0 where SDPA is the faster way."""
    if q_NLHC.device.type != "cpu" or torch.compiler.is_compiling() or is_transformed():
        return 0
    length = q_NLHC.shape[1]
    if _multiplies_bfloat16(q_NLHC):
        return length if n_keys <= LONGEST else 0
    gains = mask is None and length in IN_BLOCKS and is_amd_without_avx512()
    return BLOCK if gains and q_NLHC.dtype == torch.float32 and _learns(q_NLHC) else 0


def _learns(x: Tensor) -> bool:
    """Without a gradient SDPA is as fast, and gives the bits that transformers' LLaMA gives."""
    return x.requires_grad and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def _multiplies_bfloat16(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and _cpu_multiplies_bfloat16()


@cache
def _cpu_multiplies_bfloat16() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.12
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _spans(length: int, block: int) -> list[tuple[int, int]]:
    """The first query of each block, and the one behind its last."""
    return [(start, min(length, start + block)) for start in range(0, length, block)]


class _Products(torch.autograd.Function):
    """w = softmax(scale q k^T), o = w v;   dv = w^T do,  ds = w (do v^T - sum(w do v^T)),  dq = scale ds k,  dk = scale ds^T q.

    Every matrix is [N K, L G or S, ...], of a block its rows and the keys that it sees: queries that share keys are rows of
    one product, and no key is repeated.
    """

    @staticmethod
    def forward(
        ctx: Any, q_NLHC: Tensor, k_NSKC: Tensor, v_NSKC: Tensor, mask: Tensor | None, scaling: float, block: int
    ) -> Tensor:
        (n, length, _, channels), (_, n_keys, heads, _) = q_NLHC.shape, k_NSKC.shape
        q = _rows(q_NLHC, heads, scaling)
        k, v = (x.transpose(1, 2).reshape(n * heads, n_keys, channels) for x in (k_NSKC, v_NSKC))
        out_NLHC = torch.empty_like(q_NLHC, memory_format=torch.contiguous_format)
        kept: list[Tensor] = []
        for start, end in _spans(length, block):
            weights = _weights(q, k, mask, (n, heads, length), start, end)
            out = torch.bmm(weights, v[:, : weights.shape[-1]])
            _by_keys(out_NLHC, heads)[:, :, start:end] = out.view(n, heads, end - start, -1, channels)
            if block < length or n_keys <= KEPT:
                kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.shape, ctx.mask, ctx.scaling, ctx.block = (n, heads, length), mask, scaling, block
        return out_NLHC

    @staticmethod
    @first_only
    def backward(ctx: Any, grad_NLHC: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        n, heads, length = ctx.shape
        groups, channels = q.shape[1] // length, q.shape[2]
        grad = _rows(grad_NLHC, heads)
        dq_NLHC = torch.empty_like(grad_NLHC, memory_format=torch.contiguous_format)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for i, (start, end) in enumerate(_spans(length, ctx.block)):
            weights = kept[i] if i < len(kept) else _weights(q, k, ctx.mask, ctx.shape, start, end)
            rows, seen = slice(start * groups, end * groups), slice(weights.shape[-1])
            dv[:, seen].baddbmm_(weights.transpose(1, 2), grad[:, rows])
            ds = torch.bmm(grad[:, rows], v[:, seen].transpose(1, 2))
            torch._softmax_backward_data(ds, weights, -1, weights.dtype, grad_input=ds)
            dq = torch.bmm(ds, k[:, seen]).view(n, heads, end - start, groups, channels)
            torch.mul(dq, ctx.scaling, out=_by_keys(dq_NLHC, heads)[:, :, start:end])
            dk[:, seen].baddbmm_(ds.transpose(1, 2), q[:, rows])
        dk_NSKC, dv_NSKC = (x.view(n, heads, -1, channels).transpose(1, 2) for x in (dk, dv))
        return dq_NLHC, dk_NSKC, dv_NSKC, None, None, None


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, shape: tuple[int, int, int], start: int, end: int) -> Tensor:
    """Softmax of the scores of what the queries from `start` to `end` see, [N K, (end - start) G, S or `end` keys]."""
    n, heads, length = shape
    groups = q.shape[1] // length
    seen = end if mask is None else k.shape[1]
    scores = torch.bmm(q[:, start * groups : end * groups], k[:, :seen].transpose(1, 2))
    slots = scores.view(n, heads, end - start, groups, seen)
    if mask is None:
        later = torch.full((end - start, end - start), -torch.inf, dtype=q.dtype).triu(1)
        slots[..., start:] += later[:, None]
    else:
        slots.masked_fill_(~mask[:, :, start:end, None], -torch.inf)
    return torch.softmax(scores, -1, out=scores)


def _rows(x_NLHC: Tensor, heads: int, scaling: float = 1.0) -> Tensor:
    """A copy, times `scaling`, in which queries that share keys are rows of one matrix: [N K, L G, C]."""
    found = _by_keys(x_NLHC, heads)
    rows = torch.mul(found, scaling, out=torch.empty(found.shape, dtype=found.dtype))
    return rows.view(found.shape[0] * heads, -1, found.shape[-1])


def _by_keys(x_NLHC: Tensor, heads: int) -> Tensor:
    """The same memory as [N, K, L, G, C]."""
    return x_NLHC.unflatten(2, (heads, -1)).transpose(1, 2)
