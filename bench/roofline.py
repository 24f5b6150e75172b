"""How close a training step comes to the machine: its floating-point operations against measured matrix products of one thread.

    make bench-ablation        writes the limits and each workload's share beside the gains (bench/ablation.py)
    .venv/bin/python bench/roofline.py --shapes 15M --dtypes fp32        prints the limits alone

Operations of a step, a multiplication and an addition counted as two, as in Kaplan et al., "Scaling Laws for Neural Language
Models" (2020, section 2.1: 2 per weight and token forward) and in appendix B of "PaLM" (Chowdhery et al., 2022: attention on
top of it). LoRA trains no base weight, so the backward pass multiplies by each base weight once (the gradient of its input) and
not twice:

    linear layers   2 T W forward + 2 T W backward                             W = D x F of each layer, T tokens
    LoRA            2 T r (D + F) forward + twice as much backward             dA, dB, and the gradients of x and of x A
    attention       4 H C S forward + twice as much backward                   S = sum over tokens of the tokens that they see
    head            2 N V D forward + 2 N V D backward                         N targets

What the loss does not need is not counted: the first layer's gradient of the embedding's output, and the last layer's queries,
output projection and MLP where no loss is read. Norms, softmax and AdamW are left out. So the count is the least that the step
can do with products, and the share of the limit that it gives is on the low side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from workloads import RANK, SHAPES

from llama_tasks.model.attention_packed import Documents
from llama_tasks.packing import Batch
from llama_tasks.tokens import IGNORE

ROWS = 2048  # tokens of the products that are timed
SECONDS = 0.5  # at least, of every product
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "nf4": torch.bfloat16}  # in which it is multiplied


def linear_layers(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the seven linear layers of a decoder layer."""
    wide, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = wide * shape["num_key_value_heads"] // shape["num_attention_heads"]
    return {
        "q_proj": (wide, wide), "k_proj": (wide, keys), "v_proj": (wide, keys), "o_proj": (wide, wide),
        "gate_proj": (wide, inner), "up_proj": (wide, inner), "down_proj": (inner, wide),
    }  # fmt: skip


def layer_flops(shape: dict[str, Any], tokens: int, loss_tokens: int, seen: int, seen_by_loss: int, layer: int) -> int:
    """Operations of one decoder layer, forward and backward: `tokens` read it and (in the last layer) `loss_tokens` need it."""
    last = layer == shape["num_hidden_layers"] - 1
    total = 0
    for name, (inputs, outputs) in linear_layers(shape).items():
        rows = loss_tokens if last and name not in ("k_proj", "v_proj") else tokens
        input_gradient = 0 if layer == 0 and name in ("q_proj", "k_proj", "v_proj") else 1
        total += 2 * rows * inputs * outputs * (1 + input_gradient)
        total += 2 * rows * RANK * (3 * outputs + (2 + input_gradient) * inputs)
    return total + 3 * 4 * shape["hidden_size"] * (seen_by_loss if last else seen)


def batch_flops(shape: dict[str, Any], batch: Batch) -> int:
    """Operations of forward and backward pass on a packed batch."""
    documents = Documents.read(batch.cu_seq_lens, batch.prefix_documents, batch.num_tokens)
    seen_T = documents.positions()[0] + 1
    before_T = documents.predecessors()
    targets = ((batch.labels[0] != IGNORE) & (before_T >= 0)).nonzero()[:, 0]
    reads_loss = before_T[targets].unique()
    counts = (batch.num_tokens, len(reads_loss), int(seen_T.sum()), int(seen_T[reads_loss].sum()))
    layers = sum(layer_flops(shape, *counts, layer) for layer in range(shape["num_hidden_layers"]))
    return layers + 4 * len(targets) * shape["vocab_size"] * shape["hidden_size"]


def limits(shape: str, dtype: str, rows: int = ROWS) -> dict[str, float]:
    """GFLOP/s of one thread: of a large square product, and of the model's own products, weighted as a step takes them."""
    torch.set_num_threads(1)
    wide = SHAPES[shape]
    sizes = [(rows, a, b) for pair in linear_layers(wide).values() for a, b in (pair, pair[::-1])]
    seconds = [product_seconds(*size, DTYPES[dtype]) for size in sizes]
    square = max(1024, rows // 2) if rows == ROWS else rows
    return {
        "square": round(2 * square**3 / product_seconds(square, square, square, DTYPES[dtype]) / 1e9, 1),
        "shapes": round(sum(2 * m * k * n for m, k, n in sizes) / sum(seconds) / 1e9, 1),
    }


def product_seconds(m: int, k: int, n: int, dtype: torch.dtype) -> float:
    """CPU seconds of [m, k] times [n, k] turned over, by the faster of torch's two libraries; the best of several."""
    x, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    ways: list[Callable[[Tensor, Tensor], Tensor]] = [F.linear]
    if dtype == torch.float32 and torch.backends.mkldnn.is_available():
        ways.append(lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return min(best(lambda way=way: way(x, weight)) for way in ways)


def best(call: Callable[[], Any]) -> float:
    """The fewest CPU seconds of a call."""
    call()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        began = time.process_time()
        call()
        times.append(max(time.process_time() - began, 1e-9))
    return min(times)


def main() -> None:
    """Print the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["15M", "135M"], choices=SHAPES)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=DTYPES)
    args = parser.parse_args()
    for shape in args.shapes:
        for dtype in args.dtypes:
            found = limits(shape, dtype)
            print(
                f"{shape} {dtype}: {found['square']} GFLOP/s in a square product, {found['shapes']} in the model's own"
            )


if __name__ == "__main__":
    main()
