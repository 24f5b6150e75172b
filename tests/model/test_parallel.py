"""The model spread over two processes (gloo, CPU): tensor parallel, FSDP2 and pipeline give the numbers of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from llama_tasks.model import NativeLlamaConfig, NativeLlamaForCausalLM, NativeLlamaModel
from llama_tasks.model.modeling_native_llama import NativeLlamaPreTrainedModel


def in_two_processes(worker: str, folder: Path, root: Path, tiny: dict[str, Any]) -> dict[str, Any]:
    """What two processes of a worker beside this file wrote."""
    config = LlamaConfig(**{**tiny, "vocab_size": 96, "initializer_range": 0.2})
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    command = [str(root / "tests/model" / worker), str(folder / "model"), str(folder / "found.json")]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(launcher + command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads((folder / "found.json").read_text())
    assert written["world_size"] == 2
    return written


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, root: Path, tiny: dict[str, Any]) -> dict[str, Any]:
    return in_two_processes("parallel_worker.py", tmp_path_factory.mktemp("parallel"), root, tiny)


@pytest.mark.parametrize("way", ["tp_size", "fsdp_size", "fully_shard"])
def test_training_spread_over_two_processes(found: dict[str, Any], way: str) -> None:
    apart = found[way]
    assert apart.pop("share") == 0.5  # of a weight, on each
    assert apart.pop("same tokens", True)
    assert apart.keys() == {"logits", "loss", "plain gradients", "packed gradients"}
    assert max(apart.values()) < 1e-5


def test_a_pipeline_of_two_processes(found: dict[str, Any]) -> None:
    assert found["pp_size"]["layers"] == 1  # of two, on each
    assert found["pp_size"]["logits"] < 1e-5
    assert found["pp_size"]["same tokens"]


@pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed; it compiles an extension at first use"
)
def test_zero_3_loads_and_trains(tmp_path: Path, root: Path, tiny: dict[str, Any]) -> None:
    found = in_two_processes("zero3_worker.py", tmp_path, root, tiny)
    assert found["spread"]
    for way in ("whole", "lora"):
        wanted = found[way].pop("transformers")
        assert wanted[-1] < wanted[0] - 0.5
        for losses in found[way].values():
            assert losses == pytest.approx(wanted, abs=1e-5)
    alone, spread = found["packed"]
    assert spread == pytest.approx(alone, abs=1e-5)


def test_plans_are_those_of_llama() -> None:
    for ours, theirs, names in (
        (NativeLlamaConfig, LlamaConfig, ("tp", "pp", "fsdp", "ep")),
        (NativeLlamaForCausalLM, LlamaForCausalLM, ("tp", "pp", "fsdp")),
        (NativeLlamaModel, LlamaModel, ("tp", "pp", "fsdp")),
    ):
        place: Callable[[str], str] = "base_model_{}_plan".format if ours is NativeLlamaConfig else "_{}_plan".format
        for name in map(place, names):
            assert getattr(ours, name, None) == getattr(theirs, name, None), name
    layer = LlamaForCausalLM._no_split_modules[0]
    assert NativeLlamaPreTrainedModel._no_split_modules == [f"Native{layer}"]
