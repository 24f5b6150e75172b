"""Every file in recipes/launch is whole, its options exist in the installed launchers, and the documents name it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ranks
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

FILES = sorted(path.name for path in ranks.LAUNCH.iterdir())
ACCELERATE = [name for name in FILES if name.startswith(("ddp", "fsdp2", "deepspeed")) and name.endswith(".yaml")]
PARSERS = {"accelerate launch": launch_command_parser, "torchrun": get_args_parser}


def scripts(name: str) -> list[str]:
    """What a shell would run of a file."""
    text = (ranks.LAUNCH / name).read_text(encoding="utf-8")
    if not name.endswith(".yaml"):
        return [text]
    found: list[str] = []

    def walk(value: Any, key: str = "") -> None:
        for inner_key, inner in value.items() if isinstance(value, dict) else ((key, v) for v in value or ()):
            if isinstance(inner, dict | list):
                walk(inner, inner_key)
            elif inner_key in ("args", "run", "setup"):
                found.append(inner)

    for document in yaml.safe_load_all(text):
        walk(document)
    return found


def test_there_is_one_for_every_kind_of_machine() -> None:
    assert set(FILES) == {"ddp.yaml", "deepspeed_zero2.yaml", "deepspeed_zero3.yaml", "fsdp2.yaml", "fsdp2_zero2.yaml",
                          "kubernetes.yaml", "multinode.sh", "multinode_fsdp2.sh", "skypilot.yaml", "slurm.sbatch"}  # fmt: skip


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_knows_every_key(name: str) -> None:
    config = load_config_from_file(str(ranks.LAUNCH / name))  # raises for a key that it does not know
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= options
    if name.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    environment = ranks.environment_of(name)
    assert environment.get("FSDP_VERSION", "2") == "2"
    assert environment.get("ACCELERATE_USE_FSDP", "false") == str(name.startswith("fsdp2")).lower()
    assert environment.get("ACCELERATE_USE_DEEPSPEED", "false") == str(name.startswith("deepspeed")).lower()


@pytest.mark.parametrize("name", FILES)
def test_options_exist_and_shells_can_read_it(name: str) -> None:
    text = (ranks.LAUNCH / name).read_text(encoding="utf-8").replace("\\\n", " ")
    calls = [
        (launcher, line) for launcher in PARSERS for line in re.findall(rf"{launcher} (.*?recipes/finetune\.py)", text)
    ]
    for launcher, line in calls:
        known = {option for action in PARSERS[launcher]()._actions for option in action.option_strings}
        asked = re.findall(r"--[\w-]+", line)
        assert asked and set(asked) <= known, set(asked) - known
    assert calls or "recipes/launch/multinode.sh" in text
    for script in scripts(name):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for other in re.findall(r"recipes/launch/([\w.]+)", text):
        assert other in FILES
    assert os.access(ranks.LAUNCH / name, os.X_OK) == name.endswith(".sh")


def test_torchrun_is_given_what_the_script_is_told(tmp_path: Path, root: Path) -> None:
    """The shell script against a `torchrun` that writes its arguments, which torchrun's own parser then reads."""
    fake = tmp_path / "torchrun"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    told = {"MASTER_ADDR": "10.0.0.1", "NODES": "4", "NODE_RANK": "3", "GPUS": "2"}
    environment = {**os.environ, **told, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.run(["recipes/launch/multinode.sh", "a recipe.yaml", "--resume"], cwd=root, env=environment,
                         capture_output=True, text=True, check=True)  # fmt: skip
    args = get_args_parser().parse_args(run.stdout.splitlines())
    assert (args.nnodes, args.node_rank, args.nproc_per_node, args.master_addr) == ("4", 3, "2", "10.0.0.1")
    assert (args.training_script, args.training_script_args) == ("recipes/finetune.py", ["a recipe.yaml", "--resume"])


@pytest.mark.parametrize("name", FILES)
def test_the_documents_name_it(root: Path, name: str) -> None:
    assert name in (root / "docs/scaling.md").read_text(encoding="utf-8")
    assert f"launch/{name}" in (root / "recipes/README.md").read_text(encoding="utf-8")
