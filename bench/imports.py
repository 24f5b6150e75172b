"""What each command imports, and how long that takes: seconds of `python -X importtime`, one process a command.

    make bench-imports

The commands are real ones on the embedded base (a run of one step). Seconds are those that each module's own code took, summed by
package, of the fastest of several processes; where other work runs on the machine they are too high, but alike for all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import results

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
# Packages whose parts are worth a name of their own.
PARTS = ("torch._dynamo", "torch._inductor", "torch.distributed")
SHORT = [
    "train.max_steps=1",
    "data.max_test_samples=4",
    "data.max_validation_samples=4",
    "eval.max_new_tokens=2",
    "output=run",
]
UNKNOWN = "nosuch.yaml"
COMMANDS = {
    "--help": ["--help"],
    "finetune, unknown recipe": ["finetune", UNKNOWN],
    "inspect": ["inspect", str(ROOT / "recipes/qa.yaml")],
    "finetune": ["finetune", str(ROOT / "recipes/qa.yaml"), "--overwrite", *SHORT],
    "evaluate": ["evaluate", "run"],
    "report": ["report", "run"],
}  # in this order: the later ones read the run of `finetune`


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """Seconds of imports by package, in one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "llama_tasks", *command],
        capture_output=True, text=True, env=environment, cwd=folder, check=False,
    )  # fmt: skip
    if run.returncode != (2 if UNKNOWN in command else 0):
        raise SystemExit(f"llama-tasks {' '.join(command)} ended with {run.returncode}: {run.stderr[-500:]}")
    seconds: dict[str, float] = defaultdict(float)
    for own, module in LINE.findall(run.stderr):
        seconds[package(module)] += int(own) / 1e6
    return dict(seconds)


def package(module: str) -> str:
    """The package that a module counts for."""
    part = next((part for part in PARTS if module == part or module.startswith(f"{part}.")), None)
    return part or module.split(".")[0]


def row(name: str, found: list[dict[str, float]]) -> dict[str, object]:
    """The fastest process's seconds, in all and of the dearest packages."""
    fastest = min(found, key=lambda seconds: sum(seconds.values()))
    dearest = sorted(fastest, key=fastest.__getitem__, reverse=True)[:6]
    return {
        "command": name,
        "seconds": round(sum(fastest.values()), 2),
        "packages": {package: round(fastest[package], 2) for package in dearest if fastest[package] >= 0.05},
        "loads": [package for package in ("torch", "transformers", "peft", "bitsandbytes") if package in fastest],
    }


def main() -> None:
    """Measure the commands in turn and save a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument("--output", type=Path, default=results.FOLDER / "imports.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.commands:
            made = row(name, [measure(COMMANDS[name], Path(folder)) for _ in range(args.repeats)])
            results.save(args.output, made, "command")
            print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main()
