"""RMSNorm (Zhang and Sennrich, 2019) by the leanest way that gives LLaMA's bits: one call where no gradient is needed, liger's
kernel on a GPU that has it, else a function whose gradient is written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import kernels
from .gradients import is_transformed, without_autocast


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight x / sqrt(mean(x^2) + eps) over the last dimension of x [..., D], computed in float32, in the dtype of x."""
    if x.dtype == torch.float32 and not torch.is_grad_enabled():
        return F.rms_norm(x, weight.shape, weight, eps)
    if kernels.by_liger(x, weight):
        return kernels.rms_norm(x, weight, eps)
    if not torch.is_grad_enabled() or is_transformed():
        return _formula(x, weight, eps)
    normalized: Tensor = _RMSNorm.apply(x, weight, eps)
    return normalized


def _formula(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x32 = x.float()
    # Rounded to the model's precision before the weight is applied, as LLaMA was trained.
    return weight * (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    """n = x / sqrt(mean(x^2) + eps), y = w n, with its gradient written out, so that x and one number a row are all it keeps:

    dw = sum(dy n),   dx = (w dy - n mean(w dy n)) / sqrt(mean(x^2) + eps)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x32 = x.float()
        inverse = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, inverse)
        ctx.eps = eps
        return weight * (x32 * inverse).to(x.dtype)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to have a gradient: autograd's own of the formula has one
            wanted = [part for part in (x, weight) if part.requires_grad]
            found = iter(torch.autograd.grad(_formula(x, weight, ctx.eps), wanted, grad, create_graph=True))
            return next(found) if x.requires_grad else None, next(found) if weight.requires_grad else None, None
        grad, n = grad.float(), (x.float() * inverse).to(x.dtype).float()
        weighted = grad * weight
        mean = (weighted * n).mean(-1, keepdim=True)
        grad_x = torch.addcmul(weighted, n, mean, value=-1).mul_(inverse).to(x.dtype)
        grad_weight = (grad * n).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None
