"""Rotary positions (Su et al., 2021): the angles of every `rope_type` that transformers knows, and the turn by them.

B rows, T tokens, H heads of C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from .configuration_native_llama import NativeLlamaConfig


class NativeLlamaRotaryEmbedding(nn.Module):
    """Cosine and sine of the rotary angles (Su et al., 2021) at given positions, for every `rope_type`.

    transformers refills the two buffers after loading (they are not saved) and recognises the module by the word
    "RotaryEmbedding" in its name and by the attributes set here: keep both.
    """

    inv_freq: Tensor
    original_inv_freq: Tensor

    def __init__(self, config: NativeLlamaConfig) -> None:
        super().__init__()
        self.config = config
        assert config.rope_parameters is not None  # filled in by the configuration
        self.rope_type = config.rope_parameters["rope_type"]
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        initialize = ROPE_INIT_FUNCTIONS | {"default": self.compute_default_rope_parameters}
        inv_freq, self.attention_scaling = initialize[self.rope_type](config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: NativeLlamaConfig, **_: Any) -> tuple[Tensor, float]:
        """Inverse frequencies theta^(-2i/C) for i < C/2, float32 [C/2], and the factor 1 on cosine and sine."""
        assert config.rope_parameters is not None
        assert config.head_dim is not None
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [B, T, 1, C], as `rotate` takes them, in the dtype of `x` at `position_ids` [B, T]."""
        angles = position_ids[..., None, None].float() * self.inv_freq.to(x.device, torch.float32)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return torch.cat((cos, cos), dim=-1).to(x.dtype), torch.cat((-sin, sin), dim=-1).to(x.dtype)


def rotate(x_BTHC: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Turn each pair of channels (i, i + C/2) by its angle: (a cos - b sin, b cos + a sin)."""
    return x_BTHC * cos + x_BTHC.roll(x_BTHC.shape[-1] // 2, dims=-1) * signed_sin
