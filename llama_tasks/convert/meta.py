"""A checkpoint in Meta's layout, read a block of rows at a time.

The files `consolidated.00.pth`, `.01.pth`, ... are slices of one model, cut for as many processes (fairscale's model
parallelism): each holds every tensor, some cut by rows, some by columns, the norms whole. Files are mapped into memory
and opened again now and then, so that pages already read are given back.

Source of names and cuts: the reference implementations of Llama 1 to 3 (github.com/meta-llama/llama-models).
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from llama_tasks.errors import ModelError

BLOCK = 2**22  # bytes of a block
BY_ROWS = ("wq.", "wk.", "wv.", "w1.", "w3.", "output.")
BY_COLUMNS = ("wo.", "w2.")
# Llama 3.1 and later interpolate low frequencies; 3.2 does so by 32, its two text models are known by their size
# (width, layers). Sources: the configurations that Meta published in Hugging Face's format.
LLAMA_3_2 = {(2048, 16), (3072, 28)}
IGNORED = ("rope.freqs",)


@dataclass(frozen=True)
class MetaParams:
    """What `params.json` says."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    norm_eps: float
    rope_theta: float
    use_scaled_rope: bool
    rope_scaling_factor: float
    vocab_size: int
    max_seq_len: int | None

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def context(self) -> int:
        """Tokens of context: as said, or by generation (Llama 3.1 and later, 3, Code Llama, 2, 1)."""
        if self.max_seq_len:
            return self.max_seq_len
        if self.use_scaled_rope:
            return 131072
        if self.rope_theta > 10000.0:
            return 8192 if self.rope_theta == 500000.0 else 16384
        # Llama 1 had 1e-6 but in its 65B, and Llama 2 shares keys above 13B, which Llama 1 never did.
        is_first = self.norm_eps == 1e-6 or (self.dim > 5120 and self.n_kv_heads == self.n_heads)
        return 2048 if is_first else 4096

    @classmethod
    def load(cls, path: Path) -> MetaParams:
        """Raises ModelError where the file is missing or lacks a size."""
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            fields = fields.get("model", fields)
            known = fields["dim"], fields["n_layers"]
            return cls(
                dim=int(fields["dim"]),
                n_layers=int(fields["n_layers"]),
                n_heads=int(fields["n_heads"]),
                n_kv_heads=int(fields.get("n_kv_heads") or fields["n_heads"]),
                norm_eps=float(fields["norm_eps"]),
                rope_theta=float(fields.get("rope_theta", 10000.0)),
                use_scaled_rope=bool(fields.get("use_scaled_rope", False)),
                rope_scaling_factor=float(fields.get("rope_scaling_factor") or (32 if known in LLAMA_3_2 else 8)),
                vocab_size=int(fields.get("vocab_size", -1)),
                max_seq_len=fields.get("max_seq_len"),
            )
        except FileNotFoundError:
            raise ModelError(
                f"{path.parent} holds no params.json; give the folder that Meta's download made."
            ) from None
        except KeyError as error:
            raise ModelError(f"{path} says nothing of {error.args[0]!r}; it is not of a LLaMA text model.") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} cannot be read: {error}.") from None


class MetaCheckpoint:
    """Tensors by Meta's names, put together from all shards. Opening it reads no weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = sorted(folder.glob("consolidated.*.pth"))
        if not self.paths:
            raise ModelError(f"{folder} holds no consolidated.*.pth; give the folder that Meta's download made.")
        self.params = MetaParams.load(folder / "params.json")
        self._budget = max(path.stat().st_size for path in self.paths) // 8
        self._touched = 0
        self._shards: list[dict[str, Tensor]] = []
        self._check()

    def names(self) -> list[str]:
        """All tensors that a model is made of, in the order of the forward pass."""
        layers = [
            f"layers.{i}.{part}.weight"
            for i in range(self.params.n_layers)
            for part in (
                "attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo",
                "ffn_norm", "feed_forward.w1", "feed_forward.w3", "feed_forward.w2",
            )
        ]  # fmt: skip
        return ["tok_embeddings.weight", *layers, "norm.weight", *([] if self.tied else ["output.weight"])]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        parts = self._parts(name)
        first = tuple(parts[0].shape)
        cut = self._cut(name)
        if cut == "rows":
            return (sum(part.shape[0] for part in parts), *first[1:])
        return first if cut == "whole" else (first[0], sum(part.shape[1] for part in parts))

    def dtype(self, name: str) -> torch.dtype:
        return self._parts(name)[0].dtype

    def blocks(self, name: str) -> Iterator[Tensor]:
        """The rows of a tensor from first to last, some at a time (whole heads, where rows belong to heads).

        Raises ModelError where a value is not a finite number.
        """
        cut = self._cut(name)
        n_parts = len(self._parts(name)) if cut == "rows" else 1
        for i in range(n_parts):
            rows = self._parts(name)[i].shape[0]
            step = self._rows_per_block(name)
            for start in range(0, rows, step):
                parts = self._parts(name)
                here = [part[start : start + step] for part in (parts if cut == "columns" else parts[i : i + 1])]
                block = torch.cat(here, dim=1) if cut == "columns" and len(here) > 1 else here[0]
                if not block.isfinite().all():
                    raise ModelError(f"{self.folder}: {name} holds values that are not finite numbers.")
                self._touched += block.nbytes
                yield block
                del parts, here, block

    @cached_property
    def tied(self) -> bool:
        """The head is the embedding: absent, or a copy of it."""
        if "output.weight" not in self._open()[0]:
            return True
        names = "output.weight", "tok_embeddings.weight"
        if self.shape(names[0]) != self.shape(names[1]):
            return False
        # By digest: the two may be cut differently over files, so that their blocks do not end alike.
        return self._digest(names[0]) == self._digest(names[1])

    def config_fields(self) -> dict[str, Any]:
        """The fields of a `LlamaConfig`; sizes are read off the weights where params.json only implies them."""
        p = self.params
        vocab_size = self.shape("tok_embeddings.weight")[0]
        if p.vocab_size not in (-1, vocab_size):
            raise ModelError(
                f"{self.folder}: params.json says vocab_size {p.vocab_size}, but the embedding has {vocab_size} rows."
            )
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": p.rope_theta}
        if p.use_scaled_rope:
            rope |= {
                "rope_type": "llama3", "factor": p.rope_scaling_factor, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            }  # fmt: skip
        return {
            "vocab_size": vocab_size,
            "hidden_size": p.dim,
            "intermediate_size": self.shape("layers.0.feed_forward.w1.weight")[0],
            "num_hidden_layers": p.n_layers,
            "num_attention_heads": p.n_heads,
            "num_key_value_heads": p.n_kv_heads,
            "head_dim": p.head_dim,
            "rms_norm_eps": p.norm_eps,
            "rope_parameters": rope,
            "max_position_embeddings": p.context,
            "tie_word_embeddings": self.tied,
        }

    def _digest(self, name: str) -> bytes:
        digest = hashlib.sha256()
        for block in self.blocks(name):
            digest.update(as_bytes(block))
        return digest.digest()

    def _open(self) -> list[dict[str, Tensor]]:
        """The shards, mapped; opened afresh once enough pages have been read."""
        if self._touched > self._budget or not self._shards:
            self._shards, self._touched = [], 0
            self._shards = [_map(path) for path in self.paths]
        return self._shards

    def _parts(self, name: str) -> list[Tensor]:
        """The slices of a tensor. Keys and values that several processes held alike are taken once."""
        try:
            parts = [shard[name] for shard in self._open()]
        except KeyError:
            raise ModelError(f"{self.folder}: the weights lack {name}, which params.json implies.") from None
        if ".attention.wk." in name or ".attention.wv." in name:
            wanted = self.params.n_kv_heads * self.params.head_dim
            copies = max(1, sum(part.shape[0] for part in parts) // max(1, wanted))
            return parts[::copies]
        return parts

    def _cut(self, name: str) -> Literal["rows", "columns", "whole"]:
        if len(self.paths) > 1:
            # Llama 1 and 2 cut the embedding by columns, Llama 3 by rows.
            if name == "tok_embeddings.weight":
                return "rows" if self._parts(name)[0].shape[1] == self.params.dim else "columns"
            if any(part in name for part in BY_COLUMNS):
                return "columns"
        return "rows" if any(part in name for part in BY_ROWS) else "whole"

    def _rows_per_block(self, name: str) -> int:
        parts = self._parts(name)
        row = parts[0][:1].nbytes * (len(parts) if self._cut(name) == "columns" else 1)
        heads = self.params.head_dim
        return max(1, BLOCK // max(1, row * heads)) * heads

    def _check(self) -> None:
        """Raise ModelError unless every tensor is there, with the shape that params.json implies, and none is spare."""
        p, where = self.params, self.folder
        if p.n_heads < 1 or p.dim % p.n_heads or p.n_kv_heads < 1 or p.n_heads % p.n_kv_heads:
            raise ModelError(
                f"{where}: params.json: dim {p.dim}, {p.n_heads} heads and {p.n_kv_heads} kv heads do not fit."
            )
        keys = p.n_kv_heads * p.head_dim
        ffn = self.shape("layers.0.feed_forward.w1.weight")[0]
        vocab = self.shape("tok_embeddings.weight")[0]
        wanted = {
            "wq": (p.dim, p.dim), "wk": (keys, p.dim), "wv": (keys, p.dim), "wo": (p.dim, p.dim), "w1": (ffn, p.dim),
            "w3": (ffn, p.dim), "w2": (p.dim, ffn), "tok_embeddings": (vocab, p.dim), "output": (vocab, p.dim),
        }  # fmt: skip
        for name in self.names():
            expected = wanted.get(name.split(".")[-2], (p.dim,))
            if self.shape(name) != expected:
                raise ModelError(f"{where}: {name} is {list(self.shape(name))}; params.json implies {list(expected)}.")
        spare = self._open()[0].keys() - {*self.names(), "output.weight", *IGNORED}
        if spare:
            raise ModelError(f"{where}: the weights hold {min(spare)}, which no LLaMA text model has.")


def as_bytes(tensor: Tensor) -> memoryview:
    """The tensor's memory, without a copy where it is contiguous."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _map(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(f"{path} holds more than tensors and is not opened, since that could run code.") from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read: {reason}") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ModelError(f"{path} holds no table of tensors.")
    return tensors
