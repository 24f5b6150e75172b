"""Norm and SwiGLU in training on a GPU, in one kernel each, by liger-kernel where it is installed (extra `gpu`).

The plain path is the rule: on other devices, in evaluation (which keeps the bits of transformers' LLaMA), under
`torch.compile`, and for tensors that are spread over processes. Head and loss have their own way (`loss.py`).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


def by_liger(x: Tensor, *others: Tensor) -> bool:
    """Whether liger-kernel computes with these tensors, which must be of one dtype."""
    if x.device.type != "cuda" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    plain = type(x) is Tensor and all(type(other) in (Tensor, torch.nn.Parameter) for other in others)
    return plain and all(other.dtype == x.dtype for other in others) and _is_installed()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., D] scaled to unit root mean square and by weight [D]; rounded before the weight is applied, as LLaMA was trained."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    offset, in_place = 0.0, False  # the gradient of the stream is read once more, beside the norm
    normed: Any = LigerRMSNormFunction.apply(x, weight, eps, offset, "llama", in_place)
    return normed


def swiglu(gate: Tensor, value: Tensor) -> Tensor:
    """silu(gate) * value, [..., F]."""
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    product: Any = LigerSiLUMulFunction.apply(gate, value)
    return product


@cache
def _is_installed() -> bool:
    return find_spec("liger_kernel") is not None and find_spec("triton") is not None
