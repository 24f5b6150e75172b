"""Gradients that are written out by hand: what must hold while they are taken, and where autograd's own are wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def first_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A `backward` of torch.autograd.Function that refuses to be differentiated again.

    torch's `once_differentiable` lets it pass where no incoming gradient has a graph, and the second derivative is then
    zero without a word. Raises NotImplementedError instead.
    """
    exact = without_autocast(backward)

    @wraps(backward)
    def guarded(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():  # create_graph
            raise NotImplementedError(
                "This training step has no second derivative (create_graph=True). In evaluation mode (model.eval()) and "
                "without skip_logits and cu_seq_lens_q, the native LLaMA has one."
            )
        return exact(ctx, *grads)

    return guarded


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A `backward` that keeps the forward pass's precision where it is called inside of `torch.autocast`."""

    @wraps(backward)
    def exact(ctx: Any, *grads: Any) -> Any:
        if not autocasts(grads[0]):
            return backward(ctx, *grads)
        with torch.autocast(grads[0].device.type, enabled=False):
            return backward(ctx, *grads)

    return exact


def autocasts(x: Tensor) -> bool:
    """Whether `torch.autocast` is at work on the device of x; the meta device knows none."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def is_transformed() -> bool:
    """Whether torch.func or forward mode differentiates what is computed: a gradient written out says nothing to them."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
