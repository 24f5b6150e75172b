"""Several processes of one run on the CPU (gloo), with the environment that accelerate makes of a file in recipes/launch."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from faulty_runs import Run, Zygote
from tiny import ROOT

LAUNCH = ROOT / "recipes/launch"


def environment_of(file: str) -> dict[str, str]:
    """What `accelerate launch --config_file FILE` would tell its processes, but for their ranks."""
    command = ["--config_file", str(LAUNCH / file), "--main_process_port", "0", "recipes/finetune.py"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ""  # the launcher sets it in between
        made = prepare_deepspeed_cmd_env(args)[1]
    else:
        made = prepare_multi_gpu_env(args)
    return {name: value for name, value in made.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


@dataclass
class Ranks:
    """The processes of one run, by rank."""

    runs: list[Run]

    def wait(self) -> list[int]:
        """Their exit codes."""
        return [run.wait() for run in self.runs]

    def succeed(self) -> None:
        """Wait for a good end of each."""
        codes = self.wait()
        assert codes == [0] * len(codes), [run.error[-2000:] for run in self.runs]


def start(zygote: Zygote, file: str | None, *argv: str, cwd: Path, size: int = 2, **fault: Any) -> Ranks:
    """Start `llama-tasks ARGV` as `size` processes, without a file as plain `torchrun` does; a fault is that of the last one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **({**environment_of(file), "ACCELERATE_USE_CPU": "true"} if file else {}),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
    }  # fmt: skip
    runs = []
    for rank in range(size):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        runs.append(zygote.start(*argv, cwd=cwd, environment=own, **(fault if rank == size - 1 else {})))
    return Ranks(runs)
