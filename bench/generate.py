"""Rows a second of generation, llama-tasks against transformers' `generate` at its best batch size, on outputs of skewed length.

    make bench-generate ARGS="--shapes 15M --rows 256"

Both decode the same prompts greedily with the same weights, and neither is told how long a text will be: the ends are tokens
that the model itself writes now and then (a set of them, as Llama 3 has several), so that a row ends early or late by its
own text and lengths are skewed for both alike. transformers gets rows sorted by the length of the prompt, in every batch size of
`--batches`; its best one counts. One process of one thread, in turns (A B A B); the number is rows per second of process CPU time.
The text of every row is compared with the same row decoded alone by transformers.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import results
import torch
from transformers import GenerationConfig, LlamaForCausalLM
from workloads import SHAPES, TOKENS, save_model

from llama_tasks.generate.slots import decode_by_slots
from llama_tasks.model import load_native
from llama_tasks.recipe import Suite

KEY = ("shape", "dtype", "rows", "max_new_tokens", "tokens_per_batch")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MEDIAN = 24  # tokens of an output, about
Texts = list[list[int]]


def varied(shape: str, folder: Path) -> None:
    """Random weights large enough that a text does not fall into writing one token for ever."""
    save_model(shape, folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(
                    std=1.0 if "embed" in name else 0.3 if weight.shape[0] < 64 else 0.1, generator=generator
                )
    model.save_pretrained(folder)


def draw_prompts(count: int, vocabulary: int, seed: int = 0) -> Texts:
    """Prompts of lognormal length around 48 tokens."""
    rng = random.Random(seed)
    lengths = [min(256, max(4, round(rng.lognormvariate(3.87, 0.6)))) for _ in range(count)]
    return [[rng.randrange(3, vocabulary) for _ in range(length)] for length in lengths]


def draw_ends(texts: Texts, vocabulary: int, seed: int = 0) -> list[int]:
    """Tokens that end a text: drawn from the vocabulary one by one, until half of the texts end within MEDIAN tokens."""
    order = list(range(3, vocabulary))
    random.Random(seed).shuffle(order)
    low, high = 1, len(order)
    while low < high:
        middle = (low + high) // 2
        ends = set(order[:middle])
        if statistics.median(length(text, ends) for text in texts) > MEDIAN:
            low = middle + 1
        else:
            high = middle
    return sorted(order[:low])


def length(text: Sequence[int], ends: set[int]) -> int:
    """Tokens up to the first end, which is among them."""
    return next((i + 1 for i, token in enumerate(text) if token in ends), len(text))


@torch.inference_mode()
def ours(model: Any, prompts: Texts, ends: list[int], limit: int, budget: int) -> Texts:
    """By slots, as `llama_tasks.generate` decodes."""
    made = dict(decode_by_slots(model, prompts, ends, Suite(max_new_tokens=limit, tokens_per_batch=budget)))
    return [made[i] for i in range(len(prompts))]


def theirs(model: Any, prompts: Texts, ends: list[int], limit: int, batch: int) -> Texts:
    """By `generate`, prompts of like length together, padded on the left."""
    config = GenerationConfig(max_new_tokens=limit, do_sample=False, eos_token_id=ends, pad_token_id=0)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(prompts[i]) for i in chosen)
        ids = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
        made = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
        found.update(zip(chosen, made, strict=True))
    known = set(ends)
    return [found[i][: length(found[i], known)] for i in range(len(prompts))]


def timed(work: Callable[[], Texts]) -> tuple[float, Texts]:
    """CPU seconds, and what was written."""
    began = time.process_time()
    texts = work()
    return time.process_time() - began, texts


def measure(
    shape: str, dtype: str, count: int, limit: int, batches: Sequence[int], budget: int, rounds: int
) -> dict[str, Any]:
    """One row of the table."""
    torch.set_num_threads(1)
    vocabulary = SHAPES[shape]["vocab_size"]
    with tempfile.TemporaryDirectory() as folder:
        varied(shape, Path(folder))
        native = load_native(folder, dtype=DTYPES[dtype]).eval()
        plain = LlamaForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype]).eval()
    prompts = draw_prompts(count, vocabulary)
    ends = draw_ends(ours(native, prompts[:32], [vocabulary], limit, budget), vocabulary)
    ways: dict[str, Callable[[], Texts]] = {"ours": lambda: ours(native, prompts, ends, limit, budget)}
    for batch in batches:
        ways[str(batch)] = lambda batch=batch: theirs(plain, prompts, ends, limit, batch)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, Texts] = {}
    for _ in range(rounds):
        for name, work in ways.items():
            spent, texts[name] = timed(work)
            seconds[name].append(spent)
    alone = texts["1"] if "1" in texts else theirs(plain, prompts, ends, limit, 1)
    rates = {name: round(count / statistics.median(spent), 3) for name, spent in seconds.items()}
    best = max((name for name in rates if name != "ours"), key=lambda name: rates[name])
    return {
        "shape": shape, "dtype": dtype, "rows": count, "max_new_tokens": limit, "tokens_per_batch": budget,
        "output_tokens": spread([len(text) for text in alone]), "prompt_tokens": spread([len(ids) for ids in prompts]),
        "rows_per_second": rates, "best_batch": int(best), "speed": round(rates["ours"] / rates[best], 2),
        "other_text_than_alone": {
            name: round(sum(a != b for a, b in zip(found, alone, strict=True)) / count, 4) for name, found in texts.items()
        },
    }  # fmt: skip


def spread(lengths: Sequence[int]) -> dict[str, float]:
    """Median, mean, ninth decile and largest."""
    return {"median": statistics.median(lengths), "mean": round(statistics.mean(lengths), 1),
            "p90": sorted(lengths)[len(lengths) * 9 // 10], "max": max(lengths)}  # fmt: skip


def main() -> None:
    """Measure every shape and save its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["15M"], choices=list(TOKENS))
    parser.add_argument("--dtypes", nargs="+", default=["fp32"], choices=DTYPES)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64, 128])
    parser.add_argument("--tokens-per-batch", type=int, default=Suite().tokens_per_batch)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=results.FOLDER / "generate.json")
    args = parser.parse_args()
    for shape in args.shapes:
        for dtype in args.dtypes:
            row = measure(
                shape, dtype, args.rows, args.max_new_tokens, args.batches, args.tokens_per_batch, args.rounds
            )
            results.save(args.output, row, *KEY)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
