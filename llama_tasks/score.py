"""Likelihood instead of generation: of the choices of a label set, of plain text, of an end."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from llama_tasks.packing import Batch, collate, pack
from llama_tasks.prompts import Prompt
from llama_tasks.tokens import IGNORE, Encoder, Tokens


@torch.inference_mode()
def score_choices(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    ids: Sequence[list[int]],
    choices: Sequence[str],
    tokens_per_batch: int,
) -> list[dict[str, float]]:
    """log P(choice, EOS | prompt) in nats, for every prompt (with its ids) and choice.

    EOS is part of a choice, so a label that begins another one (`sport`, `sports`) is scored fairly.
    """
    tokens = []
    for prompt, head in zip(prompts, ids, strict=True):
        tails = encoder.response_ids([prompt.follow(choice) for choice in choices])
        tokens += [Tokens(prompt.example.id, head + tail + encoder.eos, len(head)) for tail in tails]
    logprobs = _logprobs(model, tokens, tokens_per_batch)
    step = len(choices)
    return [dict(zip(choices, logprobs[i : i + step], strict=True)) for i in range(0, len(logprobs), step)]


def score_text(model: Any, tokens: Sequence[Tokens], n_bytes: int, tokens_per_batch: int) -> dict[str, float]:
    """Loss (nats per token), perplexity and bits per byte of plain text.

    Bits per byte divide by the text's UTF-8 bytes, so they compare across tokenizers.
    """
    total = -sum(_logprobs(model, tokens, tokens_per_batch))
    targets = sum(len(t.input_ids) - max(t.prompt_length, 1) for t in tokens)
    loss = total / max(targets, 1)
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": total / math.log(2) / max(n_bytes, 1),
    }


@torch.inference_mode()
def rank_of_end(model: Any, tokens: Sequence[Tokens]) -> float:
    """Share of the vocabulary that the model holds likelier than EOS where the examples end; the median over them.

    Near 0 for a model that has learned to end a text. Above one half for one that never met EOS: training has pushed
    that token down together with all the unused ones.
    """
    ranks = []
    for item in tokens:
        ids = torch.tensor([item.input_ids], device=model.device)
        logits = model(input_ids=ids, logits_to_keep=2, use_cache=False).logits[0, 0]
        ranks.append(float((logits > logits[item.input_ids[-1]]).float().mean()))
    return statistics.median(ranks)


@torch.inference_mode()
def _logprobs(model: Any, tokens: Sequence[Tokens], tokens_per_batch: int) -> list[float]:
    """Sum of the log-probabilities of every document's targets."""
    sums = [0.0] * len(tokens)
    was_training = model.training
    model.eval()
    for indices in pack([len(t.input_ids) for t in tokens], tokens_per_batch):
        batch = collate([tokens[i] for i in indices])
        for index, value in zip(indices, _batch_logprobs(model, batch), strict=True):
            sums[index] = value
    model.train(was_training)
    return sums


def _batch_logprobs(model: Any, batch: Batch) -> Iterator[float]:
    at = (batch.labels[0] != IGNORE).nonzero()[:, 0]  # positions of targets; the position before each predicts it
    logits = model(**batch.inputs(model.device), logits_to_keep=(at - 1).to(model.device)).logits[0].float()
    picked = logits.log_softmax(-1).gather(-1, batch.labels[0, at, None].to(logits.device))[:, 0].cpu().double()
    documents = torch.bucketize(at, batch.cu_seq_lens[1:-1].long(), right=True)
    yield from torch.zeros(len(batch.ids), dtype=torch.double).index_add(0, documents, picked).tolist()
