"""Several processes: the launcher's settings made true, a model that is spread over them (FSDP2) in one piece and back, and
what a lost process looks like to the others."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin

from llama_tasks.errors import RecipeError

# What gloo says when the process at the other end of a connection is gone; NCCL raises DistBackendError.
GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo")


def check_launch(accelerator: Accelerator) -> None:
    """Take the launcher's settings for what they say, or refuse them.

    accelerate shards on accelerators alone: with FSDP settings and CPU processes it would silently copy the model.

    Raises:
        RecipeError: DeepSpeed or FSDP 1, which the loop was not made for.
    """
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        raise RecipeError(
            "DeepSpeed steps by itself, which exact accumulation and resume do not bear. FSDP2 spreads the same: launch with "
            "recipes/launch/fsdp2.yaml (ZeRO-3) or fsdp2_zero2.yaml."
        )
    state = accelerator.state
    if accelerator.distributed_type is DistributedType.MULTI_CPU and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        PartialState().distributed_type = state.distributed_type = (
            DistributedType.FSDP
        )  # the one is made from the other anew
    if accelerator.distributed_type is DistributedType.FSDP and not accelerator.is_fsdp2:
        raise RecipeError(
            "FSDP 1 is not supported; set fsdp_version: 2 in the launcher's file (recipes/launch/fsdp2.yaml)."
        )


def prepare(accelerator: Accelerator, model: Any, optimizer: Any) -> tuple[Any, Any]:
    """`accelerator.prepare`; a model that `spread` has cut already only needs its optimizer wrapped."""
    if accelerator.is_fsdp2:
        return model, accelerator.prepare_optimizer(optimizer)
    return accelerator.prepare(model, optimizer)


def spread(model: Any, accelerator: Accelerator) -> None:
    """With FSDP2, cut the model into pieces in place: one group for each decoder layer (by the class's `_no_split_modules`), one
    for the rest. To be called before its optimizer is made. 4-bit weights stay whole on every device.

    accelerate's own cut keeps the head whole only while the head's module runs; our loss multiplies by its weight a chunk at a
    time, so embedding, last norm and head belong to the model itself here, and are whole from its first layer to its last.
    """
    if not accelerator.is_fsdp2:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    plugin = accelerator.state.fsdp_plugin
    packed = {p for p in model.parameters() if not p.is_floating_point()}
    settings = {
        "mesh": init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        "reshard_after_forward": plugin.reshard_after_forward,
        **({"offload_policy": plugin.cpu_offload} if plugin.cpu_offload else {}),
        **({"ignored_params": packed} if packed else {}),
    }
    for module in list(model.modules()):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, **settings)
    fully_shard(model, **settings)
    register_fsdp_forward_method(model, "generate")


def is_spread(model: Any) -> bool:
    """Whether the model's weights are in pieces on several processes."""
    return any(hasattr(p, "full_tensor") for p in model.parameters())


def whole(tensor: Any) -> torch.Tensor:
    """The tensor in one piece; where it is spread, every process must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole_weights(model: torch.nn.Module, trained: bool) -> dict[str, torch.Tensor]:
    """Parameters by name (`trained`: those alone), whole and on the CPU; every process must ask."""
    asked = {name: p for name, p in model.named_parameters() if p.requires_grad or not trained}
    return {name: whole(p.detach()).cpu().contiguous() for name, p in asked.items()}


def spread_like(value: torch.Tensor, target: Any) -> torch.Tensor:
    """A whole tensor as `target` is spread, where `target` is and has the same shape; every process must call."""
    if not hasattr(target, "full_tensor") or value.shape != target.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)


def is_lost(error: BaseException) -> bool:
    """Whether the error says that another process of the run is gone."""
    return isinstance(error, torch.distributed.DistBackendError) or any(sign in str(error) for sign in GONE)
