"""The native model under the libraries that people train and measure with: transformers' Trainer, TRL, lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorWithFlattening, Trainer, TrainingArguments

from llama_tasks.adapters import EMBEDDED
from llama_tasks.model import load_native

pytestmark = pytest.mark.usefixtures("no_traces")
ROWS = [{"input_ids": list(range(3, 3 + n)), "labels": [-100, *range(4, 3 + n)]} for n in (9, 5, 12, 7)]


def arguments(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "max_steps": 2, "use_cpu": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1,
        "per_device_train_batch_size": 2, "disable_tqdm": True, "dataloader_pin_memory": False, **more,
    }  # fmt: skip


def losses(trainer: Trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_trainer_gives_the_losses_of_transformers_llama(make_pair: Any, tmp_path: Path) -> None:
    """Packed rows that only their positions tell apart, accumulated: the same numbers at every step."""
    found = []
    for model in make_pair():
        settings = TrainingArguments(**arguments(tmp_path, gradient_accumulation_steps=2, learning_rate=1e-2))
        trainer = Trainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(ROWS),
            data_collator=DataCollatorWithFlattening(),
        )
        found.append(losses(trainer))
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert found[1][1] < found[1][0]


def test_label_smoothing_under_trainer_shifts_labels(make_pair: Any, tmp_path: Path) -> None:
    found = []
    for model in make_pair():
        settings = TrainingArguments(**arguments(tmp_path, label_smoothing_factor=0.1, per_device_train_batch_size=1))
        rows = Dataset.from_list(ROWS[:1])
        found.append(losses(Trainer(model=model, args=settings, train_dataset=rows)))
    assert found[0] == pytest.approx(found[1], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_trl_trains_it_packed_with_an_adapter(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from peft import LoraConfig

    settings = trl.SFTConfig(**arguments(tmp_path, max_length=64, packing=True, per_device_train_batch_size=1))
    trainer = trl.SFTTrainer(
        model=load_native(EMBEDDED),
        args=settings,
        train_dataset=Dataset.from_dict({"text": ["The train is late.", "从前有一个小女孩。", "Why?"] * 8}),
        processing_class=AutoTokenizer.from_pretrained(EMBEDDED),
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]),
    )
    assert all(torch.isfinite(torch.tensor(losses(trainer))))


@pytest.mark.filterwarnings("ignore")
def test_the_harness_scores_it_as_it_scores_llama() -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    pairs = [("The train is", " late."), ("从前有一个", "小女孩。"), ("Why", " not?")]
    scores = []
    for model in (load_native(EMBEDDED), LlamaForCausalLM.from_pretrained(EMBEDDED)):
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, device="cpu")
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        scores.append(harness.loglikelihood(requests))
    for (ours, greedy), (theirs, greedy_too) in zip(*scores, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4) and greedy == greedy_too
