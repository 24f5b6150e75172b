"""Exact resume: the state of a training on the disk.

A checkpoint `step-N` holds all that the rest of the run depends on: trained weights, optimizer, schedule, random state of
every process, position in the data. It is written, flushed, hashed and renamed by `files`, so it is whole or absent; a
damaged one is found by its manifest and never used. Tensors are safetensors, everything else is JSON: no pickle is
written or read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llama_tasks import files
from llama_tasks.errors import RunError
from llama_tasks.parallel import parameters_of, put_weights, shape_of, spread_like, whole, whole_weights
from llama_tasks.train import Training

FILES = ("weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json")
ALLOCATION = "allocation."  # before the names of AdaLoRA's averages, which lie beside the optimizer's
Tensors = dict[str, torch.Tensor]


def save(
    folder: Path, training: Training, extra: dict[str, Any], random: Tensors | None = None, needs: Sequence[str] = ()
) -> Path:
    """Write `folder/step-N` and read it back. Every process must call, for the model may be spread over them; the main one writes.

    Args:
        extra: JSON of the caller's, which `restore` returns.
        random: what `random_states` gave; left out: this process's alone.
        needs: folders beside it (the best weights so far) that it is worth nothing without.

    Returns its path. Raises OSError where the disk refuses, and RunError where it gives back something else than was
    written; checkpoints before it stay as they are.
    """
    target = folder / f"step-{training.step}"
    tensors, scalars = optimizer_state(training.optimizer)
    state = {"step": training.step, "position": training.position, "tokens_seen": training.tokens_seen,
             "optimizer": scalars, "scheduler": training.scheduler.state_dict(), "needs": list(needs), "extra": extra}  # fmt: skip
    if training.allocation:
        more, state["rank_pattern"] = training.allocation.state()
        tensors |= {f"{ALLOCATION}{name}": tensor for name, tensor in more.items()}
    parts = {"weights": trained_weights(training), "optimizer": tensors, "random": random or random_states()}
    if not training.accelerator.is_main_process:
        return target
    with files.staged(target) as staging:
        for name, part in parts.items():
            files.write(staging / f"{name}.safetensors", partial(_write_tensors, tensors=part))
        text = json.dumps(state, indent=1)
        files.write(staging / "state.json", lambda path: path.write_text(text, encoding="utf-8"))
        files.write_manifest(staging)
    files.verify(target, FILES)
    return target


def restore(path: Path, training: Training) -> dict[str, Any]:
    """Bring `training` to the state of the checkpoint; returns its `extra`. Raises RunError for a damaged one."""
    verify(path)
    state = _state(path)
    load_trained_weights(training, load_file(path / "weights.safetensors"))
    tensors = load_file(path / "optimizer.safetensors")
    allocation = {name: tensors.pop(name) for name in list(tensors) if name.startswith(ALLOCATION)}
    load_optimizer_state(training.optimizer, tensors, state["optimizer"])
    if training.allocation:
        more = {name.removeprefix(ALLOCATION): tensor for name, tensor in allocation.items()}
        training.allocation.load(more, state["rank_pattern"])
    training.scheduler.load_state_dict(state["scheduler"])
    set_random_state(load_file(path / "random.safetensors"), training.accelerator.process_index)
    training.step, training.position = state["step"], state["position"]
    training.tokens_seen = state["tokens_seen"]
    return state["extra"]


def find(folder: Path, tell: Callable[[str], None]) -> Path | None:
    """The checkpoint with the highest step (never the latest by clock) that is whole, or None where there is none at all.

    Every damaged one above it is named to `tell` and set aside as `damaged-step-N`.

    Raises:
        RunError: there are checkpoints, and all are damaged.
    """
    damage: list[str] = []
    for path in reversed(_by_step(folder)):
        try:
            verify(path)
        except RunError as error:
            damage.append(str(error))
            continue
        for text in damage:
            tell(f"{text} Going on from {path.name} instead, which is whole.")
        for later in _by_step(folder):
            if _step(later) > _step(path):
                _set_aside(later)
        return path
    if damage:
        raise RunError(
            f"No checkpoint in {folder} is whole: {' '.join(damage)} Put the damaged files back from a copy, or begin again "
            "with --overwrite."
        )
    return None


def newest(folder: Path) -> Path | None:
    """The checkpoint with the highest step, whole or not, or None."""
    found = _by_step(folder)
    return found[-1] if found else None


def keep_newest(folder: Path, count: int) -> None:
    """Remove checkpoints older than the newest `count`, and best weights that none of these needs.

    `save` has verified the newest one before; nothing older goes earlier.
    """
    found = _by_step(folder)
    for path in found[:-count]:
        files.remove(path)
    needed = {name for path in found[-count:] for name in _needs(path)}
    for path in sorted(folder.glob("best-*")):
        if path.name not in needed:
            files.remove(path)


def verify(path: Path) -> None:
    """Raise RunError, which names the file, unless the checkpoint and what it needs are as they were written."""
    files.verify(path, FILES)
    for name in _needs(path):
        files.verify(path.parent / name)


def trained_weights(training: Training) -> Tensors:
    """The weights that training changes, by parameter name, whole and on the CPU; every process must call."""
    return whole_weights(training.accelerator.unwrap_model(training.model), trained=True)


def load_trained_weights(training: Training, weights: Tensors) -> None:
    """Put weights of `trained_weights` back. Raises RunError where names or shapes differ from the recipe's model."""
    model = training.accelerator.unwrap_model(training.model)
    shapes = {name: shape_of(p) for name, p in model.named_parameters() if p.requires_grad}
    if shapes != {name: weight.shape for name, weight in weights.items()}:
        raise RunError(
            "The checkpoint does not fit the recipe's model or adapter; resume with the recipe it was made by."
        )
    put_weights(training.model, model, weights)


def save_weights(folder: Path, weights: Tensors) -> None:
    """Write trained weights alone (the best so far), whole or not at all. Raises OSError where the disk refuses."""
    with files.staged(folder) as staging:
        files.write(staging / "weights.safetensors", partial(_write_tensors, tensors=weights))
        files.write_manifest(staging)


def load_weights(folder: Path) -> Tensors:
    """Read what `save_weights` wrote. Raises RunError where it is damaged."""
    files.verify(folder, ["weights.safetensors"])
    return load_file(folder / "weights.safetensors")


def size_of(training: Training) -> tuple[int, int]:
    """Bytes of one checkpoint and of the trained weights alone, as AdamW's two moments make them."""
    weights = sum(shape_of(p).numel() * p.element_size() for p in training.model.parameters() if p.requires_grad)
    return 3 * weights, weights


def random_states(gather: bool = False) -> Tensors:
    """The random state of this process, or of all (every one must call then): `R.cpu`, `R.cuda` of process R."""
    mine = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        mine["cuda"] = torch.cuda.get_rng_state()
    everyone = gather_object([mine]) if gather else [mine]
    return {f"{rank}.{kind}": state for rank, states in enumerate(everyone) for kind, state in states.items()}


def set_random_state(states: Tensors, rank: int = 0) -> None:
    """Put the state of process `rank` back; one that was not there when it was saved gets one that follows from the
    first one's."""
    if f"{rank}.cpu" not in states:
        torch.set_rng_state(states["0.cpu"])
        torch.manual_seed(int(torch.randint(2**62, ())) + rank)
        return
    torch.set_rng_state(states[f"{rank}.cpu"])
    if f"{rank}.cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"{rank}.cuda"])


def _by_step(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"damaged-{path.name}")
    if aside.exists():
        files.remove(aside)
    files.rename(path, aside)


def _state(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def _needs(path: Path) -> list[str]:
    """What a checkpoint needs beside it; nothing where it cannot be read, for then it is worth nothing."""
    try:
        return list(_state(path)["needs"])
    except (OSError, ValueError, KeyError):
        return []


def _write_tensors(path: Path, tensors: Tensors) -> None:
    """`save_file`, whose own error hides the operating system's number of a refusal. Raises OSError."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        refused = re.search(r"os error (\d+)", str(error))
        if refused is None:
            raise
        raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(path)) from None


def optimizer_state(optimizer: Any) -> tuple[Tensors, dict[str, Any]]:
    """An optimizer's state as tensors by `parameter.name` (whole, on the CPU, no two in one storage) and as what JSON knows; every
    process must call."""
    state = optimizer.state_dict()
    tensors, values, seen = Tensors(), dict[str, Any](), set[int]()
    for name, value in _leaves(state["state"]):
        if not isinstance(value, torch.Tensor):
            values[name] = value
            continue
        value = whole(value.detach()).cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        tensors[name] = value.clone() if place in seen else value
        seen.add(place)
    return tensors, {"param_groups": state["param_groups"], "values": values}


def load_optimizer_state(optimizer: Any, tensors: Tensors, scalars: dict[str, Any]) -> None:
    """Put back what `optimizer_state` gave, in the precision that it had: torch casts all but `step` to the parameter's."""
    parameters = parameters_of(optimizer)
    slots: dict[Any, Any] = {}
    for name, value in {**tensors, **scalars.get("values", {})}.items():
        index, *path = name.split(".")
        place = slots.setdefault(int(index), {})
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = spread_like(value, parameters[int(index)]) if isinstance(value, torch.Tensor) else value
    optimizer.load_state_dict({"state": slots, "param_groups": scalars["param_groups"]})
    for number, slot in slots.items():
        # Nothing under DeepSpeed, whose flat pieces are put back as saved.
        held = optimizer.state.get(parameters[number], {})
        for name in held.keys() & slot.keys():
            if isinstance(slot[name], torch.Tensor) and held[name].dtype != slot[name].dtype:
                held[name] = slot[name].to(held[name].device)


def _leaves(tree: dict[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """bitsandbytes keeps its tensors one level deeper than torch."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
