"""Several processes: the launcher's settings made true, a model that is spread over them (FSDP2, DeepSpeed) in one piece and
back, and what a lost process looks like to the others."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, parse_flag_from_env

from llama_tasks.errors import RecipeError, RunError
from llama_tasks.parallel import zero
from llama_tasks.recipe import Recipe, TrainConfig

# What gloo says when the process at the other end of a connection is gone; NCCL raises DistBackendError.
GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo")


def make_accelerator(recipe: Recipe, **settings: Any) -> Accelerator:
    """accelerate's `Accelerator`, with the launcher's settings taken for what they say, or refused.

    accelerate shards on accelerators alone: with FSDP's or DeepSpeed's settings and CPU processes it would silently copy the
    model.

    Raises:
        RecipeError: FSDP 1; DeepSpeed where it is not installed, or with what it cannot do (`zero.check`).
    """
    uses_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if uses_deepspeed:
        zero.check_installed()
    own = process()
    accelerator = Accelerator(cpu=own.device.type == "cpu", **settings)
    state = accelerator.state
    if accelerator.distributed_type is DistributedType.MULTI_CPU:
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            state.fsdp_plugin = FullyShardedDataParallelPlugin()
            _be(accelerator, DistributedType.FSDP)
        elif uses_deepspeed:
            state.deepspeed_plugins = DeepSpeedPlugin()
            _be(accelerator, DistributedType.DEEPSPEED)
            state.deepspeed_plugin.select(_from_accelerator_state=True)
    if is_deepspeed(accelerator):
        zero.check(recipe, state.deepspeed_plugin.deepspeed_config)
        zero.begin(accelerator)
    if accelerator.distributed_type is DistributedType.FSDP and not accelerator.is_fsdp2:
        raise RecipeError(
            "FSDP 1 is not supported; set fsdp_version: 2 in the launcher's file (recipes/launch/fsdp2.yaml)."
        )
    return accelerator


def process() -> PartialState:
    """This process among those of its launcher: its index, their number, its device.

    On a machine without an accelerator, accelerate takes processes for several only where it is told to use the CPU; without a
    word of that each would work alone, in the same folder.

    Raises:
        RecipeError: they do not know of each other all the same.
        RunError: they do not find each other at the address that they were given.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    unknown = device is None or device.type == "mps"  # of which accelerate makes no group
    try:
        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or (started > 1 and unknown))
    except RuntimeError as error:
        # Only newer versions of torch than 2.6 make a DistError of a port in use.
        if not isinstance(error, torch.distributed.DistError) and "EADDRINUSE" not in str(error):
            raise
        address = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise RunError(
            f"The {started} processes did not find each other at {address} ({str(error).splitlines()[0]}). Is another job "
            "using this port (--main_process_port, --master_port), or did a process end before it came there?"
        ) from None
    if state.num_processes < started:
        raise RecipeError(
            f"The launcher started {started} processes, but accelerate sees {state.num_processes}: they would not work "
            "together. Start them with `accelerate launch` and a file of recipes/launch."
        )
    return state


def _be(accelerator: Accelerator, kind: DistributedType) -> None:
    PartialState().distributed_type = accelerator.state.distributed_type = kind  # the one is made from the other anew


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed's engine drives the optimizer."""
    return accelerator.distributed_type is DistributedType.DEEPSPEED


def will_spread(accelerator: Accelerator) -> bool:
    """Whether the model's weights will be in pieces (FSDP2, ZeRO-3), so that it is loaded on the CPU."""
    return accelerator.is_fsdp2 or (is_deepspeed(accelerator) and accelerator.state.deepspeed_plugin.zero_stage == 3)


def offloads(accelerator: Accelerator) -> bool:
    """Whether FSDP2 keeps the pieces in the CPU's memory."""
    if not accelerator.is_fsdp2:
        return False
    from torch.distributed.fsdp import CPUOffloadPolicy

    # Where it does not, accelerate still has a policy, of the class above, which is true like any object.
    return isinstance(accelerator.state.fsdp_plugin.cpu_offload, CPUOffloadPolicy)


def needs_others(accelerator: Accelerator) -> bool:
    """Whether a forward or backward pass waits for the other processes, even without adding gradients up over them."""
    return accelerator.is_fsdp2 or is_deepspeed(accelerator)


def layout(accelerator: Accelerator) -> str:
    """What each process holds, in words."""
    if is_deepspeed(accelerator):
        stage = accelerator.state.deepspeed_plugin.zero_stage
        held = "the model's weights" if stage == 3 else "the whole model on each, gradients and optimizer"
        return f"{held} in pieces on all of them (DeepSpeed, ZeRO-{stage})"
    return (
        "the model's weights in pieces on all of them (FSDP2)"
        if accelerator.is_fsdp2
        else "the whole model on each (DDP)"
    )


def prepare(accelerator: Accelerator, model: Any, optimizer: Any, config: TrainConfig) -> tuple[Any, Any]:
    """`accelerator.prepare`; a model that `spread` has cut already only needs its optimizer wrapped."""
    if is_deepspeed(accelerator):
        return zero.prepare(accelerator, model, optimizer, config)
    if accelerator.is_fsdp2:
        return model, accelerator.prepare_optimizer(optimizer)
    return accelerator.prepare(model, optimizer)


def backward(accelerator: Accelerator, model: Any, loss: torch.Tensor, is_last: bool) -> None:
    """Add the gradients of a loss, summed over processes; `is_last`: of an optimizer step."""
    loss = (
        loss * accelerator.num_processes
    )  # all of them average gradients over processes; the mathematics wants their sum
    if is_deepspeed(accelerator):
        model.set_gradient_accumulation_boundary(is_last)
        model.backward(loss)
    else:
        accelerator.backward(loss)


def clip(accelerator: Accelerator, model: Any, optimizer: Any, config: TrainConfig, loss: float) -> float:
    """Clip the gradients; returns their norm before. DeepSpeed clips as it steps, so there the step is taken with it."""
    if isinstance(optimizer, zero.ZeroOptimizer):
        return optimizer.step_clipped(loss)
    most = config.max_grad_norm or math.inf  # 0 is no limit, as DeepSpeed and transformers read it
    return float(whole(accelerator.clip_grad_norm_(model.parameters(), most)))


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
    reshard(model)
    return any(hasattr(p, "full_tensor") or zero.is_cut(p) for p in model.parameters())


def reshard(model: Any) -> None:
    """Cut weights again that FSDP2, as ZeRO-2, has left whole after a pass without a backward one: what is written into those is
    lost when they are cut."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def whole(tensor: Any) -> torch.Tensor:
    """The tensor in one piece, without its history; where it is spread, every process must ask for it."""
    if zero.is_cut(tensor):
        return zero.whole(tensor)
    # What autograd follows comes as a promise, which has no memory of its own.
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole_weights(model: torch.nn.Module, trained: bool) -> dict[str, torch.Tensor]:
    """Parameters by name (`trained`: those alone), whole and on the CPU; every process must ask."""
    reshard(model)
    named = model.named_parameters(remove_duplicate=trained)  # a whole model is saved with its tied head too
    asked = {name: p for name, p in named if p.requires_grad or not trained}
    return {name: whole(p).cpu().contiguous() for name, p in asked.items()}


def put_weights(model: Any, unwrapped: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Give parameters whole values, by name, in a `model` as it was prepared; every process must call."""
    reshard(unwrapped)
    parameters = dict(unwrapped.named_parameters())
    if hasattr(model, "set_gradient_accumulation_boundary"):  # DeepSpeed's engine, which has copies of them
        zero.put(model, parameters, weights)
        return
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(spread_like(weight, parameters[name]))


def parameters_of(optimizer: Any) -> list[Any]:
    """The model's parameters that an optimizer steps, in the order of its groups."""
    if isinstance(optimizer, zero.ZeroOptimizer):
        return optimizer.parameters
    return [p for group in optimizer.param_groups for p in group["params"]]


def spread_like(value: torch.Tensor, target: Any) -> torch.Tensor:
    """A whole tensor as `target` is spread, where `target` is and has the same shape; every process must call."""
    if not hasattr(target, "full_tensor") or value.shape != target.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)


def is_lost(error: BaseException) -> bool:
    """Whether the error says that another process of the run is gone."""
    return isinstance(error, torch.distributed.DistBackendError) or any(sign in str(error) for sign in GONE)
