"""Causal attention of a rectangle of documents, by whichever way is fastest on the device.

torch's fused attention (SDPA) is the rule. On CPUs that multiply bfloat16 in hardware it is slow for it: its backward pass took 6
to 9 times as long as plain batched products (documents of 44 tokens), 2 to 3 times at 460. There, scores are written out, in
the precision of transformers' eager attention: products in bfloat16, softmax over float32 sums.

Shapes: N documents, L query and S key slots, H query heads, K key/value heads of G = H / K queries, C channels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LONGEST = 1024  # keys; beyond, the scores of a document would be the largest thing in memory
KEPT = 256  # keys; beyond, the backward pass makes the weights again instead of keeping them


def causal_attention(
    q_NLHC: Tensor, k_NSKC: Tensor, v_NSKC: Tensor, mask: Tensor | None, scaling: float, dropout: float
) -> Tensor:
    """[N, L, H, C]. `mask` bool [N, 1, L, S] says who is seen; None (then S = L): everyone not later."""
    if dropout == 0.0 and k_NSKC.shape[1] <= LONGEST and _multiplies_bfloat16(q_NLHC):
        return _Products.apply(q_NLHC, k_NSKC, v_NSKC, mask, scaling)
    out_NHLC = F.scaled_dot_product_attention(
        q_NLHC.transpose(1, 2), k_NSKC.transpose(1, 2), v_NSKC.transpose(1, 2), attn_mask=mask, dropout_p=dropout,
        is_causal=mask is None, scale=scaling, enable_gqa=q_NLHC.shape[2] != k_NSKC.shape[2],
    )  # fmt: skip
    return out_NHLC.transpose(1, 2)


def _multiplies_bfloat16(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and _cpu_multiplies_bfloat16()


@cache
def _cpu_multiplies_bfloat16() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.12
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class _Products(torch.autograd.Function):
    """w = softmax(scale q k^T), o = w v;   dv = w^T do,  ds = w (do v^T - sum(w do v^T)),  dq = scale ds k,  dk = scale ds^T q.

    Every matrix is [N K, G L or S, ...]: queries that share keys are rows of one product, and no key is repeated.
    """

    @staticmethod
    def forward(
        ctx: Any, q_NLHC: Tensor, k_NSKC: Tensor, v_NSKC: Tensor, mask: Tensor | None, scaling: float
    ) -> Tensor:
        n, length, _, channels = q_NLHC.shape
        keys = k_NSKC.shape[2]
        q = (
            (q_NLHC * scaling)
            .view(n, length, keys, -1, channels)
            .permute(0, 2, 3, 1, 4)
            .reshape(n * keys, -1, channels)
        )
        k, v = (x.transpose(1, 2).reshape(n * keys, -1, channels) for x in (k_NSKC, v_NSKC))
        ctx.shape, ctx.scaling, ctx.mask = (n, length, keys), scaling, mask
        weights = _weights(q, k, mask, ctx.shape)
        ctx.save_for_backward(q, k, v, weights if k.shape[1] <= KEPT else None)
        return _tokens_first(torch.bmm(weights, v), ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NLHC: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        n, length, keys = ctx.shape
        channels = q.shape[-1]
        weights = _weights(q, k, ctx.mask, ctx.shape) if weights is None else weights
        grad = grad_NLHC.reshape(n, length, keys, -1, channels).permute(0, 2, 3, 1, 4).reshape(n * keys, -1, channels)
        dv = torch.bmm(weights.transpose(1, 2), grad)
        ds = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), weights, -1, weights.dtype)
        dq = _tokens_first(torch.bmm(ds, k).mul_(ctx.scaling), ctx.shape)
        dk = torch.bmm(ds.transpose(1, 2), q)
        dk_NSKC, dv_NSKC = (x.view(n, keys, -1, channels).transpose(1, 2) for x in (dk, dv))
        return dq, dk_NSKC, dv_NSKC, None, None


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    """Softmax of the scores of what is seen, [N K, G L, S]."""
    n, length, keys = shape
    scores = torch.bmm(q, k.transpose(1, 2))
    slots = scores.view(n, keys, -1, length, k.shape[1])
    if mask is None:
        slots += torch.full((length, length), -torch.inf, dtype=q.dtype).triu(1)
    else:
        slots.masked_fill_(~mask[:, :, None], -torch.inf)
    return scores.softmax(-1)


def _tokens_first(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """[N K, G L, C] -> [N, L, H, C]."""
    n, length, keys = shape
    return x.view(n, keys, -1, length, x.shape[-1]).permute(0, 3, 1, 2, 4).flatten(2, 3)
