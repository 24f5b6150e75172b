"""What `llama-tasks plan` says against what a run takes: memory of the worst step on this CPU, in a process of its own.

    make bench-plan [ARGS="--recipes recipes/qa.yaml"]

The measured peak is the largest resident set from after the imports to the end of some steps (pre-flight and an evaluation in
it included), minus the resident set after the imports.
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
STEPS = 8
SHORT = ["prompt.on_too_long=truncate_prompt", "prompt.max_length=256"]
SHIPPED = ["recipes/summarize.yaml", "recipes/translate.yaml", "recipes/qa.yaml", "recipes/classify.yaml"]
OTHERS = [
    ("recipes/qa.yaml", ["base.quantization=nf4"]),
    ("recipes/qa.yaml", ["adapter=null", "train.learning_rate=1e-3"]),
    ("recipes/qa.yaml", ["train.tokens_per_batch=4096"]),
    ("recipes/qa.yaml", ["distill.teacher=embedded"]),
    ("recipes/summarize.yaml", ["train.gradient_checkpointing=true"]),
    ("recipes/summarize.yaml", ["train.optim=adamw_8bit"]),
    *(("recipes/classify.yaml", [f"base.model=../shared/models/{name}/hf", f"base.quantization={bits}", *SHORT])
      for name in ("stories260K", "babyllama-tok105-1M") for bits in ("none", "nf4")),
]  # fmt: skip


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def measure(recipe: str, overrides: list[str]) -> dict[str, Any]:
    """In this process: train a little and say what it took at most, with what was said before."""
    import torch
    from accelerate import Accelerator

    from llama_tasks import adapters
    from llama_tasks.dataset import prepare
    from llama_tasks.estimate import needs as estimate
    from llama_tasks.estimate import planning
    from llama_tasks.estimate import shape as model_shape
    from llama_tasks.recipe import load_recipe
    from llama_tasks.supervise import preflight, settling
    from llama_tasks.train import Training, distillation

    asked = load_recipe(recipe, overrides)
    before = planning.import_all(asked)
    Path("/proc/self/clear_refs").write_text("5")  # the mark of the largest resident set begins again
    found = settling.pin_all(asked, None)
    dataset = prepare(found, adapters.load_tokenizer(found.base))
    data, shape = resident("VmRSS") - before, model_shape.shape_of(found)
    batch = estimate.batch_of(dataset.train.tokens, found.train)
    answers = estimate.answers_of(dataset, found, shape.config.vocab_size)
    said = estimate.memory(found, shape, batch, "cpu", 1, data, answers)
    base = adapters.load_base(found.base)
    settled = settling.settle(found, base, dataset)
    model = adapters.attach(base, settled.adapter, settled.base)
    teacher = distillation.load_teacher(settled, dataset.encoder.tokenizer, "cpu")
    rate = float(settled.train.learning_rate)
    training = Training(model, dataset.train.tokens, settled.train, Accelerator(cpu=True), rate, teacher)
    with tempfile.TemporaryDirectory() as folder:
        preflight.preflight(Path(folder), settled, dataset, training)
        for report in training.run():
            if report.step == STEPS:
                break
    peak = resident("VmHWM") - before
    return {"recipe": recipe, "with_settings": overrides, "said": said.peak, "parts": asdict(said), "taken": peak,
            "ratio": round(said.peak / peak, 3), "threads": torch.get_num_threads()}  # fmt: skip


def main() -> None:
    """Measure each recipe in a child and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", help="these alone, with --overrides; by default those of this file")
    parser.add_argument("--overrides", nargs="*", default=[])
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.recipes[0], args.overrides)))
        return
    cases = [(recipe, args.overrides) for recipe in args.recipes or ()] or [(r, []) for r in SHIPPED] + OTHERS
    for recipe, overrides in cases:
        command = [sys.executable, __file__, "--child", "--recipes", recipe, "--overrides", *overrides]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        results.save(args.out, row, "recipe", "with_settings")
        said, taken = (f"{row[key] / 2**20:.0f} MiB" for key in ("said", "taken"))
        print(f"{recipe} {' '.join(overrides)}: said {said}, measured {taken} ({row['ratio']})")


if __name__ == "__main__":
    main()
