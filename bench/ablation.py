"""What each optimisation of training gives: taken away from all of them, and alone on the plain way; and the share of the machine.

    make bench-ablation ARGS="--shapes 15M --workloads 22+22 5q --dtypes bf16"

The library has no switches for these. Here, in the benchmark's process, a function of the model is replaced by what transformers
and peft do, a few lines each (`PLAIN`). All settings take turns on the same steps of one model (A B C A B C), whose learning
rate is 0, so that each computes the same losses; that they agree is checked. CPU seconds of one thread; the median over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import results
import roofline
import torch
import train_native
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast
from workloads import SHAPES, TOKENS, WORKLOADS, save_model

from llama_tasks.model import attention_packed, attention_products, products
from llama_tasks.model import modeling_native_llama as modeling
from llama_tasks.model.attention_packed import Documents
from llama_tasks.model.swiglu import swiglu
from llama_tasks.packing import collate
from llama_tasks.tokens import IGNORE
from llama_tasks.train import Training

KEY = ("shape", "workload", "dtype")
ALL, NONE, PREFIXES, HALF = "all", "none", "shared prefixes", "half precision by float32 products"
AGREE = {"fp32": 1e-5, "bf16": 2e-2, "nf4": 2e-2}  # relative difference of losses


class DenseMask:
    """In place of `PackedLayout`: who sees whom, as one [T, T] block mask."""

    @staticmethod
    def build(documents: Documents, device: torch.device, reads: Tensor | None = None) -> Tensor:
        seen = documents.mask().to(device)
        return seen if reads is None else seen[:, :, reads]


def dense_attention(q: Tensor, k: Tensor, v: Tensor, layout: Tensor, *, scaling: float, dropout: float = 0.0) -> Tensor:
    """In place of `packed_attention`: the whole row at once, behind the mask."""
    heads = [x.transpose(1, 2) for x in (q, k, v)]
    out = F.scaled_dot_product_attention(*heads, attn_mask=layout, dropout_p=dropout, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2)


FORWARD = modeling.NativeLlamaForCausalLM.forward


def all_logits(self: Any, *, labels: Tensor, num_items_in_batch: int, **inputs: Any) -> CausalLMOutputWithPast:
    """In place of the model's forward: logits of every token in float32, then the loss of those that have a target."""
    inputs.pop("skip_logits")
    documents = Documents.read(inputs["cu_seq_lens_q"], inputs.get("prefix_documents"), labels.shape[1])
    before_T = documents.predecessors()
    at = ((labels[0] != IGNORE) & (before_T >= 0)).nonzero()[:, 0]
    logits = FORWARD(self, **inputs).logits[0].float()
    loss = F.cross_entropy(logits[before_T[at]], labels[0, at], reduction="sum") / num_items_in_batch
    return CausalLMOutputWithPast(loss=loss)


def plain_norm(self: Any, x: Tensor) -> Tensor:
    """In place of the norm with its gradient written out."""
    wide = x.float()
    return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)).to(x.dtype)


def plain_project(x: Tensor, *layers: Any, gate: Tensor | None = None) -> tuple[Tensor, ...]:
    """In place of layers computed together with their LoRA."""
    return tuple(layer(x if gate is None else swiglu(gate, x)) for layer in layers)


def plain_mlp(self: Any, x: Tensor) -> Tensor:
    """In place of SwiGLU with its gradient written out, and made again for the layer behind it."""
    gate, value = modeling.project(x, self.gate_proj, self.up_proj)
    return modeling.project(F.silu(gate) * value, self.down_proj)[0]


def plain_loss(head: Any, hidden: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """In place of head, softmax and gradient in one."""
    losses = F.cross_entropy(head(hidden).float(), targets, reduction="none")
    return (losses if weights is None else losses * weights).sum()


# What is replaced (owner, name, plain way) to do without each optimisation. Shared prefixes are the plan's, not the model's.
PLAIN: dict[str, list[tuple[Any, str, Any]]] = {
    "documents apart in attention": [
        (attention_packed, "PackedLayout", DenseMask),
        (modeling, "PackedLayout", DenseMask),
        (modeling, "packed_attention", dense_attention),
    ],
    "logits at targets only": [(modeling.NativeLlamaForCausalLM, "forward", all_logits)],
    "last layer where a loss is read": [(modeling.NativeLlamaForCausalLM, "_reads_few", lambda self, *_: False)],
    "head, loss and gradient in one": [(modeling, "sum_of_losses", plain_loss)],
    "LoRA of several layers at once": [(modeling, "project", plain_project)],
    "SwiGLU with its gradient": [(modeling.NativeLlamaMLP, "forward", plain_mlp)],
    HALF: [(products, "is_x86_without_avx512", lambda: False)],
    "bf16 attention by products": [(attention_products, "_multiplies_bfloat16", lambda x: False)],
    "long documents by blocks of products": [(attention_products, "IN_BLOCKS", range(0))],
    "float32 products by oneDNN": [(products, "_onednn_is_faster", lambda: False)],
    "norm with its gradient": [(modeling.NativeLlamaRMSNorm, "forward", plain_norm)],
    PREFIXES: [],
}
# These do something only where logits are at targets, so alone they are nothing.
NOT_ALONE = ("last layer where a loss is read", "head, loss and gradient in one")


def applies(name: str, workload: str, dtype: str) -> bool:
    """Whether the optimisation does anything for this setting on this processor."""
    if name == PREFIXES:
        return workload == "5q"
    if name == HALF:
        return dtype != "fp32" and products.is_x86_without_avx512()
    if name == "bf16 attention by products":
        return dtype != "fp32" and attention_products._cpu_multiplies_bfloat16()
    if name == "long documents by blocks of products":
        by_float32 = dtype == "fp32" or products.is_x86_without_avx512()
        return by_float32 and workload in ("170+4", "419+41") and products.is_amd_without_avx512()
    return name != "float32 products by oneDNN" or (dtype == "fp32" and products._onednn_is_faster())


@contextlib.contextmanager
def without(names: frozenset[str]) -> Iterator[None]:
    """The plain way in place of each of these optimisations."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, plain in itertools.chain.from_iterable(PLAIN[name] for name in names):
            stack.enter_context(mock.patch.object(owner, attribute, plain))
        yield


def settings(workload: str, dtype: str) -> dict[str, frozenset[str]]:
    """Name -> what is taken away: nothing, everything, each one, and all but each one."""
    names = [name for name in PLAIN if applies(name, workload, dtype)]
    everything = frozenset(names)
    made = {ALL: frozenset(), NONE: everything}
    made |= {f"without {name}": frozenset([name]) for name in names}
    return made | {f"alone {name}": everything - {name} for name in names if name not in NOT_ALONE}


def measure(shape: str, workload: str, dtype: str, total: int, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """One row: tokens per CPU second of every setting, the gains, and the share of the machine's products."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_model(shape, Path(folder))
        adapted = train_native.load(folder, dtype)
    plans = {shared: train_native.plan(adapted, shape, workload, batch, total, shared, learning_rate=0.0)
             for shared in {False, workload == "5q"}}  # fmt: skip
    speeds: dict[str, list[float]] = {name: [] for name in settings(workload, dtype)}
    losses: dict[bool, list[float]] = {shared: [] for shared in plans}
    for _ in range(rounds + 1):
        for name, off in settings(workload, dtype).items():
            shared = workload == "5q" and PREFIXES not in off
            with without(off):
                speed, loss = run(plans[shared], steps)
            speeds[name].append(speed)
            losses[shared].append(loss)
    for found in losses.values():
        if max(found) - min(found) > AGREE[dtype] * max(found):
            raise SystemExit(f"{shape} {workload} {dtype}: the settings do not compute the same losses: {found}")
    medians = {name: statistics.median(found[1:]) for name, found in speeds.items()}  # the first round warms up
    row = {"shape": shape, "workload": workload, "dtype": dtype, **gains(medians)}
    return {**row, "roofline": share(plans[workload == "5q"], shape, dtype, steps, medians[ALL])}


def fullest(training: Training, steps: int) -> list[int]:
    """So many steps with most tokens: an epoch's last batch, wherever the plan has it, may hold one row."""
    every = range(training.total_steps)
    return sorted(every, key=lambda step: train_native.useful_tokens(training, step), reverse=True)[:steps]


def run(training: Training, steps: int) -> tuple[float, float]:
    """Useful tokens per CPU second of the fullest steps, and their mean loss."""
    chosen, tokens, losses = fullest(training, steps), 0, []
    began = time.process_time()
    for step in chosen:
        training.step = step
        losses.append(next(training.run()).loss)
        tokens += train_native.useful_tokens(training, step)
    return tokens / (time.process_time() - began), statistics.mean(losses)


def gains(speeds: dict[str, float]) -> dict[str, Any]:
    """Each optimisation's factor when it comes last (`last`) and when it comes first (`alone`), and that of all of them."""
    names = [name.removeprefix("without ") for name in speeds if name.startswith("without ")]
    found: dict[str, dict[str, float]] = {
        name: {"last": round(speeds[ALL] / speeds[f"without {name}"], 2)} for name in names
    }
    for name in names:
        if f"alone {name}" in speeds:
            found[name]["alone"] = round(speeds[f"alone {name}"] / speeds[NONE], 2)
    return {
        "together": round(speeds[ALL] / speeds[NONE], 2),
        "gains": found,
        "tokens_per_cpu_second": {name: round(speed, 1) for name, speed in speeds.items()},
    }


def share(training: Training, shape: str, dtype: str, steps: int, speed: float) -> dict[str, float]:
    """GFLOP/s that training at this speed amounts to, and its share of both limits (bench/roofline.py)."""
    timed = fullest(training, steps)
    plans = [batch for step in timed for batch in training.plan.steps[step][1]]
    flops = sum(
        roofline.batch_flops(SHAPES[shape], collate([training.plan.families[i] for i in plan])) for plan in plans
    )
    tokens = sum(train_native.useful_tokens(training, step) for step in timed)
    limits = roofline.limits(shape, dtype)
    reached = flops / tokens * speed / 1e9
    return {
        "gflops_per_1000_tokens": round(flops / tokens / 1e6, 2),
        "reached": round(reached, 1),
        **{f"limit_{name}": limit for name, limit in limits.items()},
        **{f"share_{name}": round(reached / limit, 2) for name, limit in limits.items()},
    }


def main() -> None:
    """Measure the settings and save each row when it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["15M", "135M"], choices=list(TOKENS))
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], choices=["fp32", "bf16", "nf4"])
    parser.add_argument("--batch", type=int, default=2048, help="tokens of a batch")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of a setting's turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=results.FOLDER / "ablation.json")
    args = parser.parse_args()
    for shape, dtype, workload in itertools.product(args.shapes, args.dtypes, args.workloads):
        total = min(TOKENS[shape], (args.steps + 1) * 6 * args.batch)
        row = measure(shape, workload, dtype, total, args.batch, args.steps, args.rounds)
        results.save(args.output, row, *KEY)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
