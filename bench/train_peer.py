"""One run of the speed benchmark through stock libraries: transformers' LLaMA and peft under Trainer, or TRL's SFTTrainer
with packing (started by speed.py, in a process of its own)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from workloads import RANK, SHAPES, Clock, examples

TOKENIZER = Path(__file__).parents[1] / "llama_tasks/embedded/base"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(
    model: str, shape: str, workload: str, dtype: str, batch_tokens: int, total: int, trl: bool = False
) -> dict[str, Any]:
    """Train one epoch; the result of the clock. Batches hold about `batch_tokens` tokens."""
    transformers.logging.set_verbosity_error()
    rows = examples(workload, SHAPES[shape]["vocab_size"], total)
    clock, seen, losses = Clock(), [], []

    class Marks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.mark(sum(seen))
            seen.clear()

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            losses.extend([logs["loss"]] if logs and "loss" in logs else [])

    arguments: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(), "num_train_epochs": 1, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
        "warmup_steps": 0, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "bf16": dtype != "fp32", "dataloader_pin_memory": False, "disable_tqdm": True, "optim": "adamw_torch_fused",
    }  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, task_type="CAUSAL_LM", target_modules=TARGETS)
    base = load(model, dtype)
    if trl:
        trainer = packing_trainer(base, rows, lora, {**arguments, "per_device_train_batch_size": 1}, batch_tokens, seen)
    else:
        size = max(1, round(batch_tokens * len(rows) / sum(len(p) + len(r) for p, r in rows)))
        settings = TrainingArguments(
            remove_unused_columns=False,
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            per_device_train_batch_size=size,
            **arguments,
        )
        data = [{"input_ids": p + r, "labels": [-100] * len(p) + r, "length": len(p + r)} for p, r in rows]
        trainer = Trainer(
            model=get_peft_model(base, lora),
            args=settings,
            train_dataset=Dataset.from_list(data),
            data_collator=lambda batch: padded(batch, seen),
        )
    trainer.add_callback(Marks())
    trainer.train()
    return clock.result(losses[0])


def load(model: str, dtype: str) -> Any:
    """The base in the dtype of the comparison (of float32 weights autocast would make bf16 at every call), or in 4 bits."""
    if dtype != "nf4":
        kept = torch.float32 if dtype == "fp32" else torch.bfloat16
        return LlamaForCausalLM.from_pretrained(model, dtype=kept, attn_implementation="sdpa")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    base = LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16, quantization_config=quantization)
    return prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)


def padded(batch: list[dict[str, Any]], seen: list[int]) -> dict[str, torch.Tensor]:
    """A batch padded on the right; its useful tokens are noted in `seen`."""
    width = max(row["length"] for row in batch)
    seen.append(sum(row["length"] for row in batch))

    def table(key: str, value: int) -> torch.Tensor:
        return torch.tensor([list(row[key]) + [value] * (width - row["length"]) for row in batch])

    mask = torch.tensor([[1] * row["length"] + [0] * (width - row["length"]) for row in batch])
    return {"input_ids": table("input_ids", 0), "labels": table("labels", -100), "attention_mask": mask}


def packing_trainer(
    base: Any, rows: Any, lora: LoraConfig, arguments: dict[str, Any], length: int, seen: list[int]
) -> Any:
    """TRL's trainer with its packed batches of `length` tokens."""
    from trl import SFTConfig, SFTTrainer

    data = [{"input_ids": p + r, "completion_mask": [0] * len(p) + [1] * len(r)} for p, r in rows]
    trainer = SFTTrainer(
        model=base,
        args=SFTConfig(max_length=length, packing=True, completion_only_loss=True, **arguments),
        train_dataset=Dataset.from_list(data),
        peft_config=lora,
        processing_class=AutoTokenizer.from_pretrained(TOKENIZER),  # it asks for one; the examples are ids already
    )
    collate = trainer.data_collator

    def counted(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        made = collate(batch)
        seen.append(int(made["input_ids"].numel()))
        return made

    trainer.data_collator = counted
    return trainer
