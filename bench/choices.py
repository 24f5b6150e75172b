"""Rows a second when choices are ranked: one pass a prompt with its choices as branches, against lm-evaluation-harness.

    make bench-choices ARGS="--shapes 15M --rows 32"
    python bench/choices.py --labels ../shared/data/public/classification/clinc150 --model ../shared/models/stories260K/hf

The same prompts (400 tokens) with four choices (1 to 8 tokens) on the same weights: `score_choices` on the native model, and the
harness's `HFLM` on transformers' LLaMA in every batch size of `--batches`, of which the best counts. The harness gets the ids that
the prompts and choices have here, so neither side encodes. One process of one thread, in turns; rows per second of CPU time.
`--labels` ranks all labels of a folder's rows instead and compares with one forward a label.
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
from transformers import AutoTokenizer, LlamaForCausalLM
from workloads import SHAPES, TOKENS, save_model

from llama_tasks import adapters, tasks
from llama_tasks.model import load_native
from llama_tasks.prompts import Renderer
from llama_tasks.recipe import BaseConfig, PromptConfig
from llama_tasks.score import choices
from llama_tasks.sources import read_file
from llama_tasks.tokens import Encoder

KEY = ("shape", "dtype", "rows")
PROMPT, CHOICES = 400, 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Row = tuple[list[int], list[list[int]]]  # ids of a prompt, and of each choice


def draw(count: int, vocabulary: int, seed: int = 0) -> list[Row]:
    """Prompts with their choices; a choice ends with the end token."""
    rng = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [rng.randrange(3, vocabulary) for _ in range(length)]

    return [(ids(PROMPT), [[*ids(rng.randint(1, 8)), 2] for _ in range(CHOICES)]) for _ in range(count)]


def ours(model: Any, rows: Sequence[Row], budget: int) -> list[list[float]]:
    """Each prompt once, its choices as branches."""
    jobs = [choices._Job(i, prompt, choices.Trie.of(options)) for i, (prompt, options) in enumerate(rows)]
    found = {job.row: values for job, values in choices._score(model, jobs, budget)}
    return [found[i] for i in range(len(rows))]


def harness(model: Any, batch: int) -> Any:
    """lm-evaluation-harness around a model; its tokenizer is only asked for its end token."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=model, tokenizer=AutoTokenizer.from_pretrained(adapters.EMBEDDED), batch_size=batch, device="cpu"
    )


def theirs(model: Any, rows: Sequence[Row], batch: int) -> list[list[float]]:
    """Each choice with its whole prompt, as the harness batches them."""
    requests = [
        ((str(i), str(j)), prompt, option)
        for i, (prompt, options) in enumerate(rows)
        for j, option in enumerate(options)
    ]
    found = iter(harness(model, batch)._loglikelihood_tokens(requests, disable_tqdm=True))
    return [[next(found)[0] for _ in options] for _, options in rows]


def measure(shape: str, dtype: str, count: int, batches: Sequence[int], budget: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_model(shape, Path(folder))
        native = load_native(folder, dtype=DTYPES[dtype]).eval()
        plain = LlamaForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype]).eval()
    rows = draw(count, SHAPES[shape]["vocab_size"])
    ways: dict[str, Callable[[], list[list[float]]]] = {"ours": lambda: ours(native, rows, budget)}
    for batch in batches:
        ways[str(batch)] = lambda batch=batch: theirs(plain, rows, batch)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for name, work in ways.items():
            began = time.process_time()
            values[name] = work()
            seconds[name].append(time.process_time() - began)
    rates = {name: round(count / statistics.median(spent), 3) for name, spent in seconds.items()}
    best = max((name for name in rates if name != "ours"), key=lambda name: rates[name])
    pairs = zip(values["ours"], values[best], strict=True)
    worst = max(abs(a - b) for mine, other in pairs for a, b in zip(mine, other, strict=True))
    if dtype == "fp32" and worst > 1e-4:
        raise SystemExit(f"{shape}: log-likelihoods differ by {worst:.1e}")
    return {
        "shape": shape, "dtype": dtype, "rows": count, "prompt_tokens": PROMPT, "choices": CHOICES, "tokens_per_batch": budget,
        "rows_per_second": rates, "best_batch": int(best), "speed": round(rates["ours"] / rates[best], 2),
        "largest_difference": float(f"{worst:.2g}"),
    }  # fmt: skip


def many_labels(folder: Path, name: str, count: int) -> None:
    """All labels of a prompt in one forward pass against one forward a label; both by the native model."""
    base = BaseConfig(model=name)
    model, tokenizer = adapters.load_base(base), adapters.load_tokenizer(base)
    labels = tasks.labels_of(read_file(folder / "train.jsonl"))
    task = tasks.create("classify", labels)
    encoder, renderer = Encoder(tokenizer, PromptConfig()), Renderer(task)
    test = read_file(folder / "test.jsonl")
    prompts = [renderer(task.example(row)) for row in test[:: max(1, len(test) // count)][:count]]
    ids = encoder.prompt_ids(prompts)
    began = time.perf_counter()
    together = choices.score_choices(model, encoder, prompts, ids, [labels] * len(prompts), 8192)
    fast = time.perf_counter() - began
    began = time.perf_counter()
    apart = [_one_by_one(model, encoder, prompt, head, labels) for prompt, head in zip(prompts, ids, strict=True)]
    slow = time.perf_counter() - began
    worst = max(abs(a[k] - b[k]) for a, b in zip(together, apart, strict=True) for k in labels)
    rates = f"{len(prompts) / fast:.2f} rows/s together, {len(prompts) / slow:.2f} apart"
    print(f"{len(labels)} labels: {rates}; log-probabilities differ by {worst:.1e}")


@torch.inference_mode()
def _one_by_one(model: Any, encoder: Encoder, prompt: Any, head: list[int], labels: list[str]) -> dict[str, float]:
    found = {}
    for label, tail in zip(labels, encoder.choice_ids(prompt, labels), strict=True):
        logits = model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        found[label] = float(logits.log_softmax(-1).gather(1, torch.tensor(tail)[:, None]).sum())
    return found


def main() -> None:
    """Measure every shape and save its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["15M"], choices=list(TOKENS))
    parser.add_argument("--dtypes", nargs="+", default=["fp32"], choices=DTYPES)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=results.FOLDER / "choices.json")
    parser.add_argument("--labels", type=Path, help="folder with train.jsonl and test.jsonl of {text, label}")
    parser.add_argument("--model", default="embedded", help="of --labels")
    args = parser.parse_args()
    if args.labels:
        many_labels(args.labels, args.model, args.rows)
        return
    for shape in args.shapes:
        for dtype in args.dtypes:
            row = measure(shape, dtype, args.rows, args.batches, args.tokens_per_batch, args.rounds)
            results.save(args.output, row, *KEY)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
