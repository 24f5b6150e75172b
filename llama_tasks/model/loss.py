"""The loss at target positions: head, softmax and their gradient in one go, a chunk of logits at a time.

Shapes: N positions that carry a target, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .attention_packed import Documents
from .gradients import autocasts, first_only, is_transformed
from .products import is_plain, times, times_transposed, widened, widens

IGNORED = -100  # label of a token that carries no loss
# Logits held at a time, in numbers. Small on the CPU: what fits a block that the allocator keeps is not paged in anew.
LOGITS_PER_CHUNK = {"cpu": 2**22, "other": 2**25}
ROWS_PER_CHUNK = 128  # at least: with fewer, reading the head's weight takes longer than the product


@dataclass(frozen=True)
class Targets:
    """The tokens that carry loss, and where each is predicted.

    Attributes:
        ids: int64 [N].
        places: int64 [N], whose hidden state predicts each, counted over the rows of the batch end to end.
        weights: float32 [N], or None: each counts once.
    """

    ids: Tensor
    places: Tensor
    weights: Tensor | None

    @classmethod
    def read(
        cls,
        labels_BT: Tensor,
        cu_seq_lens: Tensor | None = None,
        prefix_documents: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Targets:
        """From labels at their own tokens; a token is predicted by the one before it in its document's text."""
        labels = labels_BT.flatten()
        if cu_seq_lens is None:
            first = torch.arange(labels.numel(), device=labels.device) % labels_BT.shape[1] == 0
            at = ((labels != IGNORED) & ~first).nonzero()[:, 0]
            places = at - 1
        else:
            documents = Documents.read(cu_seq_lens, prefix_documents, labels_BT.shape[1])
            before = documents.predecessors().to(labels.device)
            at = ((labels != IGNORED) & (before >= 0)).nonzero()[:, 0]
            places = before[at]
        return cls(labels[at], places, None if weights is None else weights.flatten()[at].float())

    @property
    def total(self) -> Tensor | int:
        """What the sum of losses is divided by for their mean."""
        return len(self.ids) if self.weights is None else self.weights.sum()


def refuse_other_losses(model: Any, objective: Any, kwargs: dict[str, Any]) -> None:
    """Raise ValueError for what transformers' loss functions take and a loss without logits does not."""
    others = {
        "shift_labels": kwargs.get("shift_labels") is not None,
        "ignore_index": kwargs.get("ignore_index", IGNORED) != IGNORED,
        "loss_function of yours": objective is None and hasattr(model, "_loss_function"),
    }
    if found := [name for name, given in others.items() if given]:
        raise ValueError(
            f"With skip_logits (or prefix_documents) the loss is that of `labels`, shifted here, and knows no {', '.join(found)}. "
            "Leave skip_logits out, or give an `objective`."
        )


def sum_of_losses(
    head: nn.Module, hidden_ND: Tensor, targets_N: Tensor, weights_N: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Sum over positions of the (weighted) cross-entropy of `head(hidden)` in nats, float32 []; never holds all logits.

    `smoothing`: the part of each target's probability that is spread evenly over the vocabulary (Szegedy et al., 2016).
    """
    rows = rows_per_chunk(head, hidden_ND.device)
    if is_transformed():
        counts_N = torch.ones_like(targets_N, dtype=torch.float32) if weights_N is None else weights_N
        return _loss(head, hidden_ND, targets_N, counts_N, smoothing)
    if is_plain(head) and head.bias is None and not autocasts(hidden_ND):
        return _HeadAndLoss.apply(hidden_ND, head.weight, targets_N, weights_N, rows, smoothing)
    weights_N = torch.ones_like(targets_N, dtype=torch.float32) if weights_N is None else weights_N
    return in_chunks(partial(_loss, smoothing=smoothing), head, hidden_ND, targets_N, weights_N)


def in_chunks(loss: Callable[..., Tensor], head: nn.Module, *rows_N: Tensor) -> Tensor:
    """The sum of `loss(head, *chunk)` over chunks of positions; what a chunk needs is computed again for its gradient."""
    rows = rows_per_chunk(head, rows_N[0].device)
    if len(rows_N[0]) <= rows:
        return loss(head, *rows_N)
    chunks = zip(*(part.split(rows) for part in rows_N), strict=True)
    return torch.stack([checkpoint(loss, head, *chunk, use_reentrant=False) for chunk in chunks]).sum()


def rows_per_chunk(head: nn.Module, device: torch.device) -> int:
    """Positions whose logits are held at a time."""
    logits = LOGITS_PER_CHUNK.get(device.type, LOGITS_PER_CHUNK["other"])
    return max(ROWS_PER_CHUNK, logits // int(getattr(head, "out_features", 2**15)))


def _loss(head: nn.Module, hidden_ND: Tensor, targets_N: Tensor, weights_N: Tensor, smoothing: float) -> Tensor:
    logits = head(hidden_ND).float()
    losses_N = F.cross_entropy(logits, targets_N, reduction="none", label_smoothing=smoothing)
    return (weights_N * losses_N).sum()


class _HeadAndLoss(torch.autograd.Function):
    """loss = sum_n c_n (log sum_v exp z_nv - z_n,target),  z = h W^T;  dz = c (softmax(z) - onehot),  dh = dz W,  dW = dz^T h.

    With smoothing e over V words, z_n,target becomes (1 - e) z_n,target + e mean_v z_nv, and onehot (1 - e) onehot + e / V.

    The gradient is made while the logits are at hand, so neither they nor a second product of them are needed later.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        counts_N: Tensor | None,
        rows: int,
        smoothing: float,
    ) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), device=hidden_ND.device)
        dtype = torch.float32 if widens(hidden_ND) else hidden_ND.dtype
        grad_hidden = torch.empty_like(hidden_ND, dtype=dtype) if wants_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        for start in range(0, len(targets_N), rows):
            hidden, targets = widened(hidden_ND[start : start + rows]), targets_N[start : start + rows, None]
            logits = times_transposed(hidden, weight_VD).to(hidden_ND.dtype).float()
            largest, at_target = logits.amax(1, keepdim=True), logits.gather(1, targets)
            if smoothing:
                at_target = (1 - smoothing) * at_target + smoothing * logits.mean(1, keepdim=True)
            grad = logits.sub_(largest).exp_()  # one buffer for logits, exponentials and gradient
            sums = grad.sum(1, keepdim=True)
            losses, counts = sums.log() + largest - at_target, None
            if counts_N is not None:
                counts = counts_N[start : start + rows, None]
                losses = losses * counts
            total += losses.sum()
            if not (wants_hidden or wants_weight):
                continue
            grad = grad.div_(sums).scatter_add_(1, targets, grad.new_full((1, 1), smoothing - 1.0).expand_as(targets))
            if smoothing:
                grad -= smoothing / grad.shape[1]
            grad = (grad if counts is None else grad.mul_(counts)).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[start : start + rows] = times(grad, weight_VD)
            if grad_weight is not None:
                grad_weight += times_transposed(grad.T, hidden.T)
        ctx.dtype = hidden_ND.dtype
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight_VD.dtype))
        return total

    @staticmethod
    @first_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # By the gradient as it is: rounded to half precision, it would shorten or lengthen all others.
        hidden = None if grad_hidden is None else (grad_hidden * grad).to(ctx.dtype)
        return hidden, None if grad_weight is None else grad_weight * grad, *[None] * 4


def without_document_starts(labels_BT: Tensor, cu_seq_lens: Tensor | None) -> Tensor:
    """Labels of a packed row [1, T] in which no document's first token is a target of the document before it."""
    if cu_seq_lens is None:
        return labels_BT
    # The last boundary is the end of the row; an empty last document begins there too.
    starts = cu_seq_lens[:-1].to(labels_BT.device, torch.long)
    return labels_BT.index_fill(1, starts[starts < labels_BT.shape[1]], IGNORED)
