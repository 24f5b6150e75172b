"""The training path against stock transformers + peft under Trainer, on the same weights, examples and LoRA.

    make bench ARGS="native --shapes 15M 135M --dtypes bf16"      pairs A B A B, one JSON: bench/results/native.json

Each run is a process of its own with one thread, which trains one epoch of synthetic examples. The number is useful
(non-padding) tokens per second of process CPU time, which other work on the machine disturbs least; the first steps, in
which buffers are made, are left out. Every pair of runs stands side by side in the result, and the ratio is that of the medians.

The peer is `LlamaForCausalLM` with peft's LoRA under `Trainer` at its best setting: length-grouped batches, `sdpa`, fused AdamW,
autocast for bf16. `--peers trl` adds TRL's packed SFTTrainer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "15M": {"vocab_size": 32000, "hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6,
            "num_attention_heads": 6, "num_key_value_heads": 6, "tie_word_embeddings": True},
    "135M": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
}  # fmt: skip
# Mean tokens of prompt and response; `5q`: five questions on each passage, which share their prompt's beginning.
WORKLOADS = {"22+22": (22, 22), "64+1": (64, 1), "170+4": (170, 4), "419+41": (419, 41), "5q": (400, 20, 6)}
TOKENS = {"15M": 60_000, "135M": 16_000}  # of a run, about
BATCH_TOKENS = 2048
RANK = 16
WARMUP = 2  # steps left out


def examples(workload: str, vocab: int, total: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, response ids), lengths spread by a third around the workload's."""
    rng = random.Random(seed)

    def draw(mean: int) -> list[int]:
        count = max(1, round(rng.gauss(mean, mean / 3))) if mean > 1 else 1
        return [rng.randrange(3, vocab) for _ in range(min(count, 3 * mean))]

    made: list[tuple[list[int], list[int]]] = []
    count = 0
    while count < total:
        sizes = WORKLOADS[workload]
        passage = draw(sizes[0])
        if workload == "5q":
            made += [(passage + draw(sizes[1]), [*draw(sizes[2]), 2]) for _ in range(5)]
            count += sum(len(p) + len(r) for p, r in made[-5:])
        else:
            made.append((passage, [*draw(sizes[1])[:-1], 2]))
            count += len(passage) + len(made[-1][1])
    return made


def main() -> None:
    """Run all pairs, or (with --worker) one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], choices=["fp32", "bf16", "nf4"])
    parser.add_argument("--peers", nargs="+", default=["trainer"], choices=["trainer", "trl"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", choices=["native", "trainer", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        run = train_native if args.worker == "native" else train_peer
        print(json.dumps(run(args)))
        return
    rows = [
        pair(args, shape, workload, dtype)
        for shape in args.shapes
        for dtype in args.dtypes
        for workload in args.workloads
    ]
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(
            json.dumps({"versions": versions(), "threads": args.threads, "rows": rows}, indent=1) + "\n"
        )


def pair(args: argparse.Namespace, shape: str, workload: str, dtype: str) -> dict[str, Any]:
    """Native and peers in turn, `repeats` times."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("native", *args.peers)}
    with tempfile.TemporaryDirectory() as folder:
        save_model(shape, Path(folder))
        for _ in range(args.repeats):
            for name, results in found.items():
                results.append(start(args, name, shape, workload, dtype, folder))
    speed = {name: statistics.median(r["tokens_per_cpu_second"] for r in results) for name, results in found.items()}
    memory = {name: min(r["peak_mib"] for r in results) for name, results in found.items()}
    row: dict[str, Any] = {"shape": shape, "workload": workload, "dtype": dtype, "runs": found}
    for name in args.peers:
        row[f"speed_against_{name}"] = round(speed["native"] / speed[name], 3)
        row[f"memory_against_{name}"] = round(memory["native"] / memory[name], 3)
        print(
            f"{shape:>5} {dtype} {workload:>7}  native {speed['native']:8,.0f}  {name} {speed[name]:8,.0f} tokens/CPU-s  "
            f"{row[f'speed_against_{name}']:.2f}x   memory {memory['native']:,.0f} / {memory[name]:,.0f} MiB = "
            f"{row[f'memory_against_{name}']:.2f}",
            flush=True,
        )
    return row


def start(args: argparse.Namespace, name: str, shape: str, workload: str, dtype: str, folder: str) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--worker",
        name,
        "--shapes",
        shape,
        "--workloads",
        workload,
        "--dtypes",
        dtype,
    ]
    command += ["--threads", str(args.threads), "--model", folder]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(args.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        sys.exit(f"{' '.join(command[2:])} failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def save_model(shape: str, folder: Path) -> None:
    """Random weights of the shape, as a `llama` checkpoint."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).save_pretrained(folder)


class Clock:
    """Marks (CPU seconds, wall seconds, useful tokens) after every optimizer step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float, int]] = []
        self.began = time.perf_counter()

    def mark(self, tokens: int) -> None:
        self.marks.append((time.process_time(), time.perf_counter(), tokens))

    def result(self, loss: float) -> dict[str, Any]:
        """Speed over the steps behind the first ones, and the peak of memory above what the imports took."""
        first, last = self.marks[WARMUP - 1], self.marks[-1]
        tokens = sum(tokens for _, _, tokens in self.marks[WARMUP:])
        return {
            "tokens_per_cpu_second": round(tokens / (last[0] - first[0]), 1),
            "tokens_per_second": round(tokens / (last[1] - first[1]), 1),
            "steps": len(self.marks), "tokens": tokens, "first_loss": loss, "peak_mib": round(_peak() - self.base, 1),
        }  # fmt: skip

    def start(self) -> None:
        """Called after the imports, before the model is loaded."""
        self.base = _peak()


def _peak() -> float:
    """Peak resident memory of this process, MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train_native(args: argparse.Namespace) -> dict[str, Any]:
    """Our path: recipe's training loop on the native model."""
    import torch
    from accelerate import Accelerator

    from llama_tasks import adapters
    from llama_tasks.recipe import BaseConfig, TrainConfig
    from llama_tasks.tokens import Tokens
    from llama_tasks.train import Training

    torch.set_num_threads(args.threads)
    import peft  # noqa: F401  imports are not measured

    clock = Clock()
    shape, workload, dtype = args.shapes[0], args.workloads[0], args.dtypes[0]
    rows = examples(workload, SHAPES[shape]["vocab_size"], TOKENS[shape])
    items = [Tokens(str(i), prompt + response, len(prompt)) for i, (prompt, response) in enumerate(rows)]
    clock.start()
    base = BaseConfig(
        model=str(args.model),
        dtype="float32" if dtype == "fp32" else "bfloat16",
        quantization="nf4" if dtype == "nf4" else "none",
    )
    torch.manual_seed(0)
    model = adapters.attach(adapters.load_base(base), {"r": RANK, "lora_alpha": 2 * RANK}, base)
    config = TrainConfig(
        num_train_epochs=1, tokens_per_batch=BATCH_TOKENS, learning_rate=1e-3, lr_scheduler_type="constant", warmup_steps=0,
        share_prefixes=workload == "5q",
    )  # fmt: skip
    training = Training(model, items, config, Accelerator(cpu=True), 1e-3)
    useful = {item.id: len(item.input_ids) for item in items}
    losses = []
    for report, (_, batches) in zip(training.run(), training.steps, strict=True):
        losses.append(report.loss)
        clock.mark(sum(useful[m.id] for batch in batches for i in batch for m in training.families[i].members))
    return clock.result(losses[0])


def train_peer(args: argparse.Namespace) -> dict[str, Any]:
    """transformers + peft under Trainer, or TRL's SFTTrainer with packing."""
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    clock = Clock()
    shape, workload, dtype = args.shapes[0], args.workloads[0], args.dtypes[0]
    rows = examples(workload, SHAPES[shape]["vocab_size"], TOKENS[shape])
    data = Dataset.from_list(
        [
            {
                "input_ids": p + r,
                "labels": [-100] * len(p) + r,
                "completion_mask": [0] * len(p) + [1] * len(r),
                "length": len(p + r),
            }
            for p, r in rows
        ]
    )
    clock.start()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = LlamaForCausalLM.from_pretrained(
        args.model, dtype=torch.float32 if dtype != "nf4" else torch.bfloat16, attn_implementation="sdpa",
        quantization_config=quantization if dtype == "nf4" else None,
    )  # fmt: skip
    if dtype == "nf4":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )  # fmt: skip
    seen: list[int] = []
    losses: list[float] = []

    class Marks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.mark(sum(seen))
            seen.clear()

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            losses.extend([logs["loss"]] if logs and "loss" in logs else [])

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(row["length"] for row in batch)
        seen.append(sum(row["length"] for row in batch))

        def padded(key: str, value: int) -> torch.Tensor:
            return torch.tensor([list(row[key]) + [value] * (width - row["length"]) for row in batch])

        ids = padded("input_ids", 0)
        mask = torch.tensor([[1] * row["length"] + [0] * (width - row["length"]) for row in batch])
        return {"input_ids": ids, "labels": padded("labels", -100), "attention_mask": mask}

    size = max(1, round(BATCH_TOKENS / statistics.mean(len(p) + len(r) for p, r in rows)))
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": size, "num_train_epochs": 1, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant", "warmup_steps": 0, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "bf16": dtype != "fp32", "dataloader_pin_memory": False, "disable_tqdm": True, "optim": "adamw_torch_fused",
    }  # fmt: skip
    if args.worker == "trl":
        from trl import SFTConfig, SFTTrainer

        settings = SFTConfig(
            max_length=BATCH_TOKENS,
            packing=True,
            completion_only_loss=True,
            **{**common, "per_device_train_batch_size": 1},
        )
        trainer = SFTTrainer(
            model=model, args=settings, train_dataset=data.select_columns(["input_ids", "completion_mask"]), peft_config=lora,
            callbacks=[Marks()],
        )  # fmt: skip
        inner = trainer.data_collator

        def counted(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            out = inner(batch)
            seen.append(int(out["input_ids"].numel()))
            return out

        trainer.data_collator = counted
    else:
        settings = TrainingArguments(
            remove_unused_columns=False,
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            **common,
        )
        trainer = Trainer(
            model=get_peft_model(model, lora),
            args=settings,
            train_dataset=data,
            data_collator=collate,
            callbacks=[Marks()],
        )
    trainer.train()
    return clock.result(losses[0])


def versions() -> dict[str, str]:
    """Of what was measured."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "bitsandbytes")}


if __name__ == "__main__":
    main()
