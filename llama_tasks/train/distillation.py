"""Knowledge distillation (Hinton et al., 2015): the student learns a larger model's probabilities at the target positions.

    loss = (1 - alpha) CE + alpha T^2 KL(teacher || student), both at temperature T in the second term

The teacher reads the same packed batch, in evaluation mode and without gradients; of both models only a chunk of logits exists at
a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from llama_tasks import adapters
from llama_tasks.contract import tokenizers_apart
from llama_tasks.errors import RecipeError
from llama_tasks.model.loss import in_chunks, sum_of_losses
from llama_tasks.packing import Batch
from llama_tasks.recipe import BaseConfig, DistillConfig, Recipe

Objective = Callable[..., Tensor]


class Teacher:
    """A frozen model, and the loss that follows from it."""

    def __init__(self, model: Any, config: DistillConfig) -> None:
        self.model, self.config = model.eval().requires_grad_(False), config

    @torch.no_grad()
    def objective(self, batch: Batch, labels: Tensor, smoothing: float) -> Objective:
        """The loss of a student on this batch, for the `objective` of the native model."""
        kept: list[Tensor] = []

        def keep(head: nn.Module, hidden_ND: Tensor, *_: Any) -> Tensor:
            kept.append(hidden_ND)
            return hidden_ND.new_zeros(())

        self.model(**batch.inputs(labels.device), labels=labels, skip_logits=True, objective=keep)
        return partial(self._sum, kept[0], smoothing)

    def _sum(
        self,
        taught_ND: Tensor,
        smoothing: float,
        head: nn.Module,
        hidden_ND: Tensor,
        targets_N: Tensor,
        weights_N: Tensor | None = None,
    ) -> Tensor:
        alpha, temperature = self.config.alpha, self.config.temperature
        weights = torch.ones_like(targets_N, dtype=torch.float32) if weights_N is None else weights_N
        apart = partial(_divergence, teacher_head=self.model.get_output_embeddings(), temperature=temperature)
        soft = in_chunks(apart, head, hidden_ND, taught_ND, weights)
        hard = sum_of_losses(head, hidden_ND, targets_N, weights_N, smoothing)
        return (1 - alpha) * hard + alpha * temperature**2 * soft


def _divergence(
    head: nn.Module,
    hidden_ND: Tensor,
    taught_ND: Tensor,
    weights_N: Tensor,
    teacher_head: nn.Module,
    temperature: float,
) -> Tensor:
    """Sum of the weighted KL(teacher || student) in nats, over the words that both embeddings have."""
    with torch.no_grad():
        wanted = teacher_head(taught_ND).float() / temperature
    logits = head(hidden_ND).float() / temperature
    shared = min(wanted.shape[1], logits.shape[1])
    log_p, log_q = wanted[:, :shared].log_softmax(1), logits[:, :shared].log_softmax(1)
    return (weights_N * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)).sum()


def load_teacher(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, device: torch.device | str) -> Teacher | None:
    """The teacher of a recipe, None where it has none.

    Raises:
        RecipeError: the teacher has another tokenizer, or was made for shorter texts. ModelError: it cannot be loaded.
    """
    config = recipe.distill
    if config is None:
        return None
    base = BaseConfig(config.teacher, revision=config.revision, dtype=config.dtype, quantization=config.quantization)
    apart = tokenizers_apart(tokenizer, adapters.load_tokenizer(base))
    if apart:
        raise RecipeError(
            f"distill.teacher: {config.teacher!r} has another tokenizer than {recipe.base.model!r}, so their probabilities are of "
            f"different words: {apart}."
        )
    model = adapters.load_base(base, device)
    if model.config.max_position_embeddings < recipe.prompt.max_length:
        raise RecipeError(
            f"prompt.max_length is {recipe.prompt.max_length}, but the teacher {config.teacher!r} was made for "
            f"{model.config.max_position_embeddings} tokens."
        )
    return Teacher(model, config)
