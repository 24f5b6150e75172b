"""What `llama-tasks plan` says against what a run takes: memory of the worst step on this CPU, in a process of its own.

    make bench-plan [ARGS="--recipes recipes/qa.yaml"]

The measured peak is the largest resident set from after the imports to the end of three steps (pre-flight and one evaluation
included), minus the resident set after the imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import results

RESULT = results.FOLDER / "plan.json"
SHIPPED = ["recipes/summarize.yaml", "recipes/translate.yaml", "recipes/qa.yaml", "recipes/classify.yaml"]


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def measure(recipe: str, overrides: list[str]) -> dict[str, Any]:
    """In this process: train a little and say what it took at most, with what was said before."""
    import torch
    from accelerate import Accelerator

    from llama_tasks import adapters, estimate
    from llama_tasks.dataset import prepare
    from llama_tasks.estimate import planning
    from llama_tasks.recipe import load_recipe
    from llama_tasks.supervise import preflight, settling
    from llama_tasks.train import Training

    asked = load_recipe(recipe, overrides)
    adapters.adapter_config({})  # imports peft
    estimate.state_bytes(asked.train)  # imports the optimizers
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the mark of the largest resident set begins again
    found = settling.pin_all(asked, None)
    dataset = prepare(found, adapters.load_tokenizer(found.base))
    said = planning.plan_memory(found, dataset, resident("VmRSS") - before)
    base = adapters.load_base(found.base)
    settled = settling.settle(found, base, dataset)
    model = adapters.attach(base, settled.adapter, settled.base)
    training = Training(
        model, dataset.train.tokens, settled.train, Accelerator(cpu=True), float(settled.train.learning_rate)
    )
    with tempfile.TemporaryDirectory() as folder:
        preflight.preflight(Path(folder), settled, dataset, training)
        for report in training.run():
            if report.step == 3:
                break
    peak = resident("VmHWM") - before
    return {"recipe": recipe, "said": said.peak, "parts": asdict(said), "taken": peak, "ratio": round(said.peak / peak, 3),
            "threads": torch.get_num_threads()}  # fmt: skip


def main() -> None:
    """Measure each recipe in a child and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", default=SHIPPED)
    parser.add_argument("--overrides", nargs="*", default=[])
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.recipes[0], args.overrides)))
        return
    for recipe in args.recipes:
        command = [sys.executable, __file__, "--child", "--recipes", recipe, "--overrides", *args.overrides]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        results.save(args.out, row, "recipe")
        print(f"{recipe}: said {row['said'] / 2**20:.0f} MiB, measured {row['taken'] / 2**20:.0f} MiB ({row['ratio']})")


if __name__ == "__main__":
    main()
