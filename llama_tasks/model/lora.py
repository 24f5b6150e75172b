"""Linear layers that read the same input, computed together with the LoRA that peft has put on them.

    y_i = x W_i^T + s_i (x A_i^T) B_i^T         LoRA (Hu et al., 2021); W frozen, A [r, D] and B [F, r] trained

peft computes each layer by itself, in five calls with their own copies and casts. Here the A of all layers are one product,
the low-rank term is added in place, and the gradient is written out, so that only x and x A^T are kept for it; a 4-bit
W is unpacked where it is used and not kept. Behind SwiGLU x is not kept either, but made again of what SwiGLU keeps. Anything
but plain LoRA on a plain layer goes through peft's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import kernels
from .gradients import autocasts, first_only, is_transformed
from .products import add_times, is_changed, is_plain, linear, times, times_transposed, widened, widens_enough
from .swiglu import swiglu


def project(x: Tensor, *layers: nn.Module, gate: Tensor | None = None) -> tuple[Tensor, ...]:
    """What each layer gives for x [..., D]; with a `gate` [..., D], for silu(gate) * x."""
    # Evaluation of whole texts keeps peft's own order of sums, so that it gives what any reader of the adapter gets, bit for bit;
    # but not in half precision where torch takes six times as long. Gradients in evaluation are peft's: they have gradients.
    evaluates = not (torch.is_grad_enabled() or layers[0].training)
    decodes = x.shape[-2] == 1 and not torch.is_grad_enabled()
    without_gradient = decodes or (evaluates and widens_enough(x))
    parts = _all_plain(layers, x) if layers[0].training or without_gradient else None
    if gate is not None and (parts is None or without_gradient or gate.dtype != x.dtype or kernels.by_liger(gate, x)):
        x, gate = swiglu(gate, x), None
    if parts is None:
        return tuple(linear(x, unwrapped(layer)) for layer in layers)
    if without_gradient:
        x_TD = x.flatten(0, -2)
        return _products(x_TD.float() if widens_enough(x_TD) else x_TD, parts, x)[0]
    factors = [factor for part in parts for factor in (part.a, part.b)]
    return _Project.apply(x, gate, parts, *factors)


@dataclass(frozen=True)
class _Part:
    """One layer: how to get its frozen weight [F, D], its bias, and its low-rank factors."""

    weight: Callable[[], Tensor]
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scale: float


def _all_plain(layers: Sequence[nn.Module], x: Tensor) -> list[_Part] | None:
    """The parts of all layers, or None where one of them is not plain LoRA."""
    if type(layers[0]) is nn.Linear or autocasts(x) or is_transformed():
        return None
    parts = [part for layer in layers if (part := _plain_lora(layer, x.dtype)) is not None]
    return parts if len(parts) == len(layers) else None


def _plain_lora(layer: Any, dtype: torch.dtype) -> _Part | None:
    """The parts of a peft LoRA layer, or None where peft does more than the formula above."""
    if not _is_lora(layer):
        return None
    active = layer.active_adapters
    if layer.disable_adapters or layer.merged or len(active) != 1 or active[0] not in layer.lora_A:
        return None
    name = active[0]
    dropout = layer.lora_dropout[name]
    a, b = layer.lora_A[name], layer.lora_B[name]
    base = layer.base_layer
    if layer.lora_variant.get(name) or layer.lora_bias.get(name) or getattr(layer, "fan_in_fan_out", False):
        return None
    if layer.training and not isinstance(dropout, nn.Identity) and getattr(dropout, "p", 1.0) != 0.0:
        return None
    if any(map(is_changed, (layer, base, a, b))):
        return None
    if type(a.weight) is not nn.Parameter or type(b.weight) is not nn.Parameter:
        return None
    weight = _frozen_weight(base, dtype)
    return None if weight is None else _Part(weight, base.bias, a.weight, b.weight, layer.scaling[name])


def _is_lora(layer: Any) -> bool:
    kind = type(layer)
    return kind.__module__.startswith("peft.tuners.lora.") and kind.__name__ in ("Linear", "Linear4bit")


def unwrapped(layer: Any) -> Any:
    """The layer itself, without a LoRA that is switched off."""
    if not _is_lora(layer) or not layer.disable_adapters or layer.merged or is_changed(layer):
        return layer
    return layer.base_layer


class NotOneProduct(Exception):
    """A layer does more than multiply by a matrix of the type asked for, add a bias, and a LoRA."""


def read(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
    """What a layer multiplies by, [F, D] of `dtype`, its bias [F], and its LoRA, A [r, D] and s B [F, r] in float32, if it has one.

    Raises NotOneProduct if it does more.
    """
    layer = unwrapped(layer)
    if is_plain(layer) and layer.weight.dtype == dtype:
        return layer.weight.detach(), layer.bias, None
    part = _plain_lora(layer, dtype)
    if part is None or type(layer.base_layer) is not nn.Linear:
        raise NotOneProduct
    return part.weight().detach(), part.bias, (part.a.detach().float(), part.b.detach().float() * part.scale)


def merged(layer: Any) -> tuple[Tensor, Tensor | None]:
    """The same in float32 as one matrix, W + s B A [F, D], and its bias."""
    weight, bias, factors = read(layer, torch.float32)
    return weight if factors is None else torch.addmm(weight, factors[1], factors[0]), bias


def _frozen_weight(base: Any, dtype: torch.dtype) -> Callable[[], Tensor] | None:
    if type(base) is nn.Linear:
        trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
        return (lambda: base.weight) if is_plain(base) and base.weight.dtype == dtype and not trained else None
    state = getattr(base.weight, "quant_state", None)
    if type(base).__name__ != "Linear4bit" or state is None or base.compute_dtype != dtype or state.dtype != dtype:
        return None
    from bitsandbytes.functional import dequantize_4bit

    return lambda: dequantize_4bit(base.weight.data, state)


def _products(x_TD: Tensor, parts: Sequence[_Part], like: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """What each layer gives, in the shape [..., F] and the dtype of the input [..., D], and u = x A^T [T, R] of all of them."""
    u_TR = times_transposed(x_TD, _together([part.a for part in parts]).to(x_TD.dtype))
    outputs = []
    for part, u_Tr in zip(parts, u_TR.split([part.a.shape[0] for part in parts], dim=1), strict=True):
        y_TF = times_transposed(x_TD, part.weight(), part.bias)
        y_TF.addmm_(u_Tr, part.b.to(x_TD.dtype).T, alpha=part.scale)
        outputs.append(y_TF.to(like.dtype).view(*like.shape[:-1], -1))
    return tuple(outputs), u_TR


def _together(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """One tensor of all; of one alone no copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


class _Project(torch.autograd.Function):
    """All layers at once. T rows of x, D wide; layer i has width F_i and rank r_i, the ranks together are R.

    du_i = s_i dy_i B_i,   dx = sum_i dy_i W_i + du A,   dA = du^T x,   dB_i = s_i dy_i^T u_i     with u = x A^T [T, R]

    Behind SwiGLU (of one layer), x = silu(g) v is made again, and dx goes on: dg = dx v silu'(g),   dv = dx silu(g).
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gate: Tensor | None, parts: Sequence[_Part], *factors: Tensor
    ) -> tuple[Tensor, ...]:
        x = value if gate is None else F.silu(gate).mul_(value)
        outputs, u_TR = _products(widened(x.reshape(-1, x.shape[-1])), parts, x)
        ctx.save_for_backward(value, gate, u_TR, *factors)
        ctx.parts, ctx.ranks = parts, [part.a.shape[0] for part in parts]
        return outputs

    @staticmethod
    @first_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        value, gate, u_TR, *_ = ctx.saved_tensors
        silu = None if gate is None else F.silu(gate)
        x = value if silu is None else silu * value
        grads_TF = [widened(grad.reshape(-1, grad.shape[-1])) for grad in grads]
        dx_TD: Tensor | None = None
        du, db = [], []
        for part, u_Tr, dy_TF in zip(ctx.parts, u_TR.split(ctx.ranks, dim=1), grads_TF, strict=True):
            du.append(times(dy_TF, part.b.to(dy_TF.dtype)).mul_(part.scale))
            # Turned over, the same product takes three quarters of the time.
            db.append((u_Tr.T @ dy_TF).T.mul_(part.scale).to(part.b.dtype) if part.b.requires_grad else None)
            if any(ctx.needs_input_grad[:2]):
                dx_TD = times(dy_TF, part.weight()) if dx_TD is None else add_times(dx_TD, dy_TF, part.weight())
        du_TR, a_RD = _together(du, dim=1), _together([part.a for part in ctx.parts])
        x_TD = widened(x.reshape(-1, x.shape[-1]))
        learn = [part.a.requires_grad for part in ctx.parts]
        da = (du_TR.T @ x_TD).to(a_RD.dtype).split(ctx.ranks) if any(learn) else [None] * len(db)
        dx = None
        if dx_TD is not None:
            dx = dx_TD.addmm_(du_TR, a_RD.to(du_TR.dtype)).to(value.dtype).view(value.shape)
        of_a = [found if wanted else None for found, wanted in zip(da, learn, strict=True)]
        of_factors = [grad for pair in zip(of_a, db, strict=True) for grad in pair]
        if dx is None or silu is None:
            return dx, None, None, *of_factors
        dvalue = silu.mul_(dx)
        return dvalue, torch.ops.aten.silu_backward(dx.mul_(value), gate), None, *of_factors
