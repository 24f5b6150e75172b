"""Likelihood instead of generation: of the choices of a label set, of plain text, of an end."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from llama_tasks.model.attention_packed import Documents
from llama_tasks.packing import Batch, collate, pack
from llama_tasks.prompts import Prompt
from llama_tasks.tokens import IGNORE, Encoder, Tokens


def score_choices(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    ids: Sequence[list[int]],
    choices: Sequence[str],
    tokens_per_batch: int,
) -> list[dict[str, float]]:
    """log P(choice, EOS | prompt) in nats, for every prompt (with its ids) and choice.

    EOS is part of a choice, so a label that begins another one (`sport`, `sports`) is scored fairly. A prompt is
    computed once, and its choices continue it.
    """
    families = []
    for prompt, head in zip(prompts, ids, strict=True):
        tails = encoder.response_ids([prompt.follow(choice) for choice in choices])
        stem = Tokens(prompt.example.id, head, len(head))
        families.append([stem, *(Tokens(stem.id, tail + encoder.eos, 0) for tail in tails)])
    logprobs = _logprobs(model, families, tokens_per_batch)
    return [dict(zip(choices, values[1:], strict=True)) for values in logprobs]


def score_text(model: Any, tokens: Sequence[Tokens], n_bytes: int, tokens_per_batch: int) -> dict[str, float]:
    """Loss (nats per token), perplexity and bits per byte of plain text.

    Bits per byte divide by the text's UTF-8 bytes, so they compare across tokenizers.
    """
    total = -sum(value for (value,) in _logprobs(model, [[item] for item in tokens], tokens_per_batch))
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
def _logprobs(model: Any, families: Sequence[Sequence[Tokens]], tokens_per_batch: int) -> list[list[float]]:
    """Sum of the log-probabilities of every document's targets. Of a family, the first document is the prefix of the
    others; families of one are plain documents."""
    sums: list[list[float]] = [[] for _ in families]
    was_training = model.training
    model.eval()
    sizes = [sum(len(item.input_ids) for item in family) for family in families]
    for indices in pack(sizes, tokens_per_batch):
        members = [families[i] for i in indices]
        firsts = itertools.accumulate((len(family) for family in members[:-1]), initial=0)
        prefixes = [p for f, m in zip(firsts, members, strict=True) for p in (-1, *[f] * (len(m) - 1))]
        values = iter(_batch_logprobs(model, collate([item for m in members for item in m], prefixes)))
        for index in indices:
            sums[index] = list(itertools.islice(values, len(families[index])))
    model.train(was_training)
    return sums


def _batch_logprobs(model: Any, batch: Batch) -> list[float]:
    documents = Documents.read(batch.cu_seq_lens, batch.prefix_documents, batch.num_tokens)
    at = (batch.labels[0] != IGNORE).nonzero()[:, 0]  # positions of targets; the token before each predicts it
    before = documents.predecessors()[at].to(model.device)
    logits = model(**batch.inputs(model.device), logits_to_keep=before).logits[0].float()
    picked = logits.log_softmax(-1).gather(-1, batch.labels[0, at, None].to(logits.device))[:, 0].cpu().double()
    owner = torch.bucketize(at, documents.bounds[1:-1], right=True)
    return torch.zeros(len(batch.ids), dtype=torch.double).index_add(0, owner, picked).tolist()
