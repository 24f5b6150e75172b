"""Do the converted weights give the logits of the original ones? Both are computed in float32, one layer in memory at a time.

The original side is written here after the reference implementation (complex rotation of neighbouring channels), so a
mistake in the conversion of names, cuts, heads or frequencies cannot hide on both sides.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from llama_tasks.errors import ModelError
from llama_tasks.model import NativeLlamaConfig
from llama_tasks.model.loading import read_config
from llama_tasks.model.modeling_native_llama import NativeLlamaDecoderLayer, NativeLlamaRMSNorm
from llama_tasks.model.rotary import NativeLlamaRotaryEmbedding

from .meta import MetaCheckpoint, MetaParams
from .writer import hugging_face_name

TOKENS = 48
TOLERANCE = {
    "float32": 1e-4,
    "float16": 5e-2,
    "bfloat16": 2e-1,
}  # of the largest logit; below float32 only after rounding


@dataclass(frozen=True)
class Agreement:
    """Largest difference of logits, relative to the largest logit, over `tokens` positions."""

    difference: float
    tolerance: float
    tokens: int


def compare(meta: MetaCheckpoint, folder: Path, progress: Callable[[str, float], None]) -> Agreement:
    """Compare the logits. Raises ModelError where they differ by more than float32 explains (or, if the weights were
    rounded to another dtype, than that rounding does)."""
    config = read_config(str(folder))
    written = _Written(folder)
    count = min(TOKENS, config.max_position_embeddings)
    ids = torch.randint(config.vocab_size, (count,), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = _logits_apart(meta, written, config, ids, progress)
    rounded = str(meta.dtype("norm.weight")) != str(config.dtype)
    tolerance = TOLERANCE[str(config.dtype).removeprefix("torch.") if rounded else "float32"]
    if not difference <= tolerance:
        raise ModelError(
            f"The logits of the converted model differ from those of {meta.folder} by {difference:.2g} of the largest "
            f"(at most {tolerance:.2g} is rounding). Nothing was written; please report this with its params.json."
        )
    return Agreement(difference, tolerance, count)


def _logits_apart(
    meta: MetaCheckpoint,
    written: _Written,
    config: NativeLlamaConfig,
    ids: Tensor,
    progress: Callable[[str, float], None],
) -> float:
    theirs_TD = _rows(meta, "tok_embeddings.weight", ids)
    ours_BTD = written.tensor("model.embed_tokens.weight")[ids].float()[None]
    rotation = _rotation(meta.params, len(ids))
    embeddings = NativeLlamaRotaryEmbedding(config)(ours_BTD, torch.arange(len(ids))[None])
    for i in range(config.num_hidden_layers):
        theirs_TD = _reference_layer(meta, i, theirs_TD, rotation)
        ours_BTD = written.layer(config, i)(ours_BTD, position_embeddings=embeddings)
        progress("check", (i + 1) / config.num_hidden_layers)
    theirs_TD = _norm(theirs_TD, next(meta.blocks("norm.weight")).float(), meta.params.norm_eps)
    norm = NativeLlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
    norm.weight.data = written.tensor("model.norm.weight").float()
    head = "tok_embeddings.weight" if meta.tied else "output.weight"
    ours_TD = norm(ours_BTD)[0]
    worst, largest, row = 0.0, 0.0, 0
    weight = written.tensor(hugging_face_name(head))
    for block in meta.blocks(head):
        theirs = theirs_TD @ block.float().T
        ours = ours_TD @ weight[row : row + len(block)].float().T
        row += len(block)
        worst, largest = max(worst, _finite((ours - theirs).abs().max())), max(largest, float(theirs.abs().max()))
    return worst / max(largest, 1e-12)


def _finite(value: Tensor) -> float:
    return float(value) if value.isfinite() else math.inf


class _Written:
    """The new checkpoint, a tensor at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        self.files = json.loads(index.read_text())["weight_map"] if index.is_file() else {}

    def tensor(self, name: str) -> Tensor:
        with safe_open(self.folder / self.files.get(name, "model.safetensors"), framework="pt") as file:
            return file.get_tensor(name)

    def layer(self, config: NativeLlamaConfig, i: int) -> NativeLlamaDecoderLayer:
        """A decoder layer that computes in float32; each weight is widened only while it is used."""
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            layer = NativeLlamaDecoderLayer(config, i).eval()
        layer.load_state_dict(
            {name: self.tensor(f"model.layers.{i}.{name}") for name in layer.state_dict()}, assign=True
        )
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear | NativeLlamaRMSNorm):
                module.register_forward_pre_hook(_widen)
                module.register_forward_hook(_narrow)
        return layer


def _widen(module: Any, inputs: Any) -> None:
    module.stored, module.weight.data = module.weight.data, module.weight.data.float()


def _narrow(module: Any, inputs: Any, output: Any) -> None:
    module.weight.data = module.stored


def _rows(meta: MetaCheckpoint, name: str, ids: Tensor) -> Tensor:
    """Rows `ids` of a tensor, float32."""
    found = torch.empty(len(ids), meta.shape(name)[1])
    start = 0
    for block in meta.blocks(name):
        here = (ids >= start) & (ids < start + len(block))
        found[here] = block[ids[here] - start].float()
        start += len(block)
    return found


def _reference_layer(meta: MetaCheckpoint, i: int, x_TD: Tensor, rotation_TC: Tensor) -> Tensor:
    """One layer of Meta's LLaMA: T tokens, D width, H heads, K key/value heads, C channels."""
    p = meta.params

    def weight(part: str) -> Tensor:
        return torch.cat([block.float() for block in meta.blocks(f"layers.{i}.{part}.weight")])

    def through(part: str, x: Tensor) -> Tensor:
        return torch.cat([x @ block.float().T for block in meta.blocks(f"layers.{i}.{part}.weight")], dim=1)

    h_TD = _norm(x_TD, weight("attention_norm"), p.norm_eps)
    q_HTC = _turn(through("attention.wq", h_TD).unflatten(1, (p.n_heads, -1)).transpose(0, 1), rotation_TC)
    k_KTC = _turn(through("attention.wk", h_TD).unflatten(1, (p.n_kv_heads, -1)).transpose(0, 1), rotation_TC)
    v_KTC = through("attention.wv", h_TD).unflatten(1, (p.n_kv_heads, -1)).transpose(0, 1)
    groups = p.n_heads // p.n_kv_heads
    scores_HTT = q_HTC @ k_KTC.repeat_interleave(groups, 0).transpose(1, 2) / math.sqrt(p.head_dim)
    hidden = torch.ones(scores_HTT.shape[1:], dtype=torch.bool).triu(1)
    mixed_HTC = scores_HTT.masked_fill(hidden, -math.inf).softmax(-1) @ v_KTC.repeat_interleave(groups, 0)
    x_TD = x_TD + through("attention.wo", mixed_HTC.transpose(0, 1).flatten(1))
    h_TD = _norm(x_TD, weight("ffn_norm"), p.norm_eps)
    gated_TF = F.silu(through("feed_forward.w1", h_TD)) * through("feed_forward.w3", h_TD)
    return x_TD + through("feed_forward.w2", gated_TF)


def _norm(x_TD: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x_TD * torch.rsqrt(x_TD.pow(2).mean(-1, keepdim=True) + eps) * weight


def _turn(x_HTC: Tensor, rotation_TC: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x_HTC.unflatten(2, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotation_TC).flatten(2)


def _rotation(p: MetaParams, count: int) -> Tensor:
    """e^(i angle) complex [count, C/2]; with `use_scaled_rope` the frequencies of Llama 3.1: waves longer than the
    original context are stretched by the factor, shorter than a quarter of it kept, and those between blended."""
    frequencies = p.rope_theta ** -(torch.arange(0, p.head_dim, 2).double() / p.head_dim)
    if p.use_scaled_rope:
        original, low, high = 8192, 1.0, 4.0
        turns = original * frequencies / (2 * math.pi)
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        frequencies = frequencies * (blend + (1 - blend) / p.rope_scaling_factor)
    angles = torch.outer(torch.arange(count).double(), frequencies)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
