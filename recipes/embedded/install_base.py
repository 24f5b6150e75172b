"""Put a finished `make pretrain` into the package: bfloat16 weights, configuration, and the log of the training.

python recipes/embedded/install_base.py [runs/pretrain]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from llama_tasks.adapters import EMBEDDED, save_as_llama
from llama_tasks.model import load_native


def main() -> None:
    """Read the run's model, write llama_tasks/embedded/base (its card is written by hand)."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pretrain")
    save_as_llama(load_native(run / "model", dtype=torch.bfloat16), EMBEDDED)
    shutil.copy(run / "log.jsonl", EMBEDDED / "training_log.jsonl")
    print(f"{EMBEDDED}: {(EMBEDDED / 'model.safetensors').stat().st_size:,} bytes of weights")


if __name__ == "__main__":
    main()
