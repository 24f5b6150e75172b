"""SwiGLU (Shazeer, 2020) by the leanest way that gives LLaMA's bits: liger's kernel on a GPU that has it, else, in training, a
function whose gradient is written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import kernels
from .gradients import is_transformed, without_autocast


def swiglu(gate: Tensor, value: Tensor) -> Tensor:
    """silu(gate) * value, of [..., F] both, with silu(g) = g sigmoid(g)."""
    if kernels.by_liger(gate, value):
        return kernels.swiglu(gate, value)
    plain = type(gate) is Tensor and type(value) is Tensor and gate.dtype == value.dtype
    if not plain or not torch.is_grad_enabled() or is_transformed():
        return F.silu(gate) * value
    product: Tensor = _SwiGLU.apply(gate, value)
    return product


class _SwiGLU(torch.autograd.Function):
    """y = silu(g) v,   dg = dy v silu'(g),   dv = dy silu(g).

    Keeps g and v alone: autograd keeps silu(g) too, which takes longer to write and read again than to compute again.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gate, value)
        return F.silu(gate).mul_(value)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gate, value = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to have a gradient
            chance = gate.sigmoid()
            return grad * value * chance * (1 + gate * (1 - chance)), grad * gate * chance
        return torch.ops.aten.silu_backward(grad * value, gate), F.silu(gate).mul_(grad)
