"""Rows a second when many labels are ranked: all labels of a prompt in one forward pass against one forward a label.

    python bench/choices.py ../shared/data/public/classification/clinc150 --model ../shared/models/stories260K/hf --rows 40

Both ways use the native model and score the same rows; the largest difference of a log-probability is printed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from llama_tasks import adapters, choices, tasks
from llama_tasks.prompts import Renderer
from llama_tasks.recipe import BaseConfig, PromptConfig
from llama_tasks.sources import read_file
from llama_tasks.tokens import Encoder


def main() -> None:
    """Measure and print one line a way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with train.jsonl and test.jsonl of {text, label}")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rows", type=int, default=40)
    args = parser.parse_args()
    base = BaseConfig(model=args.model)
    model, tokenizer = adapters.load_base(base), adapters.load_tokenizer(base)
    labels = tasks.labels_of(read_file(args.data / "train.jsonl"))
    task = tasks.create("classify", labels)
    encoder, renderer = Encoder(tokenizer, PromptConfig()), Renderer(task)
    test = read_file(args.data / "test.jsonl")
    prompts = [renderer(task.example(row)) for row in test[:: max(1, len(test) // args.rows)][: args.rows]]
    ids = encoder.prompt_ids(prompts)
    tree = choices.Trie.of(encoder.choice_ids(prompts[0], labels))
    print(
        f"{len(labels)} labels, {sum(len(p) for p in tree.paths)} tokens, {tree.num_tokens} in the tree; {len(prompts)} rows"
    )

    began = time.perf_counter()
    together = choices.score_choices(model, encoder, prompts, ids, [labels] * len(prompts), 8192)
    fast = time.perf_counter() - began
    print(f"one forward a prompt: {len(prompts) / fast:8.2f} rows/s")

    began = time.perf_counter()
    apart = [_one_by_one(model, encoder, prompt, head, labels) for prompt, head in zip(prompts, ids, strict=True)]
    slow = time.perf_counter() - began
    print(f"one forward a label:  {len(prompts) / slow:8.2f} rows/s; {slow / fast:.1f} times as long")
    worst = max(abs(a[k] - b[k]) for a, b in zip(together, apart, strict=True) for k in labels)
    print(f"largest difference of a log-probability: {worst:.1e}")


@torch.inference_mode()
def _one_by_one(model, encoder, prompt, head: list[int], labels: list[str]) -> dict[str, float]:
    found = {}
    for label, tail in zip(labels, encoder.choice_ids(prompt, labels), strict=True):
        logits = model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        found[label] = float(logits.log_softmax(-1).gather(1, torch.tensor(tail)[:, None]).sum())
    return found


if __name__ == "__main__":
    main()
