"""Training speed and memory against stock transformers + peft, on the same weights, examples and LoRA.

    make bench-speed ARGS="--shapes 15M 135M --dtypes bf16 fp32"
    make bench-speed ARGS="--check"                                 only: do both sides compute the same first step?

Pairs in turn (A B A B), each run one epoch of synthetic examples in a process of its own with one thread. The number is useful
(non-padding) tokens per second of process CPU time, which other work on the machine disturbs least; the first steps, in which
buffers are made, are left out. The ratio is that of the medians. Rows join those in the output file, or replace their like.

Peers: `trainer`, transformers' LlamaForCausalLM with peft's LoRA under Trainer, length-grouped, `sdpa`, fused AdamW, autocast for
bf16; beside it both sides run with batches of 2,048, 1,024 and 512 tokens, and of each the best one counts. `trl`: SFTTrainer with
packing. `bf16`: the native model itself in bf16, beside one in nf4.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import results
from workloads import TOKENS, WORKLOADS, save_model

BATCH = 2048
SMALLER = (1024, 512)  # the other batches, beside Trainer
PEERS = ("trainer", "trl", "bf16")
SETTING = ("shape", "workload", "dtype")


def main() -> None:
    """Run all pairs, or (with --worker) one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["15M", "135M"], choices=list(TOKENS))
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], choices=["fp32", "bf16", "nf4"])
    parser.add_argument("--peers", nargs="*", default=["trainer"], choices=PEERS)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, help="of a run; without it, by the shape")
    parser.add_argument("--batch", type=int, default=BATCH, help="tokens of a batch")
    parser.add_argument("--check", action="store_true", help="compare the first step in float32, measure nothing")
    parser.add_argument("--output", type=Path, default=results.FOLDER / "speed.json")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(**args.worker)))
        return
    for shape in args.shapes:
        for dtype in ["fp32"] if args.check else args.dtypes:
            for workload in args.workloads:
                setting = {"shape": shape, "workload": workload, "dtype": dtype, "total": args.tokens or TOKENS[shape]}
                peers = [] if args.check else args.peers
                row = measure(peers, args.repeats, args.batch, setting)
                if not args.check:
                    results.save(args.output, row, *SETTING, "peers")
                print(json.dumps({name: row[name] for name in row if name != "runs"}), flush=True)


def work(who: str, model: str, shape: str, workload: str, dtype: str, batch: int, total: int) -> dict[str, Any]:
    """One run in this process."""
    import torch

    torch.set_num_threads(1)
    if who == "check":
        import same

        return same.check(model, shape, workload, batch, total)
    if who in ("native", "bf16"):
        import train_native

        return train_native.run(model, shape, workload, "bf16" if who == "bf16" else dtype, batch, total)
    import train_peer

    return train_peer.run(model, shape, workload, dtype, batch, total, trl=who == "trl")


def measure(peers: list[str], repeats: int, batch: int, setting: dict[str, Any]) -> dict[str, Any]:
    """One row: whether both sides compute the same, then native and peers in turn, with their ratios."""
    turns = [("native", batch)] if peers else []
    if "trainer" in peers:
        turns += [(name, size) for size in SMALLER if size < batch for name in ("native", "trainer")]
    turns += [(peer, batch) for peer in peers]
    runs: dict[str, list[dict[str, Any]]] = {f"{name} {size}": [] for name, size in turns}
    with tempfile.TemporaryDirectory() as folder:
        save_model(setting["shape"], Path(folder))
        row: dict[str, Any] = {**{name: setting[name] for name in SETTING}, "peers": peers}
        # Prefixes by a small batch: padded rows, with logits of every token, would need 20 GB at the 135M shape.
        row["check_fp32"] = start(
            "check", min(batch, min(SMALLER)) if setting["workload"] == "5q" else batch, folder, setting
        )
        for _ in range(repeats):
            for name, size in turns:
                runs[f"{name} {size}"].append(start(name, size, folder, setting))
    return {**row, **(compared(peers, f"native {batch}", runs) if peers else {})}


def compared(peers: list[str], ours: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Ratios to each peer at its best batch; memory at an equal batch, and of the weights where they are of our own kind."""
    speed = {name: statistics.median(run["tokens_per_cpu_second"] for run in found) for name, found in runs.items()}
    memory = {name: max(run["peak_mib"] for run in found) for name, found in runs.items()}

    def best_of(side: str) -> str:
        return max((name for name in runs if name.split()[0] == side), key=speed.__getitem__)

    row: dict[str, Any] = {}
    for peer in peers:
        mine, best = best_of("native") if peer == "trainer" else ours, best_of(peer)
        equal = f"{peer} {ours.split()[1]}"
        row[peer] = {
            "speed": round(speed[mine] / speed[best], 2),
            "best": best,
            "native": mine,
            "memory_at_equal_batch": round(memory[ours] / memory[equal], 2),
        }
        if peer == "bf16":
            row[peer]["weights"] = round(runs[ours][0]["weights_mib"] / runs[equal][0]["weights_mib"], 2)
    return {**row, "tokens_per_cpu_second": speed, "peak_mib": memory, "runs": runs}


def start(who: str, batch: int, model: str, setting: dict[str, Any]) -> dict[str, Any]:
    """One run in a process of its own."""
    worker = json.dumps({"who": who, "model": model, "batch": batch, **setting})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, "--worker", worker]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        sys.exit(f"{worker} failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
