"""DeepSpeed's ZeRO-2 and ZeRO-3 under the loop: what its engine cuts into flat pieces (optimizer state and gradients, with ZeRO-3
the weights too) is given and taken whole, by parameter, so that checkpoints are those of every other launch.

DeepSpeed averages gradients over processes and divides them by its own number of accumulated batches, clips them to a norm of 1
unless told otherwise, and steps where they are finite. The loss is multiplied by the number of processes, that number of batches
is set to 1, the norm to the recipe's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from llama_tasks.errors import RecipeError
from llama_tasks.recipe import Recipe, TrainConfig

# Those that compute every number by itself, so that a flat piece of many weights steps as the weights would. Adagrad does, but
# DeepSpeed makes it anew with other settings.
IN_TORCH = ("ASGD", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
BY_NUMBER = {"adamw_torch", "adamw_torch_fused", "sgd", "rmsprop", *(f"torch.optim.{name}" for name in IN_TORCH)}


def check_installed() -> None:
    """Raise RecipeError where the launcher asks for DeepSpeed and it is not installed."""
    if find_spec("deepspeed") is None:
        raise RecipeError(
            "The launcher's file asks for DeepSpeed, which is not installed: pip install 'llama-tasks[deepspeed]'. "
            "recipes/launch/fsdp2.yaml cuts the same (ZeRO-3) without it, fsdp2_zero2.yaml as ZeRO-2."
        )


def check(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Raise RecipeError for what DeepSpeed's `config` or the recipe asks and the two cannot do together, exactly."""
    zero = config.get("zero_optimization", {})
    reasons = {
        f"zero_stage: {zero.get('stage')} is not supported; set 2 or 3": zero.get("stage") not in (2, 3),
        "offloading is not supported; set offload_optimizer_device and offload_param_device to none": any(
            (zero.get(part) or {}).get("device") not in (None, "none") for part in ("offload_optimizer", "offload_param")
        ),
        "optimizer, scheduler, fp16 and bf16 are the recipe's (train.optim, base.dtype); take them out of DeepSpeed's file": any(
            config.get(key) and config[key].get("enabled", True) is not False
            for key in ("optimizer", "scheduler", "fp16", "bf16")
        ),
        "ZeRO-3 cannot cut a quantised base; launch with deepspeed_zero2.yaml or fsdp2.yaml, or set base.quantization=none": (
            zero.get("stage") == 3 and recipe.base.is_quantized
        ),
        "AdaLoRA reads gradients, which DeepSpeed keeps in pieces; launch with ddp.yaml": (
            str((recipe.adapter or {}).get("peft_type", "LORA")).upper() == "ADALORA"
        ),
        f"train.optim: {recipe.train.optim} does not step every number by itself, so not in DeepSpeed's flat pieces either; "
        "choose another, such as adamw_torch_fused, or launch with ddp.yaml": recipe.train.optim not in BY_NUMBER,
        "all weights are trained in float32 with DeepSpeed; set base.dtype=float32": (
            recipe.adapter is None and recipe.base.dtype not in ("auto", "float32")
        ),
    }  # fmt: skip
    for reason, holds in reasons.items():
        if holds:
            raise RecipeError(f"DeepSpeed: {reason}.")


def begin(accelerator: Accelerator) -> None:
    """Take the model's loading back from DeepSpeed: it is loaded whole, on the CPU, and cut when the optimizer is there. So every
    adapter can be put on it, and the trained model can be read back whole beside it."""
    from transformers.integrations import unset_hf_deepspeed_config

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    accelerator.state.deepspeed_plugin.dschf = None
    unset_hf_deepspeed_config()


def prepare(accelerator: Accelerator, model: Any, optimizer: Any, config: TrainConfig) -> tuple[Any, ZeroOptimizer]:
    """The engine, and the optimizer as the loop and the checkpoints know one."""
    groups = [list(group["params"]) for group in optimizer.param_groups]
    accelerator.state.deepspeed_plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": config.max_grad_norm,
        "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip
    engine, _ = accelerator.prepare(model, optimizer)
    return engine, ZeroOptimizer(engine, groups)


class _Piece(NamedTuple):
    """The `size` numbers of one parameter, from `start` of it, that this process has in a flat tensor, from `offset` of that."""

    flat: Tensor
    offset: int
    start: int
    size: int

    def put(self, value: Tensor, flat: Tensor) -> None:
        """Write what is this process's of a whole value to a flat tensor."""
        flat[self.offset : self.offset + self.size] = value.flatten()[self.start : self.start + self.size].to(flat)

    def whole(self, flat: Tensor, shape: torch.Size) -> Tensor:
        """The value of all processes in one piece; every process must ask."""
        value = flat.new_zeros(shape.numel())
        value[self.start : self.start + self.size] = flat[self.offset : self.offset + self.size]
        torch.distributed.all_reduce(value)  # of each number, all but one process add a zero
        return value.view(shape)


class ZeroOptimizer(AcceleratedOptimizer):
    """A torch optimizer whose parameters DeepSpeed's engine has replaced by flat pieces; `parameters` are the model's own."""

    def __init__(self, engine: Any, groups: Sequence[Sequence[Any]]) -> None:
        super().__init__(engine.optimizer.optimizer, device_placement=False)
        self.engine, self.groups = engine, groups
        self.parameters = [parameter for group in groups for parameter in group]

    def step_clipped(self, loss: float) -> float:
        """Clip and step; returns the norm of the gradients before. Where they or the loss are not finite it is infinite, and
        nothing was changed."""
        if not math.isfinite(loss):
            from deepspeed.utils import safe_set_full_grad

            for parameter in self.parameters:
                safe_set_full_grad(parameter, torch.full(shape_of(parameter), math.nan, device=parameter.device))
        self.engine.step()
        return math.inf if self.engine.optimizer.overflow else float(self.engine.get_global_grad_norm())

    def step(self, closure: Any = None) -> None:
        """Nothing: `step_clipped` has stepped."""

    def zero_grad(self, set_to_none: bool | None = None) -> None:
        """Nothing: the engine forgets gradients when it steps, taken or not."""

    def state_dict(self) -> dict[str, Any]:
        """As torch's, of whole parameters; every process must call."""
        state: dict[int, dict[str, Any]] = {}
        for index, piece in enumerate(self._pieces()):
            shape, slots = shape_of(self.parameters[index]), self.optimizer.state.get(piece.flat, {})
            found = {name: piece.whole(value, shape) if _is_flat(value, piece.flat) else value
                     for name, value in slots.items()}  # fmt: skip
            state |= {index: found} if found else {}
        numbers = iter(range(len(self.parameters)))
        return {"state": state, "param_groups": [{**settings, "params": [next(numbers) for _ in group]}
                for settings, group in zip(self.param_groups, self.groups, strict=True)]}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, here or on any number of processes."""
        for settings, given in zip(self.param_groups, state_dict["param_groups"], strict=True):
            settings.update({key: value for key, value in given.items() if key != "params"})
        fused = any(settings.get("fused") or settings.get("capturable") for settings in self.param_groups)
        pieces = list(self._pieces())
        for piece in pieces:
            self.optimizer.state.pop(piece.flat, None)
        for index, piece in enumerate(pieces):
            shape, slots = shape_of(self.parameters[index]), self.optimizer.state[piece.flat]
            for name, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor) and value.shape == shape:
                    slots.setdefault(name, torch.zeros_like(piece.flat, dtype=value.dtype))
                    piece.put(value, slots[name])
                elif isinstance(value, Tensor):
                    slots[name] = value.to(piece.flat.device, copy=True) if fused else value.clone()
                else:
                    slots[name] = value

    def _pieces(self) -> Iterator[_Piece]:
        """This process's piece of each parameter, in their order."""
        zero = self.engine.optimizer
        if hasattr(zero, "grad_position"):  # ZeRO-3: each parameter is cut by itself
            rank = torch.distributed.get_rank()
            for parameter in self.parameters:
                group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
                start = min(rank * size, parameter.ds_numel)
                yield _Piece(
                    zero.fp32_partitioned_groups_flat[group], offset, start, min(size, parameter.ds_numel - start)
                )
            return
        for flat, parameters in zip(zero.single_partition_of_fp32_groups, self.groups, strict=True):
            for parameter in parameters:  # ZeRO-2: all of a group as one row of numbers is cut
                held = parameter._hp_mapping
                if held is None:
                    yield _Piece(flat, 0, 0, 0)
                else:
                    own, its = held.hp_fragment_address, held.lp_fragment_address
                    yield _Piece(flat, own.start, its.start, its.numel)


def _is_flat(value: Any, flat: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == flat.shape


def is_cut(parameter: Any) -> bool:
    """Whether ZeRO-3 has cut a parameter."""
    return hasattr(parameter, "ds_id")


def shape_of(parameter: Any) -> torch.Size:
    """A parameter's shape, cut or not."""
    return getattr(parameter, "ds_shape", parameter.shape)


def whole(parameter: Any) -> Tensor:
    """A copy of a parameter that ZeRO-3 has cut, in one piece; every process must ask."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def put(engine: Any, parameters: Mapping[str, Any], values: Mapping[str, Tensor]) -> None:
    """Give trained parameters of an engine whole values, by name; every process must call, with the same ones."""
    import deepspeed

    with torch.no_grad():
        for name, value in values.items():
            with deepspeed.zero.GatheredParameters([parameters[name]], modifier_rank=0):
                parameters[name].copy_(value)
    engine.optimizer.refresh_fp32_params()
