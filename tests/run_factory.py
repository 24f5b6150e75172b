"""Small real run directories: a random LLaMA, a tokenizer trained here, a peft adapter with effect, a contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_tasks.contract import PromptContract, hash_of, special_ids, tokenizer_sha256
from llama_tasks.prompts import render

TEMPLATE = {
    "default": "Summarize the text.\n\n{document}\n\nSummary:\n",
    "zh": "概括下面的文字。\n\n{document}\n\n摘要：\n",
}
DOCUMENT = "A dog ran over the hill. </s> It came back with a {stick}."
HUB_BASE = "tester/tiny-llama"
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, 300 tokens, BOS put before a text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEMPLATE.values(), DOCUMENT] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def make_base(folder: Path, seed: int = 0) -> Path:
    """A random LLaMA of 64 hidden units and 2 layers, as a plain `llama` checkpoint."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=3,
        initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_run(folder: Path, base: Path, *, revision: str | None = None, quantization: str = "none") -> Path:
    """A finished run on `base`; with a `revision`, as if the base had come from the Hub (`HUB_BASE`)."""
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    _make_adapter(adapter, base)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(adapter)
    make_contract(tokenizer).save(adapter)
    model = HUB_BASE if revision else str(base)
    recipe = {
        "task": "summarize",
        "base": {"model": model, "revision": revision, "quantization": quantization},
        "data": {"train": ["/home/somebody/secret-project/train.jsonl", "tester/news"]},
        "train": {"learning_rate": 1e-4, "seed": 42},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "environment.json").write_text(json.dumps({"versions": {"torch": torch.__version__}}))
    (folder / "report.json").write_text(json.dumps(make_report(model)))
    return folder


def _make_adapter(folder: Path, base: Path) -> None:
    torch.manual_seed(1)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules=["v_proj", "q_proj", "down_proj"], task_type="CAUSAL_LM"),
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()  # peft's own card, empty


def make_contract(tokenizer: PreTrainedTokenizerFast) -> PromptContract:
    """The contract of a summarisation run; its sample holds a special token and braces as plain text."""
    prompt, response = render(TEMPLATE["default"], {"document": DOCUMENT}), "A dog ran."
    head, tail = tokenizer([prompt, response], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids = [1, *head, *tail, 2]
    return PromptContract(
        task="summarize",
        template=TEMPLATE,
        template_sha256=hash_of(TEMPLATE),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        special_ids=special_ids(tokenizer),
        max_length=128,
        sample={"prompt": prompt, "response": response, "input_ids": ids, "prompt_length": 1 + len(head)},
        decoding={"max_new_tokens": 8},
    )


def make_report(model: str) -> dict[str, Any]:
    """A report with one English and one Chinese score."""
    scores = [
        {
            "metric": metric, "lang": lang, "n": 40, "signature": signature,
            "base": {"value": 3.25, "interval": [2.0, 4.5]},
            "adapter": {"value": value, "interval": [value - 2, value + 2]},
            "difference": value - 3.25, "difference_interval": [1.0, 60.0],
            "p_value": 0.0004, "method": "paired bootstrap",
        }
        for metric, lang, value, signature in [
            ("rougeL", "en", 31.4159, "nrefs:1|stem:no|version:0.1.2"),
            ("chrf", "zh", 27.5, "nrefs:1|case:mixed|nc:6|version:2.6.0"),
        ]
    ]  # fmt: skip
    split = {"rows": 200, "sha256": "ab" * 32, "source": "/home/somebody/secret-project/train.jsonl"}
    return {
        "format": 1, "title": "summarize", "task": "summarize", "created": "2025-01-01T00:00:00+00:00",
        "command": "make finetune TASK=summarize DATA=/home/somebody/secret-project/train.jsonl", "scores": scores,
        "counts": {"base": {"rows": 40, "empty": 1}, "adapter": {"rows": 40, "empty": 0}},
        "training": {"best_step": 30, "trainable_parameters": 1024, "total_parameters": 100_000, "seconds": 61.0},
        "examples": [],
        "provenance": {
            "versions": {"torch": "2.13.0"}, "hardware": {"cpu": "2 cores"}, "seed": 42, "base_model": model,
            "data": {"train": split, "test": {**split, "rows": 40}},
        },
    }  # fmt: skip
