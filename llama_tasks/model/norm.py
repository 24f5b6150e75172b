"""RMSNorm (Zhang and Sennrich, 2019) by the leanest way that gives LLaMA's bits: one call where no gradient is needed, liger's
kernel on a GPU that has it, else a function whose gradient is written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import kernels


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight x / sqrt(mean(x^2) + eps) over the last dimension of x [..., D], computed in float32, in the dtype of x."""
    if x.dtype == torch.float32 and not torch.is_grad_enabled():
        return F.rms_norm(x, weight.shape, weight, eps)
    if kernels.by_liger(x, weight):
        return kernels.rms_norm(x, weight, eps)
    normalized: Tensor = _RMSNorm.apply(x, weight, eps)
    return normalized


class _RMSNorm(torch.autograd.Function):
    """n = x / sqrt(mean(x^2) + eps), y = w n, with its gradient written out, so that n is all it keeps:

    dw = sum(dy n),   dx = (w dy - n mean(w dy n)) / sqrt(mean(x^2) + eps)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x32 = x.float()
        inverse = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
        # Rounded to the model's precision before the weight is applied, as LLaMA was trained.
        normalized = (x32 * inverse).to(x.dtype)
        ctx.save_for_backward(normalized, weight, inverse)
        return weight * normalized

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normalized, weight, inverse = ctx.saved_tensors
        grad, n = grad.float(), normalized.float()
        weighted = grad * weight
        mean = (weighted * n).mean(-1, keepdim=True)
        grad_x = torch.addcmul(weighted, n, mean, value=-1).mul_(inverse).to(normalized.dtype)
        grad_weight = (grad * n).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None
