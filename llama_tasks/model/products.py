"""Matrix products on CPUs, by the faster of the ways that torch offers on the processor.

In float32 torch takes MKL, and MKL leaves AVX-512 unused on processors that are not Intel's: on an AMD EPYC oneDNN was 2.1 to 2.3
times as fast (110 and 240 GFLOP/s on one core). Where an AMD processor has no AVX-512, MKL stays, but for two to sixteen rows
(decoding) the product turned over, W x^T, took half the time of x W^T (one row: `alone`).

In bfloat16 and float16 torch has no fast product on x86 processors without AVX-512 (460 rows, 576 by 1536: x W^T at 8.5
GFLOP/s, dy W at 1.3 to 2.4). There the factors are widened to float32, a part of the weight at a time, and what a layer gives is
rounded once: 46 to 75 GFLOP/s.

The order of sums differs, so results differ in the last bits. Which way is taken depends on the processor alone, never on a
measurement, so runs repeat themselves.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from .gradients import is_transformed, without_autocast

EVERYWHERE = (_global_forward_hooks, _global_forward_pre_hooks, _global_backward_hooks, _global_backward_pre_hooks)
FEW_ROWS = 16
WIDENED_FROM = 8  # rows, without a gradient; fewer take as long as it takes to read the weight, faster if narrow
PART = 2**21  # numbers of a narrow weight that are float32 at a time


def times_transposed(x: Tensor, weight: Any, bias: Tensor | None = None) -> Tensor:
    """x [M, D] times weight [F, D] turned over, plus bias [F]: [M, F]. Has no gradient of its own."""
    if weight.dtype != x.dtype:
        products = [times_transposed(x, part.to(x.dtype)) for part in weight.split(_rows_of_part(weight))]
        product = products[0] if len(products) == 1 else torch.cat(products, -1)
        return product if bias is None else product.add_(bias)
    if _by_onednn(x):
        by_onednn: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return by_onednn
    if _by_turning(x):
        product = (weight @ x.flatten(0, -2).T).T.view(*x.shape[:-1], -1)
        return product if bias is None else product + bias
    return nn.functional.linear(x, weight, bias)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """x [M, F] times weight [F, D]: [M, D]. Has no gradient of its own."""
    if weight.dtype != x.dtype:
        rows = _rows_of_part(weight)
        total = times(x[:, :rows], weight[:rows].to(x.dtype))
        return total if rows >= len(weight) else add_times(total, x[:, rows:], weight[rows:])
    return times_transposed(x, weight.T) if _by_onednn(x) else x @ weight


def add_times(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`total` [M, D], to which x [M, F] times weight [F, D] has been added in place."""
    if weight.dtype != x.dtype:
        rows = _rows_of_part(weight)
        for columns, part in zip(x.split(rows, dim=1), weight.split(rows), strict=True):
            add_times(total, columns, part.to(x.dtype))
        return total
    return total.add_(times(x, weight)) if _by_onednn(x) else total.addmm_(x, weight)


def widened(x: Tensor) -> Tensor:
    """x as the products above are to have it: in float32 where the processor is slow in its half precision, else itself.

    With a float32 x they take a weight of half precision, and widen it a part at a time.
    """
    return x.float() if widens(x) else x


def widens(x: Tensor) -> bool:
    """Whether `x` is of half precision, on a processor that has no fast products in it."""
    return x.dtype in (torch.bfloat16, torch.float16) and _is_plain_on_cpu(x) and is_x86_without_avx512()


def _rows_of_part(weight: Tensor) -> int:
    return max(1, PART // weight.shape[1])


def linear(x: Tensor, layer: Any) -> Tensor:
    """What `layer` gives for x [..., D]; a plain linear layer in training, or in decoding token by token, by the fast way.

    Evaluation of whole texts in float32 stays with torch's own choice, and so gives the bits that transformers' LLaMA gives.
    In half precision that would cost too much where torch is slow in it.
    """
    if not x.is_cpu or torch.compiler.is_compiling() or not _gains(x, layer.training):
        return layer(x)
    if not is_plain(layer) or torch.is_autocast_enabled("cpu"):  # a hooked layer may have no weight outside its call
        return layer(x)
    if any(weight is not None and weight.dtype != x.dtype for weight in (layer.weight, layer.bias)):
        return layer(x)  # which says so
    if torch.is_grad_enabled():
        product: Tensor = _Linear.apply(x, layer.weight, layer.bias)
        return product
    return times_transposed(widened(x), layer.weight, layer.bias).to(x.dtype)


def _gains(x: Tensor, training: bool) -> bool:
    """Whether another way than torch's own is faster; asked before anything else, as the answer is no for most calls."""
    if torch.is_grad_enabled():
        return widens(x) or (training and _by_onednn(x))
    several = x.numel() > x.shape[-1]  # rows
    if x.shape[-2] != 1:
        return several and widens_enough(x)
    return _by_onednn(x) or (several and (_by_turning(x) or widens_enough(x)))


def is_plain(layer: Any) -> bool:
    """Its product can be taken from its weight: no adapter, no quantisation, no sharding, nothing that changes its call."""
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not is_changed(layer)


def is_changed(module: Any, besides: str | None = None) -> bool:
    """Its call is more than its class says: patched, or hooked by torch (by another module than `besides`) or by accelerate,
    whose weights may lie elsewhere."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    if any(hooks) and not all(getattr(hook, "__module__", "") == besides for each in hooks for hook in each.values()):
        return True
    own = vars(module)
    return "forward" in own or "_hf_hook" in own or any(EVERYWHERE)


class _Linear(torch.autograd.Function):
    """y = x W^T + b,   dx = dy W,  dW = dy^T x,  db = sum(dy)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape = x.shape
        return times_transposed(widened(x), weight, bias).to(x.dtype)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to have a gradient
            dw = None if x is None else grad.flatten(0, -2).T @ x.flatten(0, -2)
            return grad @ weight, dw, grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        dtype, grad = grad.dtype, widened(grad.reshape(-1, grad.shape[-1]))
        dx = times(grad, weight).view(ctx.shape).to(dtype) if ctx.needs_input_grad[0] else None
        dw = None if x is None else times_transposed(grad.T, widened(x.reshape(-1, x.shape[-1])).T).to(dtype)
        return dx, dw, grad.sum(0).to(dtype) if ctx.needs_input_grad[2] else None


def _by_onednn(x: Tensor) -> bool:
    return _is_float32_on_cpu(x) and _onednn_is_faster()


def _by_turning(x: Tensor) -> bool:
    return _is_float32_on_cpu(x) and turning_is_faster() and 2 <= x.numel() // x.shape[-1] <= FEW_ROWS


def widens_enough(x: Tensor) -> bool:
    """Whether to widen the weight pays for so few rows as decoding has."""
    return widens(x) and x.numel() // x.shape[-1] >= WIDENED_FROM


def _is_float32_on_cpu(x: Tensor) -> bool:
    return x.dtype == torch.float32 and _is_plain_on_cpu(x)


def _is_plain_on_cpu(x: Tensor) -> bool:
    if x.device.type != "cpu" or torch.compiler.is_compiling() or is_transformed():
        return False
    return type(x) is Tensor and x.numel() > 0


@cache
def _onednn_is_faster() -> bool:
    return (
        _is_amd()
        and _has_avx512()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def turning_is_faster() -> bool:
    """Whether float32 products of few rows gain by another layout: AMD processors without AVX-512."""
    return is_amd_without_avx512()


@cache
def is_amd_without_avx512() -> bool:
    """A processor of the kind on which MKL's other ways were measured."""
    return _is_amd() and not _has_avx512() and torch.backends.mkl.is_available()


@cache
def is_x86_without_avx512() -> bool:
    found = _capabilities()
    return bool(found.get("avx2")) and not (_has_avx512() or found.get("avx_ne_convert"))


def _is_amd() -> bool:
    return str(_capabilities().get("cpu_name", "")).startswith("AMD")


def _has_avx512() -> bool:
    return bool(_capabilities().get("avx512_f"))


def _capabilities() -> dict[str, Any]:
    return getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.12
