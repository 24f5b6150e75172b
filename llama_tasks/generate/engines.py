"""Other ways to decode, behind the seam of `generate`: transformers' `generate` and its continuous batching; vLLM's is `by_vllm`.

Each takes a Job and gives (index, new ids) of every prompt; an end, where there is one, is among the ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessor, LogitsProcessorList

from llama_tasks.errors import ModelError
from llama_tasks.generate.by_vllm import by_vllm, check_vllm
from llama_tasks.generate.sampling import Chooser
from llama_tasks.recipe import Suite
from llama_tasks.recipe.decoding_fields import is_greedy


@dataclass(frozen=True)
class Job:
    """What is to be decoded: prompts as ids with the names of their rows, the tokens that end an output, the padding."""

    model: Any
    prompts: Sequence[list[int]]
    ends: list[int]
    pad: int
    suite: Suite
    names: Sequence[str]


class _Chosen(LogitsProcessor):
    """Leaves `generate` no choice but the token that the Chooser takes, so that rows draw alike in every engine."""

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self.chooser(scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def by_batches(job: Job) -> Iterator[tuple[int, list[int]]]:
    """By `model.generate`, batch by batch; padding is on the left, and it is ours."""
    suite = job.suite
    for batch in _batches([len(ids) for ids in job.prompts], suite):
        rows = [job.prompts[i] for i in batch]
        width = max(len(ids) for ids in rows)
        device = job.model.device
        input_ids = torch.tensor([[job.pad] * (width - len(ids)) + ids for ids in rows], device=device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows], device=device)
        processors = LogitsProcessorList()
        if suite.num_beams == 1 and not is_greedy(suite):
            chooser = Chooser(suite, job.ends, device)
            chooser.enter([job.names[i] for i in batch], rows)
            processors.append(_Chosen(chooser))
        made = job.model.generate(
            input_ids=input_ids, attention_mask=mask, generation_config=_config(job), logits_processor=processors
        )
        yield from zip(batch, made[:, width:].tolist(), strict=True)


def _config(job: Job) -> GenerationConfig:
    """Of `generate`: limits and beams; everything else is the Chooser's."""
    suite = job.suite
    beams: dict[str, Any] = {}
    if suite.num_beams > 1:
        beams = {
            "num_beams": suite.num_beams, "length_penalty": suite.length_penalty, "early_stopping": suite.early_stopping,
            "repetition_penalty": suite.repetition_penalty, "no_repeat_ngram_size": suite.no_repeat_ngram_size,
            "min_new_tokens": suite.min_new_tokens or None,
        }  # fmt: skip
    return GenerationConfig(
        max_new_tokens=suite.max_new_tokens, do_sample=False, eos_token_id=job.ends, pad_token_id=job.pad, **beams
    )


def _batches(lengths: Sequence[int], suite: Suite) -> Iterator[list[int]]:
    """Indices by falling length, cut so that rows x (longest + new tokens) x beams stays within the budget.

    Where beams punish repetitions rows of one batch are equally long, because transformers would count padding as text.
    """
    alike = suite.num_beams > 1 and (suite.repetition_penalty != 1 or suite.no_repeat_ngram_size > 0)
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batch[0]] if batch else lengths[index]
        full = (len(batch) + 1) * (longest + suite.max_new_tokens) * suite.num_beams > suite.tokens_per_batch
        if batch and (full or (alike and lengths[index] != longest)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def by_continuous_batching(job: Job) -> Iterator[tuple[int, list[int]]]:
    """By transformers' `generate_batch`: paged memory of its own, sized by the GPU; on a CPU by the suite's batch.

    Sampling draws from one seed for all rows, so texts depend on what is decoded together.
    """
    suite = job.suite
    drawn = {"temperature": suite.temperature, "top_k": suite.top_k or None, "top_p": suite.top_p}
    config = GenerationConfig(
        max_new_tokens=suite.max_new_tokens, do_sample=suite.do_sample, eos_token_id=job.ends, pad_token_id=job.pad,
        **(drawn if suite.do_sample else {}),
    )  # fmt: skip
    # It works in threads of its own, which may not change tensors that were made under inference_mode.
    with torch.inference_mode(False), torch.no_grad():
        found = job.model.generate_batch(
            inputs=list(job.prompts),
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(
                max_batch_tokens=suite.tokens_per_batch,
                seed=suite.seed,
                auto_switch_to_flash=False,
                num_blocks=_blocks(job) if job.model.device.type == "cpu" else None,
            ),
        )
    # Requests are numbered in the order of the prompts; those that failed are missing.
    if len(found) != len(job.prompts):
        raise ModelError(
            f"transformers' continuous batching answered {len(found)} of {len(job.prompts)} prompts; leave eval.engine out."
        )
    for index, (_, output) in enumerate(sorted(found.items(), key=lambda item: _number(item[0]))):
        if output.error:
            raise ModelError(f"transformers' continuous batching failed: {output.error}")
        yield index, output.generated_tokens


def _check_continuous_batching(_: Any) -> None:
    if not hasattr(ContinuousBatchingConfig, "page_size"):
        raise ModelError("eval.engine: continuous_batching needs transformers 5.19 or newer; or leave eval.engine out.")


def _blocks(job: Job) -> int:
    """Blocks of memory for a batch of the suite's tokens, or for the longest row. Left to itself transformers fills more than half
    of a machine's memory with zeros."""
    longest = max(map(len, job.prompts)) + job.suite.max_new_tokens
    return -(-max(longest, job.suite.tokens_per_batch) // ContinuousBatchingConfig().page_size)


def _number(request: str) -> int:
    """The number at the end of a request's name."""
    return int("".join(c for c in request.rpartition("_")[2] if c.isdigit()))


ENGINES: dict[str, Callable[[Job], Iterator[tuple[int, list[int]]]]] = {
    "transformers": by_batches, "continuous_batching": by_continuous_batching, "vllm": by_vllm,
}  # fmt: skip
#: What an engine needs of a model and of this machine, looked at before anything is decoded; each raises ModelError.
CHECKS: dict[str, Callable[[Any], None]] = {
    "continuous_batching": _check_continuous_batching,
    "vllm": check_vllm,
}
