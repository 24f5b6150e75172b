"""Put a finished `make pretrain` into the package: bfloat16 weights, configuration, and the log of both stages.

python recipes/embedded/install_base.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from llama_tasks.adapters import EMBEDDED, save_as_llama
from llama_tasks.model import load_native


def main() -> None:
    """Read the run's model, write llama_tasks/embedded/base (its card is written by hand)."""
    stages = [Path(name) for name in sys.argv[1:]] or [Path("runs/pretrain"), Path("runs/pretrain_drills")]
    save_as_llama(load_native(stages[-1] / "model", dtype=torch.bfloat16), EMBEDDED)
    logs = [
        json.dumps({"stage": run.name, **json.loads(line)}) for run in stages for line in (run / "log.jsonl").open()
    ]
    (EMBEDDED / "training_log.jsonl").write_text("\n".join(logs) + "\n", encoding="utf-8")
    print(f"{EMBEDDED}: {(EMBEDDED / 'model.safetensors').stat().st_size:,} bytes of weights")


if __name__ == "__main__":
    main()
