"""The same base, rows, LoRA and schedule through stock transformers + peft (Trainer), scored by the same suite.

    make bench ARGS="runs/summarize --output eval/results/peer-summarize.json"

Trains `LlamaForCausalLM` with `Trainer` (length-grouped, padded batches of as many examples as ours hold on average) on
the tokens of a finished run, evaluates its adapter on the run's test split, and compares it with the run's adapter by
the paired test. Times are of this machine at this moment; the scores are what is compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from llama_tasks import adapters, dataset, evaluation
from llama_tasks.packing.plan import plan_epoch
from llama_tasks.recipe import Recipe, TrainConfig
from llama_tasks.rundir import RunDirectory, read_jsonl, write_json
from llama_tasks.tokens import IGNORE

# Settings of a run that Trainer is not given here.
NOT_TRAINERS = (
    "optim_args", "lr_scheduler_kwargs", "loraplus_lr_ratio", "neftune_noise_alpha", "fgm_epsilon", "class_weights",
)  # fmt: skip


def main() -> None:
    """Train the peer of a run, score it, print and save the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of llama-tasks")
    parser.add_argument("--output", type=Path, help="where to write the comparison (JSON)")
    arguments = parser.parse_args()
    run = RunDirectory(arguments.run)
    recipe = run.recipe()
    if recipe.base.is_quantized:
        parser.error(f"{arguments.run} was trained on a quantised base; the peer trains on a full-precision one.")
    default = TrainConfig()
    if unlike := [name for name in NOT_TRAINERS if getattr(recipe.train, name) != getattr(default, name)]:
        parser.error(f"{arguments.run} was trained with train.{unlike[0]}, which the peer is not.")
    data = dataset.prepare(recipe, adapters.load_tokenizer(recipe.base))
    with tempfile.TemporaryDirectory() as folder:
        seconds = train_peer(recipe, data, Path(folder))
        model = PeftModel.from_pretrained(adapters.load_base(recipe.base), folder).eval()
        rows = evaluation.predict(model, data, data.prompts["test"], recipe.eval)
    ours = list(read_jsonl(run.path / "eval/adapter/predictions.jsonl"))
    result = {
        "what": "stock transformers + peft (Trainer) against llama-tasks on the same base, rows, LoRA and schedule",
        "run": run.environment()["command"],
        "versions": run.environment()["versions"],
        "training_seconds": {"peer": round(seconds, 1), "llama_tasks": evaluation.training_summary(run)["seconds"]},
        "peer": evaluation.score(rows, recipe.eval, data.task),
        "llama_tasks": evaluation.score(ours, recipe.eval, data.task),
        "llama_tasks_minus_peer": evaluation.compare(rows, ours, recipe.eval, data.task),
    }
    if arguments.output:
        write_json(arguments.output, result)
    print(json.dumps(result["llama_tasks_minus_peer"], indent=1))


def train_peer(recipe: Recipe, data: dataset.Dataset, folder: Path) -> float:
    """Train with Trainer, save the adapter into `folder`; returns the seconds of training."""
    transformers.set_seed(recipe.train.seed)
    model = LlamaForCausalLM.from_pretrained(
        adapters.where_is(recipe.base.model), revision=recipe.base.revision, dtype=torch.float32
    )
    fields: dict[str, Any] = {"target_modules": adapters.LINEAR_LAYERS, **(recipe.adapter or {})}
    fields.pop("peft_type", None)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **fields))
    examples = [{"input_ids": t.input_ids, "labels": t.labels, "length": len(t.input_ids)} for t in data.train.tokens]
    lengths = [example["length"] for example in examples]
    batches = plan_epoch(lengths, recipe.train.tokens_per_batch, recipe.train.seed, 0)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=max(1, round(len(lengths) / len(batches))),
        gradient_accumulation_steps=recipe.train.gradient_accumulation_steps, num_train_epochs=recipe.train.num_train_epochs,
        learning_rate=float(recipe.train.learning_rate), lr_scheduler_type=recipe.train.lr_scheduler_type,
        warmup_steps=recipe.train.warmup_steps, weight_decay=recipe.train.weight_decay, max_grad_norm=recipe.train.max_grad_norm,
        max_steps=recipe.train.max_steps, optim=recipe.train.optim, adam_beta2=recipe.train.adam_beta2,
        label_smoothing_factor=recipe.train.label_smoothing_factor, train_sampling_strategy="group_by_length",
        length_column_name="length", seed=recipe.train.seed, save_strategy="no",
        report_to="none", use_cpu=not torch.cuda.is_available(), logging_nan_inf_filter=False, remove_unused_columns=False,
        disable_tqdm=True,
    )  # fmt: skip
    pad = data.encoder.tokenizer.pad_token_id or data.encoder.eos[0]
    trainer = Trainer(
        model=model, args=arguments, train_dataset=examples, data_collator=lambda rows: collate(rows, pad)
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    model.save_pretrained(folder)
    return seconds


def collate(rows: list[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded batch; padding is masked in attention and loss."""
    width = max(len(row["input_ids"]) for row in rows)

    def filled(values: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([value + [fill] * (width - len(value)) for value in values])

    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": filled(ids, pad),
        "labels": filled([row["labels"] for row in rows], IGNORE),
        "attention_mask": filled([[1] * len(i) for i in ids], 0),
    }


if __name__ == "__main__":
    main()
