"""Training speed and memory against stock transformers + peft, on the same weights, examples and LoRA.

    make bench-speed ARGS="--shapes 15M 135M --dtypes bf16 fp32 --output bench/results/speed.json"

Pairs in turn (A B A B), each run one epoch of synthetic examples in a process of its own with one thread. The number is useful
(non-padding) tokens per second of process CPU time, which other work on the machine disturbs least; the first steps, in which
buffers are made, are left out. The ratio is that of the medians.

Peers: `trainer`, transformers' LlamaForCausalLM with peft's LoRA under Trainer, length-grouped, `sdpa`, fused AdamW, autocast for
bf16; it runs with batches of 2,048 and of 512 tokens, and the better one counts. `trl`: SFTTrainer with packing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, save_model

TOKENS = {"15M": 40_000, "135M": 14_000}  # of a run
BATCH = 2048
SMALL = 512  # the peer's other batch
PEERS = ("trainer", "trl")


def main() -> None:
    """Run all pairs, or (with --worker) one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["15M", "135M"], choices=list(TOKENS))
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], choices=["fp32", "bf16", "nf4"])
    parser.add_argument("--peers", nargs="*", default=["trainer"], choices=PEERS)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", nargs=6, metavar=("WHO", "MODEL", "SHAPE", "WORKLOAD", "DTYPE", "BATCH"))
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(*args.worker[:5], int(args.worker[5]))))
        return
    rows = []
    for shape in args.shapes:
        for dtype in args.dtypes:
            for workload in args.workloads:
                rows.append(pair(args.peers, args.repeats, shape, workload, dtype))
                if args.output:
                    write(args.output, rows)


def work(who: str, model: str, shape: str, workload: str, dtype: str, batch: int) -> dict[str, Any]:
    """One run in this process."""
    import torch

    torch.set_num_threads(1)
    if who == "native":
        import train_native

        return train_native.run(model, shape, workload, dtype, batch, TOKENS[shape])
    import train_peer

    return train_peer.run(model, shape, workload, dtype, batch, TOKENS[shape], trl=who == "trl")


def pair(peers: list[str], repeats: int, shape: str, workload: str, dtype: str) -> dict[str, Any]:
    """Native and peers in turn; speeds, peak memory and ratios."""
    who = [
        ("native", BATCH),
        *((peer, size) for peer in peers for size in ((BATCH, SMALL) if peer == "trainer" else (BATCH,))),
    ]
    runs: dict[str, list[dict[str, Any]]] = {f"{name} {batch}": [] for name, batch in who}
    with tempfile.TemporaryDirectory() as folder:
        save_model(shape, Path(folder))
        for _ in range(repeats):
            for name, batch in who:
                runs[f"{name} {batch}"].append(start(name, folder, shape, workload, dtype, batch))
    row: dict[str, Any] = {"shape": shape, "workload": workload, "dtype": dtype}
    speed = {name: statistics.median(run["tokens_per_cpu_second"] for run in found) for name, found in runs.items()}
    memory = {name: max(run["peak_mib"] for run in found) for name, found in runs.items()}
    ours = f"native {BATCH}"
    for peer in peers:
        best = max((name for name in runs if name.startswith(peer)), key=speed.__getitem__)
        row[peer] = {"speed": round(speed[ours] / speed[best], 2), "best": best,
                     "memory_at_equal_batch": round(memory[ours] / memory[f"{peer} {BATCH}"], 2)}  # fmt: skip
    row |= {"tokens_per_cpu_second": speed, "peak_mib": memory, "runs": runs}
    print(json.dumps({key: row[key] for key in row if key != "runs"}), flush=True)
    return row


def start(who: str, model: str, shape: str, workload: str, dtype: str, batch: int) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--worker", who, model, shape, workload, dtype, str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        sys.exit(f"{' '.join(command[2:])} failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """All rows so far, with what they were measured with."""
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "bitsandbytes")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"versions": versions, "threads": 1, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
