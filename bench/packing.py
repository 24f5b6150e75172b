"""How full and how mixed batches are, and how long a plan takes.

    python bench/packing.py --output bench/results/packing.json

For every training set of ../shared/data/public with two tokenizers: the fill of `packing.pack` beside best fit in random order
and best-fit decreasing; batches of 2,048 tokens with whole examples (those above 2,048 are left out), and those of the task's
recipe with examples cut at prompt.max_length. `mixed` is the standard deviation over batches of the share of tokens that stand
in longer than median examples; best fit in random order shows what chance gives. What sharing prefixes saves stands beside. Then
a million made lengths, and a million examples with the search for shared prefixes; CPU seconds.
"""

from __future__ import annotations

import argparse
import bisect
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from llama_tasks import tasks
from llama_tasks.packing.plan import MemoryPlan, find_families, plan_epoch
from llama_tasks.prompts import Renderer
from llama_tasks.recipe import DataConfig, PromptConfig, TrainConfig, load_recipe
from llama_tasks.sources import read_file, rename
from llama_tasks.tokens import Encoder, Tokens

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = ROOT.parent / "shared/data/public"
TOKENIZERS = {
    "embedded": ROOT / "llama_tasks/embedded/base", "llama2-32k": ROOT.parent / "shared/models/tokenizers/llama2-32k",
}  # fmt: skip
TASKS = {"translation": "translate", "summarization": "summarize", "qa": "qa", "classification": "classify"}
SEED = 42
MILLION = 1_000_000


def main() -> None:
    """All sets, then the million."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--sets", nargs="*", help="names; left out: all")
    arguments = parser.parse_args()
    rows = []
    for name, path in TOKENIZERS.items():
        tokenizer = AutoTokenizer.from_pretrained(path)
        for folder in sorted(path for path in PUBLIC.glob("*/*") if path.is_dir()):
            if not arguments.sets or folder.name in arguments.sets:
                rows += measure(folder, name, tokenizer)
    result = {
        "seed": SEED,
        "sets": rows,
        "million": [million(mean) for mean in (40, 400, 700)],
        "families": shared_million(),
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, tokenizer_name: str, tokenizer: Any) -> list[dict[str, Any]]:
    """One set with one tokenizer: batches of 2,048, and the recipe's own."""
    task = TASKS[folder.parent.name]
    recipe = load_recipe(ROOT / f"recipes/{task}.yaml")
    tokens = encode(folder / "train.jsonl", task, tokenizer)
    whole = [len(item.input_ids) for item in tokens if len(item.input_ids) <= 2048]
    cut = [min(len(item.input_ids), recipe.prompt.max_length) for item in tokens]
    rows = []
    for what, lengths, size in (("whole", whole, 2048), ("recipe", cut, recipe.train.tokens_per_batch)):
        row = {
            "set": folder.name,
            "tokenizer": tokenizer_name,
            "examples": what,
            "tokens_per_batch": size,
            "n": len(lengths),
        }
        for name, way in WAYS.items():
            row[name] = quality(way(lengths, size), lengths, size)
        if what == "whole":
            families = find_families(tokens, size)
            row["sharing_saves"] = round(
                1 - sum(f.num_tokens for f in families) / sum(f.num_laid_out for f in families), 3
            )
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def encode(path: Path, task_name: str, tokenizer: Any) -> list[Tokens]:
    """The training rows as tokens, as the task's own template writes them."""
    languages = path.parent.name.split("-")[-2:] if task_name == "translate" else []
    data = DataConfig(constants=dict(zip(("source_lang", "target_lang"), languages, strict=False)))
    rows = rename(read_file(path), data, "train")
    task = tasks.create(task_name, tasks.labels_of(rows) if task_name == "classify" else [])
    render = Renderer(task)
    prompts = [render(task.example(row)) for row in rows]
    return list(Encoder(tokenizer, PromptConfig(max_length=2**20)).encode(prompts).tokens)


def best_fit(order: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Every document into the fullest batch that still holds it."""
    batches: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for index in order:
        at = bisect.bisect_left(rooms, (lengths[index], -1))
        room, batch = rooms.pop(at) if at < len(rooms) else (size, len(batches))
        if batch == len(batches):
            batches.append([])
        batches[batch].append(index)
        bisect.insort(rooms, (room - lengths[index], batch))
    return batches


def shuffled(lengths: Sequence[int]) -> list[int]:
    """Indices in a seeded order."""
    order = list(range(len(lengths)))
    random.Random(SEED).shuffle(order)
    return order


WAYS: dict[str, Callable[[Sequence[int], int], list[list[int]]]] = {
    "ours": lambda lengths, size: plan_epoch(lengths, size, SEED, 0),
    "best_fit_random": lambda lengths, size: best_fit(shuffled(lengths), lengths, size),
    "best_fit_decreasing": lambda lengths, size: best_fit(
        sorted(shuffled(lengths), key=lambda i: -lengths[i]), lengths, size
    ),
}


def quality(batches: list[list[int]], lengths: Sequence[int], size: int) -> dict[str, float]:
    """Fill in percent, and how much batches differ."""
    middle = statistics.median(lengths)
    shares = [sum(lengths[i] for i in b if lengths[i] > middle) / sum(lengths[i] for i in b) for b in batches]
    return {"fill": round(100 * sum(lengths) / (len(batches) * size), 2), "mixed": round(statistics.pstdev(shares), 3)}


def million(mean: int) -> dict[str, Any]:
    """The plan of an epoch of a million lengths around a mean."""
    rng = random.Random(SEED)
    lengths = [max(5, min(2048, int(rng.lognormvariate(0, 0.5) * mean))) for _ in range(MILLION)]
    began = time.process_time()
    batches = plan_epoch(lengths, 2048, SEED, 0)
    seconds = time.process_time() - began
    row = {"mean_length": mean, "seconds": round(seconds, 1), **quality(batches, lengths, 2048)}
    print(json.dumps(row), flush=True)
    return row


def shared_million() -> dict[str, Any]:
    """The whole plan of a million examples, 200,000 passages with five questions each, families found."""
    rng = random.Random(SEED)
    tokens = []
    for i in range(MILLION // 5):
        passage = [rng.randrange(3, 32000) for _ in range(30)]
        tokens += [Tokens(f"{i}.{q}", [*passage, rng.randrange(3, 32000), q, 2], 31) for q in range(5)]
    began = time.process_time()
    plan = MemoryPlan(tokens, TrainConfig(num_train_epochs=1), 1)
    row = {
        "n": len(tokens),
        "seconds": round(time.process_time() - began, 1),
        "saved": round(plan.saved, 3),
        "steps": plan.total_steps,
    }
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
