"""Checkpoints in Meta's layout for tests, cut over several files as fairscale cuts them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

TOY = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": 96, "ffn": 88}


def random_weights(params: dict, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """Whole tensors by Meta's names."""
    generator = torch.Generator().manual_seed(seed)
    dim, ffn = params["dim"], params["ffn"]
    keys = dim // params["n_heads"] * params["n_kv_heads"]

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) * shape[-1] ** -0.5).to(dtype)

    weights = {"tok_embeddings.weight": draw(params["vocab_size"], dim), "norm.weight": 1 + draw(dim)}
    for i in range(params["n_layers"]):
        parts = {
            "attention.wq": (dim, dim), "attention.wk": (keys, dim), "attention.wv": (keys, dim),
            "attention.wo": (dim, dim), "feed_forward.w1": (ffn, dim), "feed_forward.w2": (dim, ffn),
            "feed_forward.w3": (ffn, dim),
        }  # fmt: skip
        weights |= {f"layers.{i}.{name}.weight": draw(*shape) for name, shape in parts.items()}
        weights |= {f"layers.{i}.{name}.weight": 1 + draw(dim) for name in ("attention_norm", "ffn_norm")}
    return weights | {"output.weight": draw(params["vocab_size"], dim), "rope.freqs": torch.ones(4)}


def save(folder: Path, params: dict, weights: dict[str, Tensor], shards: int = 1, embedding_dim: int = 1) -> Path:
    """Write the folder; `embedding_dim` is the dimension along which the embedding is cut (1: Llama 1 and 2, 0: 3)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps({k: v for k, v in params.items() if k != "ffn"}))
    for rank in range(shards):
        table = {name: _slice(name, w, rank, shards, embedding_dim, params) for name, w in weights.items()}
        torch.save(table, folder / f"consolidated.{rank:02d}.pth")
    return folder


def _slice(name: str, weight: Tensor, rank: int, shards: int, embedding_dim: int, params: dict) -> Tensor:
    part = name.split(".")[-2]
    if name == "tok_embeddings.weight":
        return weight.chunk(shards, embedding_dim)[rank].clone()
    if part in ("wk", "wv") and params["n_kv_heads"] < shards:  # several processes hold the same head
        return weight.chunk(params["n_kv_heads"])[rank * params["n_kv_heads"] // shards].clone()
    if part in ("wq", "wk", "wv", "w1", "w3", "output"):
        return weight.chunk(shards)[rank].clone()
    return weight.chunk(shards, 1)[rank].clone() if part in ("wo", "w2") else weight
