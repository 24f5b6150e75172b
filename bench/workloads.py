"""What the speed benchmarks train on: model shapes, synthetic examples of the four tasks' lengths, and how they are timed.

The shapes are those of stories15M, SmolLM2-135M, Llama-3.2-1B and Llama-3.1-8B; `tiny` is for trying the scripts out.
"""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "15M": {"vocab_size": 32000, "hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6,
            "num_attention_heads": 6, "num_key_value_heads": 6, "tie_word_embeddings": True},
    "135M": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "1B": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True, "rope_theta": 500000.0},
    "8B": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "rope_theta": 500000.0},
}  # fmt: skip
# Mean tokens of prompt and response; `5q`: five questions of 20 + 6 tokens on each passage of 400.
WORKLOADS: dict[str, tuple[int, ...]] = {
    "22+22": (22, 22), "64+1": (64, 1), "170+4": (170, 4), "419+41": (419, 41), "5q": (400, 20, 6),
}  # fmt: skip
TOKENS = {"tiny": 1_500, "15M": 40_000, "135M": 14_000}  # of a run on the CPU
RANK = 16
WARMUP = 2  # steps left out of the timing


def examples(workload: str, vocab: int, total: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, response ids) of about `total` tokens; lengths are spread by a third around the workload's."""
    rng = random.Random(seed)
    sizes = WORKLOADS[workload]

    def draw(mean: int) -> list[int]:
        count = max(1, round(rng.gauss(mean, mean / 3))) if mean > 1 else 1
        return [rng.randrange(3, vocab) for _ in range(min(count, 3 * mean))]

    made: list[tuple[list[int], list[int]]] = []
    while sum(len(p) + len(r) for p, r in made) < total:
        prompt = draw(sizes[0])
        if len(sizes) == 3:
            made += [(prompt + draw(sizes[1]), [*draw(sizes[2]), 2]) for _ in range(5)]
        else:
            made.append((prompt, [*draw(sizes[1])[:-1], 2]))
    return made


def save_model(shape: str, folder: Path) -> None:
    """Random weights of a shape, as a `llama` checkpoint."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).save_pretrained(folder)


class Clock:
    """CPU seconds, wall seconds and useful tokens at the end of every optimizer step; peak memory above the start's."""

    def __init__(self) -> None:
        self.before = peak_mib()
        self.marks: list[tuple[float, float, int]] = []

    def mark(self, tokens: int) -> None:
        """One more step is done, of so many tokens that are no padding."""
        self.marks.append((time.process_time(), time.perf_counter(), tokens))

    def result(self, first_loss: float) -> dict[str, Any]:
        """Speed over all steps behind the first ones. Raises SystemExit where there are none."""
        if len(self.marks) <= WARMUP:
            raise SystemExit(
                f"{len(self.marks)} steps, of which {WARMUP} are left out: raise --tokens, or lower --batch."
            )
        first, last = self.marks[WARMUP - 1], self.marks[-1]
        tokens = sum(tokens for _, _, tokens in self.marks[WARMUP:])
        return {
            "tokens_per_cpu_second": round(tokens / (last[0] - first[0]), 1),
            "tokens_per_second": round(tokens / (last[1] - first[1]), 1),
            "steps": len(self.marks), "tokens": tokens, "first_loss": first_loss, "peak_mib": round(peak_mib() - self.before, 1),
        }  # fmt: skip


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
