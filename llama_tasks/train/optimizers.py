"""The optimizer and the schedule that a recipe names, by transformers' own names and with the classes' own settings.

Which class belongs to a name is transformers' table (`Trainer.get_optimizer_cls_and_kwargs`); what may be set is the class's
own signature. There is no code here per optimizer.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from llama_tasks.errors import RecipeError, did_you_mean
from llama_tasks.recipe import TrainConfig

# Settings that are keys of their own.
OWN_KEYS = {"lr": "learning_rate", "weight_decay": "weight_decay", "warmup_steps": "warmup_steps"}
MODULES = ("torch.optim", "bitsandbytes.optim")
# They step inside of the backward pass, where neither accumulated nor clipped gradients are known.
WITHIN_BACKWARD = ("lomo", "adalomo")
# They step as plain AdamW or Adafactor where no group says its rank.
WITH_A_RANK = ("galore_", "apollo_")
# They ask for a score after every step; ours come a few times a run.
ON_A_METRIC = ("reduce_lr_on_plateau", "greedy")


def make_optimizer(model: Any, config: TrainConfig, learning_rate: float, warmup_steps: int) -> torch.optim.Optimizer:
    """The optimizer of the model's trainable parameters.

    Raises:
        RecipeError: an unknown name, one that is not installed, a setting that its class does not have or refuses.
    """
    cls, settings = _class_and_settings(config, learning_rate, warmup_steps)
    _check(config.optim_args, _signature(cls), "train.optim_args")
    settings |= {"lr": learning_rate} | config.optim_args
    if "weight_decay" in _signature(cls):
        settings["weight_decay"] = config.weight_decay
    elif config.weight_decay:
        raise RecipeError(f"train.weight_decay: {config.optim} has none; leave it out.")
    if config.adam_beta2 != TrainConfig.adam_beta2 and ("betas" not in settings or "betas" in config.optim_args):
        raise RecipeError(
            f"train.adam_beta2 does not reach {config.optim} here; leave it out and write what its class has "
            "(betas: [0.9, 0.95]) in train.optim_args."
        )
    try:
        _try(cls, settings, next(model.parameters()).device)
        if config.loraplus_lr_ratio is not None:
            return _with_ratio(model, cls, config, settings)
        return cls([p for p in model.parameters() if p.requires_grad], **settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise RecipeError(f"train.optim_args: {config.optim} refuses these settings: {_first_line(error)}") from None


def step_once(optimizer: Any) -> None:
    """One step outside of the loop; schedule-free optimizers refuse it unless told that this is training."""
    if hasattr(optimizer, "train"):
        optimizer.train()
    optimizer.step()


def make_scheduler(optimizer: Any, config: TrainConfig, warmup_steps: int, total_steps: int) -> Any:
    """The schedule of the learning rate. Raises RecipeError for an unknown one, or settings that it does not have."""
    from transformers import SchedulerType, get_scheduler
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    name, known = config.lr_scheduler_type, [kind.value for kind in SchedulerType]
    if name not in known:
        raise RecipeError(f"train.lr_scheduler_type is {name!r}.{did_you_mean(name, known)}")
    if name in ON_A_METRIC:
        raise RecipeError(
            f"train.lr_scheduler_type: {name} follows a score after every step, and validation comes a few times a run; choose "
            "another, such as cosine."
        )
    if config.optim.startswith("schedule_free") and name != "constant":
        raise RecipeError(
            f"train.optim: {config.optim} needs no schedule (its warm-up is train.warmup_steps); write "
            "train.lr_scheduler_type=constant."
        )
    taken = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    settings = set() if name.startswith("constant") else set(_parameters(TYPE_TO_SCHEDULER_FUNCTION[name])) - taken
    _check(config.lr_scheduler_kwargs, settings, "train.lr_scheduler_kwargs")
    try:
        return get_scheduler(name, optimizer, warmup_steps, total_steps, dict(config.lr_scheduler_kwargs))
    except (ValueError, TypeError) as error:
        raise RecipeError(
            f"train.lr_scheduler_type: {name} needs other settings in train.lr_scheduler_kwargs "
            f"({', '.join(sorted(settings)) or 'it has none'}): {_first_line(error)}"
        ) from None


def _class_and_settings(config: TrainConfig, learning_rate: float, warmup_steps: int) -> tuple[Any, dict[str, Any]]:
    """The class, and what transformers gives it beside the parameters."""
    if config.optim.startswith(MODULES):
        return _from_module(config.optim), {}
    from transformers import Trainer
    from transformers.training_args import OptimizerNames

    known = [kind.value for kind in OptimizerNames]
    if config.optim not in known:
        raise RecipeError(f"train.optim is {config.optim!r}.{did_you_mean(config.optim, known)}")
    if config.optim in WITHIN_BACKWARD or config.optim.endswith("_layerwise"):
        raise RecipeError(
            f"train.optim: {config.optim} steps inside of the backward pass, without accumulated or clipped gradients; choose "
            "another, such as adamw_torch_fused."
        )
    if config.optim.startswith(WITH_A_RANK):
        raise RecipeError(
            f"train.optim: {config.optim} needs groups of parameters with a rank, which are not made here; choose another, such as "
            "adamw_torch_fused."
        )
    args: Any = SimpleNamespace(  # of TrainingArguments what is read
        optim=config.optim, optim_args=None, learning_rate=learning_rate, adam_beta1=0.9, adam_beta2=config.adam_beta2,
        adam_epsilon=1e-8, weight_decay=config.weight_decay, warmup_steps=warmup_steps,
    )  # fmt: skip
    try:
        return Trainer.get_optimizer_cls_and_kwargs(args)
    except (ValueError, ImportError) as error:
        raise RecipeError(f"train.optim: {config.optim} is not installed. {_first_line(error)}") from None


def _from_module(path: str) -> Any:
    """`torch.optim.NAdam` or `bitsandbytes.optim.LAMB` -> the class."""
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise RecipeError(f"train.optim: {path} is not installed ({error}).") from None
    classes = [key for key, value in vars(found).items() if inspect.isclass(value) and hasattr(value, "zero_grad")]
    if name not in classes:
        raise RecipeError(f"train.optim: {module} has no optimizer {name!r}.{did_you_mean(name, sorted(classes))}")
    cls = getattr(found, name)
    closure = inspect.signature(cls.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise RecipeError(f"train.optim: {path} computes the loss several times a step, which this loop does not do.")
    return cls


def _try(cls: Any, settings: dict[str, Any], device: torch.device) -> None:
    """One step on four numbers, where a setting that the class has not looked at, or a kind of gradient, is refused."""
    weight = torch.nn.Parameter(torch.zeros(2, 2, device=device))
    weight.grad = torch.ones_like(weight)
    step_once(cls([weight], **settings))


def _with_ratio(model: Any, cls: Any, config: TrainConfig, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """LoRA+ (Hayou et al., 2024): the matrices B learn `loraplus_lr_ratio` times as fast as A.

    Of an embedding, peft begins with zeros in A and not in B, and gives both one rate: the recipe's, for its own 1e-6 would hardly
    train them.
    """
    from peft.optimizers import create_loraplus_optimizer

    if not any("lora_B" in name for name, p in model.named_parameters() if p.requires_grad):
        raise RecipeError("train.loraplus_lr_ratio is for LoRA, which this recipe does not train; leave it out.")
    decay = settings.pop("weight_decay", 0.0)
    optimizer = create_loraplus_optimizer(
        model, cls, loraplus_lr_ratio=config.loraplus_lr_ratio, loraplus_lr_embedding=settings["lr"],
        loraplus_weight_decay=decay, **settings,
    )  # fmt: skip
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    return optimizer


def _check(given: Mapping[str, Any], known: set[str], key: str) -> None:
    for name in given:
        if name in OWN_KEYS:
            raise RecipeError(f"{key}.{name} has a key of its own: train.{OWN_KEYS[name]}.")
        if name not in known:
            raise RecipeError(f"unknown key '{key}.{name}'.{did_you_mean(name, sorted(known - set(OWN_KEYS)))}")


def _signature(cls: Any) -> set[str]:
    return set(_parameters(cls)) - {"params", "self", "args", "kwargs"}


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
