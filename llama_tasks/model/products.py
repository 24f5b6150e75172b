"""Matrix products in float32 through oneDNN, where that is the faster one of torch's two libraries.

torch takes MKL for float32 products on CPUs, and MKL leaves AVX-512 unused on processors that are not Intel's: on an AMD EPYC
oneDNN was 2.1 to 2.3 times as fast (110 and 240 GFLOP/s on one core). The order of sums differs, so results differ in the last
bits. Which library is taken depends on the processor alone, never on a measurement, so runs repeat themselves.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def times_transposed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [M, D] times weight [F, D] turned over, plus bias [F]: [M, F]. Has no gradient of its own."""
    if _by_onednn(x):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return nn.functional.linear(x, weight, bias)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """x [M, F] times weight [F, D]: [M, D]. Has no gradient of its own."""
    return times_transposed(x, weight.T) if _by_onednn(x) else x @ weight


def add_times(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`total` [M, D], to which x [M, F] times weight [F, D] has been added in place."""
    return total.add_(times(x, weight)) if _by_onednn(x) else total.addmm_(x, weight)


def linear(x: Tensor, layer: Any) -> Tensor:
    """What `layer` gives for x [..., D]; a plain linear layer in training, or in decoding token by token, by the fast way.

    Evaluation of whole texts stays with torch's own choice, and so gives the bits that transformers' LLaMA gives.
    """
    if not _by_onednn(x) or not is_plain(layer) or torch.is_autocast_enabled("cpu"):
        return layer(x)
    if torch.is_grad_enabled():
        return _Linear.apply(x, layer.weight, layer.bias) if layer.training else layer(x)
    return times_transposed(x, layer.weight, layer.bias) if x.shape[-2] == 1 else layer(x)


def is_plain(layer: Any) -> bool:
    """Its product can be taken from its weight: no adapter, no quantisation, no sharding, nothing that hooks its call."""
    if type(layer) is not nn.Linear or type(layer.weight) is not nn.Parameter:
        return False
    return not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


class _Linear(torch.autograd.Function):
    """y = x W^T + b,   dx = dy W,  dW = dy^T x,  db = sum(dy)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape = x.shape
        return times_transposed(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        dx = times(grad, weight).view(ctx.shape) if ctx.needs_input_grad[0] else None
        dw = None if x is None else times_transposed(grad.T, x.reshape(-1, x.shape[-1]).T)
        return dx, dw, grad.sum(0) if ctx.needs_input_grad[2] else None


def _by_onednn(x: Tensor) -> bool:
    if x.dtype != torch.float32 or x.device.type != "cpu" or torch.compiler.is_compiling() or not _onednn_is_faster():
        return False
    return type(x) is Tensor and x.numel() > 0


@cache
def _onednn_is_faster() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older versions of torch
    amd = str(capabilities.get("cpu_name", "")).startswith("AMD") and bool(capabilities.get("avx512_f"))
    return amd and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
