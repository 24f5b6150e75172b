"""Whether the native model and transformers' LLaMA with peft compute the same first step: loss and gradients, in float32."""

from __future__ import annotations

from typing import Any

import torch
import train_native
import train_peer
from peft import LoraConfig, get_peft_model
from workloads import RANK

from llama_tasks.packing import collate

LOSS, GRADIENTS = 1e-6, 1e-5  # largest relative differences that count as the same


def check(model: str, shape: str, workload: str, batch_tokens: int, total: int) -> dict[str, Any]:
    """Relative difference of the loss, and the largest one of the gradients' norms, on the first packed batch.

    Weights, examples and LoRA are equal; B is drawn instead of zero, so that A has a gradient too. Raises SystemExit where
    they differ by more than `LOSS` or `GRADIENTS`.
    """
    native = train_native.load(model, "fp32").train()
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, task_type="CAUSAL_LM", target_modules=train_peer.TARGETS)
    peer = get_peft_model(train_peer.load(model, "fp32"), lora).train()
    draw_alike(native, peer)
    training = train_native.plan(native, shape, workload, batch_tokens, total)
    families = [training.plan.families[i] for batch in training.plan.steps[0][1] for i in batch]
    members = [member for family in families for member in family.members]
    rows = [{"input_ids": m.input_ids, "labels": m.labels, "length": len(m.input_ids)} for m in members]
    batch = collate(families)
    ours = native(**batch.inputs(), labels=batch.labels, num_items_in_batch=batch.num_targets, skip_logits=True).loss
    theirs = peer(**train_peer.padded(rows, [])).loss
    ours.backward()
    theirs.backward()
    found = {
        "loss": abs(float(ours.detach() - theirs.detach())) / abs(float(theirs.detach())),
        "gradients": max(differences(native, peer).values()),
        "tokens": sum(row["length"] for row in rows),
    }
    if not (found["loss"] <= LOSS and found["gradients"] <= GRADIENTS):
        raise SystemExit(f"{shape} {workload}: native and transformers + peft do not compute the same: {found}")
    return found


def draw_alike(native: Any, peer: Any) -> None:
    """The same LoRA factors in both, none of them zero."""
    generator = torch.Generator().manual_seed(0)
    theirs = dict(peer.named_parameters())
    for name, weight in native.named_parameters():
        if weight.requires_grad:
            weight.data.normal_(std=0.02, generator=generator)
            theirs[name].data.copy_(weight.data)


def differences(native: Any, peer: Any) -> dict[str, float]:
    """|g - g'| / |g'| of each trained weight."""
    theirs = {name: weight.grad for name, weight in peer.named_parameters() if weight.requires_grad}
    ours = {name: weight.grad for name, weight in native.named_parameters() if weight.requires_grad}
    if ours.keys() != theirs.keys():
        raise SystemExit(f"other weights are trained: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    return {name: float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in ours}
