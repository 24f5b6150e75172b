"""The classifying heads equal transformers' own: outputs, loss, gradients, and through the Auto classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import LlamaConfig

from llama_tasks.model import NativeLlamaConfig, heads

KINDS = ("SequenceClassification", "TokenClassification", "QuestionAnswering")
AUTOS = {
    "SequenceClassification": "AutoModelForSequenceClassification",
    "TokenClassification": "AutoModelForTokenClassification",
    "QuestionAnswering": "AutoModelForQuestionAnswering",
}


def make_pair(kind: str, fields: dict[str, Any]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes = {**fields, "initializer_range": 0.2, "pad_token_id": 0, "id2label": {0: "a", 1: "b", 2: "c"}}
    reference = getattr(transformers, f"LlamaFor{kind}")(LlamaConfig(**sizes)).eval()
    native = getattr(heads, f"NativeLlamaFor{kind}")(NativeLlamaConfig(**sizes)).eval()
    native.load_state_dict(reference.state_dict())
    return reference, native


def make_batch(kind: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 97, (4, 9))
    ids[0, 6:] = 0  # padded on the right
    ids[1, :2] = 0  # and on the left
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    targets = {
        "SequenceClassification": {"labels": torch.tensor([0, 2, 1, 1])},
        "TokenClassification": {"labels": torch.randint(0, 3, ids.shape).masked_fill(ids == 0, -100)},
        "QuestionAnswering": {
            "start_positions": torch.tensor([1, 3, 0, 2]),
            "end_positions": torch.tensor([2, 5, 0, 8]),
        },
    }
    return batch | targets[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_loss_and_gradients_equal_transformers(tiny: dict[str, Any], kind: str) -> None:
    reference, native = make_pair(kind, tiny)
    batch = make_batch(kind)
    ours, theirs = native(**batch), reference(**batch)
    names = ("start_logits", "end_logits") if kind == "QuestionAnswering" else ("logits",)
    for name in ("loss", *names):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0)
    ours.loss.backward()
    theirs.loss.backward()
    expected = dict(reference.named_parameters())
    for name, parameter in native.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_auto_classes_load_it(tiny: dict[str, Any], tmp_path: Path, kind: str) -> None:
    _, native = make_pair(kind, tiny)
    native.save_pretrained(tmp_path)
    loaded = getattr(transformers, AUTOS[kind]).from_pretrained(tmp_path)
    assert type(loaded) is type(native)
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, native.get_parameter(name)), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_llama_checkpoint_with_this_head_loads(tiny: dict[str, Any], tmp_path: Path, kind: str) -> None:
    reference, native = make_pair(kind, tiny)
    reference.save_pretrained(tmp_path)
    config = NativeLlamaConfig(**{**tiny, "pad_token_id": 0, "id2label": {0: "a", 1: "b", 2: "c"}})
    loaded, info = type(native).from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, native.get_parameter(name)), name


def test_accumulated_batches_do_not_scale_the_gradients(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Under Trainer, one batch of four rows and four of one row are the same step."""
    batch = make_batch("SequenceClassification")
    rows = [{"input_ids": batch["input_ids"][i], "labels": batch["labels"][i]} for i in range(4)]
    norms = []
    for size in (4, 1):
        _, native = make_pair("SequenceClassification", tiny)
        arguments = transformers.TrainingArguments(
            tmp_path / str(size), per_device_train_batch_size=size, gradient_accumulation_steps=4 // size, max_steps=1,
            logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, max_grad_norm=1e9,
        )  # fmt: skip
        trainer = transformers.Trainer(native, arguments, train_dataset=rows)
        trainer.train()
        norms.append(next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
