"""A tiny random base and small files, for runs that take a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def make_base(folder: Path) -> Path:
    """A random plain `llama` checkpoint of 32 dimensions with the embedded tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4608, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "llama_tasks/embedded/base" / name, folder / name)
    return folder


def make_model(kind: str, folder: Path) -> Path:
    """A random model of another family, with settings in its generation_config that must not enter our scores."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shared = {"vocab_size": 4608, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, **shared))
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, **sizes, **shared))
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.4)
    model.generation_config.repetition_penalty = 3.0
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "llama_tasks/embedded/base" / name, folder / name)
    return folder


def make_rows(path: Path, rows: list[dict]) -> Path:
    """A .jsonl file of the rows."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe_text(task: str, base: Path, data: Path, **train: object) -> str:
    """A recipe of a few seconds."""
    settings = {
        "num_train_epochs": 1,
        "tokens_per_batch": 256,
        "eval_times": 1,
        "save_steps": 5,
        "logging_steps": 1,
        **train,
    }
    lines = "".join(f"  {key}: {value}\n" for key, value in settings.items())
    suite = {
        "summarize": "[rougeL]",
        "translate": "[bleu, chrf]",
        "qa": "[f1, exact_match]",
        "classify": "[accuracy, macro_f1]",
    }[task]
    scoring = "likelihood" if task == "classify" else "generate"
    return (
        f"task: {task}\nbase:\n  model: {base}\ndata:\n  train: {data}\nprompt:\n  max_length: 256\ntrain:\n{lines}"
        f"eval:\n  scoring: {scoring}\n  metrics: {suite}\n  max_new_tokens: 4\n  n_resamples: 100\n"
    )


def plain_embedded() -> Any:
    """The embedded base as transformers' own LLaMA, in float32."""
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(ROOT / "llama_tasks/embedded/base", dtype=torch.float32).eval()


def logprob(plain: Any, ids: list[int], start: int) -> float:
    """log P(ids[start:] | ids[:start]) by one text at a time."""
    import torch

    with torch.inference_mode():
        values = plain(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(values[i - 1, ids[i]]) for i in range(start, len(ids)))
