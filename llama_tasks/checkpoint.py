"""Atomic save, exact resume.

A checkpoint is written to a staging folder, flushed to the disk, given a manifest with the SHA-256 of every file, and
renamed; so a folder named `step-N` is either whole or absent. Tensors are safetensors, everything else is JSON: no
pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from llama_tasks.errors import RunError
from llama_tasks.train import Training

_MANIFEST = "manifest.json"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` only when the block ends well; an older `target` is replaced."""
    staging = target.with_name(f".{target.name}.{os.getpid()}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        for path in staging.rglob("*"):
            if path.is_file():
                _flush(path)
        _flush(staging)
        if target.exists():
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            target.rename(old)
            staging.rename(target)
            shutil.rmtree(old)
        else:
            staging.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def save(folder: Path, training: Training, extra: dict[str, Any]) -> Path:
    """Write `folder/step-N`: trained weights, optimizer, schedule, random state, position, and `extra` (JSON).

    Returns its path. Raises OSError where the disk refuses; checkpoints before it stay as they are.
    """
    target = folder / f"step-{training.step}"
    tensors, scalars = _optimizer_state(training.optimizer)
    with staged(target) as staging:
        save_file(trained_weights(training), staging / "weights.safetensors")
        save_file(tensors, staging / "optimizer.safetensors")
        save_file(_random_state(), staging / "random.safetensors")
        state = {"step": training.step, "position": training.position, "tokens_seen": training.tokens_seen,
                 "optimizer": scalars, "scheduler": training.scheduler.state_dict(), "extra": extra}  # fmt: skip
        (staging / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        _write_manifest(staging)
    return target


def restore(path: Path, training: Training) -> dict[str, Any]:
    """Bring `training` to the state of the checkpoint; returns its `extra`. Raises RunError for a damaged one."""
    verify(path)
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    load_trained_weights(training, load_file(path / "weights.safetensors"))
    _load_optimizer_state(training.optimizer, load_file(path / "optimizer.safetensors"), state["optimizer"])
    training.scheduler.load_state_dict(state["scheduler"])
    _set_random_state(load_file(path / "random.safetensors"))
    training.step, training.position = state["step"], state["position"]
    training.tokens_seen = state["tokens_seen"]
    return state["extra"]


def newest(folder: Path) -> Path | None:
    """The checkpoint with the highest step (never the latest by clock), or None."""
    found = {int(path.name[5:]): path for path in folder.glob("step-*") if path.name[5:].isdigit()}
    return found[max(found)] if found else None


def keep_newest(folder: Path, count: int) -> None:
    """Remove checkpoints older than the newest `count`; call it after a newer one is on the disk."""
    found = sorted((int(path.name[5:]), path) for path in folder.glob("step-*") if path.name[5:].isdigit())
    for _, path in found[:-count]:
        shutil.rmtree(path)


def verify(path: Path) -> None:
    """Raise RunError unless every file of the checkpoint has the hash that its manifest names."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunError(
            f"{path} has no readable {_MANIFEST}, so it cannot be trusted; remove the folder and resume again."
        ) from None
    for name, digest in manifest.items():
        if not (path / name).is_file() or _sha256(path / name) != digest:
            raise RunError(
                f"{path / name} is damaged (its SHA-256 is not that of the manifest); remove {path} and resume again."
            )


def trained_weights(training: Training) -> dict[str, torch.Tensor]:
    """The weights that training changes, by parameter name, on the CPU."""
    model = training.accelerator.unwrap_model(training.model)
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def load_trained_weights(training: Training, weights: dict[str, torch.Tensor]) -> None:
    """Put weights of `trained_weights` back. Raises RunError where names or shapes differ from the recipe's model."""
    parameters = {
        n: p for n, p in training.accelerator.unwrap_model(training.model).named_parameters() if p.requires_grad
    }
    if {n: p.shape for n, p in parameters.items()} != {n: w.shape for n, w in weights.items()}:
        raise RunError(
            "The checkpoint does not fit the recipe's model or adapter; resume with the recipe it was made by."
        )
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)


def save_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write trained weights alone (the best so far), whole or not at all."""
    with staged(folder) as staging:
        save_file(weights, staging / "weights.safetensors")
        _write_manifest(staging)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read what `save_weights` wrote. Raises RunError where it is damaged."""
    verify(folder)
    return load_file(folder / "weights.safetensors")


def sweep(folder: Path) -> None:
    """Remove what a killed save left behind (staging folders; they were never taken for checkpoints)."""
    for path in folder.glob(".*.staging"):
        shutil.rmtree(path, ignore_errors=True)


def _random_state() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _optimizer_state(optimizer: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    state = optimizer.state_dict()
    tensors = {
        f"{i}.{name}": value.cpu().contiguous() for i, slot in state["state"].items() for name, value in slot.items()
    }
    return tensors, {"param_groups": state["param_groups"]}


def _load_optimizer_state(optimizer: Any, tensors: dict[str, torch.Tensor], scalars: dict[str, Any]) -> None:
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": scalars["param_groups"]})


def _write_manifest(folder: Path) -> None:
    hashes = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
