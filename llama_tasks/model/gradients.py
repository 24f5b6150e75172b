"""Gradients that are written out by hand, and have none themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A `backward` of torch.autograd.Function that refuses to be differentiated again.

    torch's `once_differentiable` lets it pass where no incoming gradient has a graph, and the second derivative is then
    zero without a word. Raises NotImplementedError instead.
    """

    @wraps(backward)
    def guarded(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():  # create_graph
            raise NotImplementedError(
                "This training step has no second derivative (create_graph=True). In evaluation mode (model.eval()) and "
                "without skip_logits and cu_seq_lens_q, the native LLaMA has one."
            )
        return backward(ctx, *grads)

    return guarded
