"""Rows a second of our encoding against batched `datasets.map`, in turns, and what the token cache saves.

    python bench/encoding.py --output bench/results/encoding.json

The work is the same on both sides: prompt and answer of every row of a public set to ids, joined with BOS and EOS, and labels.
The peer gets prompts and answers as columns and calls the tokenizer on batches of 1,000 in `map(batched=True)`, without the
cache of datasets. Ours begins at the prompts (filling the template is in it, the peer's texts are made before). A B A B, medians,
CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
from packing import PUBLIC, TASKS, TOKENIZERS
from transformers import AutoTokenizer

from llama_tasks import tasks
from llama_tasks.dataset import token_cache
from llama_tasks.prompts import Prompt, Renderer
from llama_tasks.recipe import DataConfig, PromptConfig
from llama_tasks.sources import read_file, rename
from llama_tasks.tokens import IGNORE, Encoder

SETS = ("translation/tatoeba-en-zh", "summarization/dialogsum", "classification/agnews")
ROUNDS = 3


def main() -> None:
    """All sets with both tokenizers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    results = []
    for name, path in TOKENIZERS.items():
        tokenizer = AutoTokenizer.from_pretrained(path)
        for folder in SETS:
            results.append({"set": folder, "tokenizer": name, **compare(folder, tokenizer, arguments.rows)})
            print(json.dumps(results[-1]), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def compare(folder: str, tokenizer: Any, count: int) -> dict[str, Any]:
    """Speeds in rows a CPU second, the ratio, and the cache's seconds."""
    prompts = read(folder)[:count]
    encoder = Encoder(tokenizer, PromptConfig(max_length=2**20))
    table = datasets.Dataset.from_dict({"prompt": [p.text for p in prompts], "response": [p.response for p in prompts]})
    ways = {"ours": lambda: encoder.encode(prompts).tokens, "map": lambda: by_map(table, tokenizer)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    median = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "rows": len(prompts),
        "rows_per_second": {name: round(len(prompts) / value) for name, value in median.items()},
        "speed": round(median["map"] / median["ours"], 2),
        "cache": cached(encoder, prompts),
    }


def read(folder: str) -> list[Prompt]:
    """The training rows of a set, rendered by the task's template."""
    task_name = TASKS[folder.split("/")[0]]
    data = DataConfig(constants={"source_lang": "en", "target_lang": "zh"} if task_name == "translate" else {})
    rows = rename(read_file(PUBLIC / folder / "train.jsonl"), data, "train")
    task = tasks.create(task_name, tasks.labels_of(rows) if task_name == "classify" else [])
    render = Renderer(task)
    return [render(task.example(row)) for row in rows]


def by_map(table: datasets.Dataset, tokenizer: Any) -> datasets.Dataset:
    """The peer: batched map, prompt and answer apart, joined."""
    bos, eos = [tokenizer.bos_token_id], [tokenizer.eos_token_id]

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        heads = tokenizer(batch["prompt"], add_special_tokens=False)["input_ids"]
        tails = tokenizer(batch["response"], add_special_tokens=False)["input_ids"]
        pairs = list(zip(heads, tails, strict=True))
        return {
            "input_ids": [bos + head + tail + eos for head, tail in pairs],
            "labels": [[IGNORE] * (1 + len(head)) + tail + eos for head, tail in pairs],
        }

    return table.map(encode, batched=True, batch_size=1000, remove_columns=table.column_names)


def cached(encoder: Encoder, prompts: list[Prompt]) -> dict[str, float]:
    """CPU seconds of the key, of writing and of reading all tokens back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.arrow"
        encoded = encoder.encode(prompts)
        return {
            "encode": round(timed(lambda: encoder.encode(prompts)), 2),
            "key": round(timed(lambda: token_cache.key(encoder, prompts)), 2),
            "write": round(timed(lambda: token_cache.write(path, encoded)), 2),
            "read": round(timed(lambda: list(token_cache.read(path).tokens)), 2),
        }


def timed(call: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    main()
