"""Batched decoding: prompts as ids in, outputs in the same order out. Padding is on the left, and it is ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from llama_tasks.recipe import Suite
from llama_tasks.tokens import Encoder


@dataclass(frozen=True)
class Output:
    """One generated text; `finish` is `stop` when the model ended it with EOS, `length` when it ran into the limit."""

    text: str
    finish: Literal["stop", "length"]
    tokens: int


@torch.inference_mode()
def generate(model: Any, encoder: Encoder, prompts: Sequence[list[int]], suite: Suite) -> list[Output]:
    """Decode every prompt (greedy, or beam search where the suite says so).

    Prompts of like length share a batch of at most `suite.tokens_per_batch` tokens, new ones counted in.
    """
    outputs: list[Output | None] = [None] * len(prompts)
    was_training = model.training
    model.eval()
    for batch in _batches([len(ids) for ids in prompts], suite):
        rows = [prompts[i] for i in batch]
        for index, output in zip(batch, _decode(model, encoder, rows, suite), strict=True):
            outputs[index] = output
    model.train(was_training)
    return [output for output in outputs if output is not None]


def stop_ids(model: Any, encoder: Encoder) -> list[int]:
    """Every token that ends an output: the tokenizer's EOS, and those that the base names besides (Llama 3 has several)."""
    named = model.generation_config.eos_token_id
    named = [named] if isinstance(named, int) else named or []
    return sorted({*encoder.eos, *named})


def _decode(model: Any, encoder: Encoder, rows: Sequence[list[int]], suite: Suite) -> Iterator[Output]:
    from transformers import GenerationConfig

    ends = stop_ids(model, encoder)
    pad = encoder.tokenizer.pad_token_id if encoder.tokenizer.pad_token_id is not None else encoder.eos[0]
    width = max(len(ids) for ids in rows)
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows], device=model.device)
    config = GenerationConfig(
        max_new_tokens=suite.max_new_tokens,
        num_beams=suite.num_beams,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=pad,
    )
    for ids in model.generate(input_ids=input_ids, attention_mask=mask, generation_config=config)[:, width:].tolist():
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        stopped, ids = end is not None, ids[:end]
        text = encoder.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        yield Output(text, "stop" if stopped else "length", len(ids) + stopped)


def _batches(lengths: Sequence[int], suite: Suite) -> Iterator[list[int]]:
    """Indices by falling length, cut so that rows x (longest + new tokens) x beams stays within the budget."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batch[0]] if batch else lengths[index]
        if batch and (len(batch) + 1) * (longest + suite.max_new_tokens) * suite.num_beams > suite.tokens_per_batch:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
