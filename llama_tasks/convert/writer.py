"""Tensors written to safetensors files as they are read, a block at a time.

The format (github.com/huggingface/safetensors): 8 bytes little-endian length of the header, the header as JSON (name ->
dtype, shape, begin and end in the data), then the data. safetensors' own writer takes whole tensors, all of a file at once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama_tasks.errors import ModelError

from .meta import MetaCheckpoint, as_bytes

DTYPES = ("auto", "float32", "bfloat16", "float16")
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_PARTS = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
_NAMES = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class Written:
    """What the files hold."""

    dtype: torch.dtype
    parameters: int


@dataclass(frozen=True)
class _Entry:
    """A tensor to write."""

    source: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def hugging_face_name(name: str) -> str:
    """Meta's name of a tensor -> Hugging Face's."""
    if name in _NAMES:
        return _NAMES[name]
    _, layer, part = name.removesuffix(".weight").split(".", 2)
    return f"model.layers.{layer}.{_PARTS[part]}.weight"


def parse_size(text: str) -> int:
    """Bytes of "5GB", "200MB" or "1000". Raises ModelError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not found or float(found[1]) <= 0:
        raise ModelError(f"{text!r} is not a size; write it like 5GB or 200MB.")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))


def rotate_half(rows: Tensor, head_dim: int) -> Tensor:
    """Rows of whole heads, from pairs side by side (x0 y0 x1 y1 ...) to halves (x0 x1 ... y0 y1 ...).

    Meta turns neighbouring channels of a query by the rotary angle; Hugging Face's LLaMA turns channels i and i + C/2.
    """
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def write_weights(
    meta: MetaCheckpoint, folder: Path, dtype: str, limit: int, progress: Callable[[str, float], None]
) -> Written:
    """Write `model.safetensors`, or several files of at most `limit` bytes with their index."""
    if dtype not in DTYPES:
        raise ModelError(f"There is no dtype {dtype!r}; choose one of {', '.join(DTYPES)}.")
    entries = [
        _Entry(name, hugging_face_name(name), meta.shape(name), _target(meta.dtype(name), dtype))
        for name in meta.names()
    ]
    files = _split(entries, limit)
    total, done, index = sum(entry.nbytes for entry in entries), 0, {}
    for number, group in enumerate(files, 1):
        file = "model.safetensors" if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        with (folder / file).open("wb") as handle:
            handle.write(_header(group))
            for entry in group:
                for block in _converted(meta, entry):
                    handle.write(as_bytes(block))
                index[entry.name] = file
                done += entry.nbytes
                progress("weights", done / total)
    if len(files) > 1:
        table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return Written(entries[0].dtype, sum(math.prod(entry.shape) for entry in entries))


def _target(stored: torch.dtype, asked: str) -> torch.dtype:
    target: torch.dtype = stored if asked == "auto" else getattr(torch, asked)
    if target not in _CODES:
        raise ModelError(f"The weights are {stored}; give --dtype, one of {', '.join(DTYPES[1:])}.")
    return target


def _split(entries: list[_Entry], limit: int) -> list[list[_Entry]]:
    files: list[list[_Entry]] = [[]]
    size = 0
    for entry in entries:
        if files[-1] and size + entry.nbytes > limit:
            files.append([])
            size = 0
        files[-1].append(entry)
        size += entry.nbytes
    return files


def _header(entries: list[_Entry]) -> bytes:
    """The header of a file, padded with spaces so that the data begins at a multiple of 8 bytes."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        offsets = [at, at + entry.nbytes]
        table[entry.name] = {"dtype": _CODES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        at += entry.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _converted(meta: MetaCheckpoint, entry: _Entry) -> Iterator[Tensor]:
    turned = ".attention.wq." in entry.source or ".attention.wk." in entry.source
    for block in meta.blocks(entry.source):
        block = block.to(entry.dtype)
        yield rotate_half(block, meta.params.head_dim) if turned else block
