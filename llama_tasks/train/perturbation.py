"""What is added to embedded tokens in training: NEFTune's noise, and the step against the gradient of adversarial training.

Both are made for each document by itself, so neither packing nor the number of processes changes them; the noise of an example
in an epoch follows from the run's seed and the example's id, so neither does a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from llama_tasks.packing import Batch
from llama_tasks.recipe import TrainConfig


class Perturbation:
    """Sits behind the embedding of a model, and does nothing but within `passes`.

    NEFTune (Jain et al., 2024): uniform noise in [-1, 1] times alpha / sqrt(L d) for a document of L tokens in d dimensions.
    FGM (Miyato et al., 2017): a second loss at e + epsilon g / |g|, where g is the gradient of the document's loss by its embedded
    tokens e, |g| over the whole document.
    """

    def __init__(self, model: Any, config: TrainConfig) -> None:
        self.noise_alpha, self.epsilon = config.neftune_noise_alpha or 0.0, config.fgm_epsilon or 0.0
        self.seed = config.seed
        self.num_passes = 2 if self.epsilon else 1
        self._added: Tensor | None = None
        self._watched = False
        self._gradient: Tensor | None = None
        if self.noise_alpha or self.epsilon:
            self.embedding = model.get_input_embeddings()
            self.width = self.embedding.weight.shape[1]  # later it may be cut over processes
            self.embedding.register_forward_hook(self._perturb)

    def passes(self, batch: Batch, epoch: int) -> Iterator[bool]:
        """Go through the forward and backward passes of a batch; says of each whether it is the last."""
        try:
            noise = self._noise(batch, epoch) if self.noise_alpha else None
            self._added, self._watched = noise, bool(self.epsilon)
            yield not self.epsilon
            if self.epsilon:
                step = self._against(batch)
                self._added, self._watched = step if noise is None else noise + step, False
                yield True
        finally:
            self._added, self._watched, self._gradient = None, False, None

    def _perturb(self, module: Any, args: Any, embedded_BTD: Tensor) -> Tensor | None:
        if self._added is None and not self._watched:
            return None
        if self._added is not None:
            embedded_BTD = embedded_BTD + self._added.to(embedded_BTD.dtype)
        if self._watched:
            if not embedded_BTD.requires_grad:
                embedded_BTD = embedded_BTD.detach().requires_grad_()
            embedded_BTD.register_hook(self._keep)
        return embedded_BTD

    def _keep(self, gradient: Tensor) -> None:
        self._gradient = gradient.detach().float()

    def _noise(self, batch: Batch, epoch: int) -> Tensor:
        """float32 [1, T, d]."""
        device = next(self.embedding.parameters()).device
        parts = []
        for name, length in zip(batch.ids, batch.cu_seq_lens.diff().tolist(), strict=True):
            digest = hashlib.blake2b(f"{self.seed}/{epoch}/{name}".encode(), digest_size=7).digest()
            generator = torch.Generator(device).manual_seed(int.from_bytes(digest))
            shape = (length, self.width)
            uniform = 2 * torch.rand(shape, generator=generator, device=device) - 1
            parts.append(uniform * (self.noise_alpha / (shape[0] * shape[1]) ** 0.5))
        return torch.cat(parts)[None]

    def _against(self, batch: Batch) -> Tensor:
        """float32 [1, T, d]: epsilon g / |g| of each document; nothing where there is no gradient."""
        assert self._gradient is not None
        gradient = self._gradient[0]
        lengths = batch.cu_seq_lens.diff().to(gradient.device)
        document = torch.arange(len(lengths), device=gradient.device).repeat_interleave(lengths)
        squares = gradient.new_zeros(len(lengths)).index_add(0, document, gradient.square().sum(1))
        return (gradient * (self.epsilon / squares.sqrt().clamp(min=1e-30))[document, None])[None]
