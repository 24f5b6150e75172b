"""AdaLoRA (Zhang et al., 2023) over the steps of a run: which ranks go is peft's own; when, and how it resumes, is here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llama_tasks.errors import RecipeError

NO_STEPS_YET = 10**9  # until the plan of the run says how many there are
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of the allocator, by parameter


class RankAllocation:
    """The allocator of a model's adapter, with the schedule of this run."""

    def __init__(self, model: Any, total_steps: int) -> None:
        self.tuner = model.base_model
        self.config = model.peft_config["default"]
        self.allocator = self.tuner.rankallocator
        self.allocator.set_total_step(total_steps)
        if max(self.config.tinit, 1) >= total_steps - self.config.tfinal:
            raise RecipeError(
                f"adapter.tinit={self.config.tinit} and adapter.tfinal={self.config.tfinal} leave none of the run's {total_steps} "
                "steps to take ranks away; lower them."
            )

    @classmethod
    def of(cls, model: Any, total_steps: int) -> RankAllocation | None:
        """That of an AdaLoRA model, None for any other. Raises RecipeError where the schedule leaves no step."""
        return cls(model, total_steps) if hasattr(getattr(model, "base_model", None), "rankallocator") else None

    @contextmanager
    def shared_by(self, passes: int) -> Iterator[None]:
        """peft adds the term for orthogonality to the loss of every forward pass; a step shall have it once."""
        whole = self.config.orth_reg_weight
        self.config.orth_reg_weight = whole / passes
        try:
            yield
        finally:
            self.config.orth_reg_weight = whole

    def after(self, step: int) -> None:
        """Weigh the ranks by the gradients of step `step` (from 1), and mask those beyond the budget."""
        self.tuner.update_and_allocate(step)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors by name, and the masks as plain values."""
        tensors = {f"{kind}.{name}": value.detach().cpu().contiguous()
                   for kind in AVERAGES for name, value in getattr(self.allocator, kind).items()}  # fmt: skip
        return tensors, dict(self.config.rank_pattern or {})

    def load(self, tensors: dict[str, torch.Tensor], rank_pattern: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        device = next(self.tuner.parameters()).device
        self.allocator.reset_ipt()
        for key, value in tensors.items():
            kind, name = key.split(".", 1)
            getattr(self.allocator, kind)[name] = value.to(device)
        self.config.rank_pattern = rank_pattern or None


def keep_ranks_of_weights(model: Any) -> None:
    """Before a save: the ranks kept are those whose singular value is not zero, for the weights that the model has now (the best
    ones may be of a step before the last masks). A layer keeps one at least."""
    pattern = {}
    for name, value in model.base_model.model.named_parameters():
        if "lora_E." in name:
            kept = (value.detach().flatten() != 0).tolist()
            pattern[name] = kept if any(kept) else [True, *kept[1:]]
    model.peft_config["default"].rank_pattern = pattern
