"""Likelihood instead of generation: of plain text, of an end. (Of choices: `choices`.)"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from llama_tasks.adapters import native_of
from llama_tasks.model.attention_packed import Documents
from llama_tasks.packing import Batch, Family, collate, pack
from llama_tasks.prompts import Prompt
from llama_tasks.tokens import IGNORE, Encoder, Tokens

LOGITS = 2**26  # numbers held at a time: 256 MiB


def score_text(model: Any, tokens: Sequence[Tokens], n_bytes: int, tokens_per_batch: int) -> dict[str, float]:
    """Loss (nats per token), perplexity and bits per byte of plain text.

    Bits per byte divide by the text's UTF-8 bytes, so they compare across tokenizers.
    """
    families = [Family((item,)) for item in tokens]
    total = -sum(value for (value,) in logprobs(model, families, _few(model, families, tokens_per_batch)))
    loss = total / max(_targets(tokens), 1)
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": total / math.log(2) / max(n_bytes, 1),
    }


def text_losses(model: Any, encoder: Encoder, prompts: Sequence[Prompt], tokens_per_batch: int) -> list[dict[str, Any]]:
    """{id, lang, nll, tokens, bytes} of each plain text: what `metrics.LanguageModel` reads (nll in nats)."""
    blocks = [encoder.blocks([prompt]).tokens for prompt in prompts]
    families = [Family((item,)) for items in blocks for item in items]
    values = iter(logprobs(model, families, _few(model, families, tokens_per_batch)))
    return [
        {
            "id": prompt.example.id,
            "lang": prompt.example.lang,
            "nll": -sum(sum(next(values)) for _ in items),
            "tokens": _targets(items),
            "bytes": len(prompt.response.encode()),
        }
        for prompt, items in zip(prompts, blocks, strict=True)
    ]


def _few(model: Any, families: Sequence[Family], tokens_per_batch: int) -> int:
    """Tokens of a batch of plain text, where nearly each is a target and so has its logits."""
    longest = max((family.num_laid_out for family in families), default=1)
    return max(longest, min(tokens_per_batch, LOGITS // int(model.config.vocab_size)))


def _targets(tokens: Sequence[Tokens]) -> int:
    return sum(len(item.input_ids) - max(item.prompt_length, 1) for item in tokens)


@torch.inference_mode()
def rank_of_end(model: Any, tokens: Sequence[Tokens]) -> float:
    """Share of the vocabulary that the model holds likelier than EOS where the examples end; the median over them.

    Near 0 for a model that has learned to end a text. Above one half for one that never met EOS: training has pushed
    that token down together with all the unused ones.
    """
    ranks = []
    was_training = model.training
    model.eval()
    for item in tokens:
        ids = torch.tensor([item.input_ids], device=model.device)
        logits = model(input_ids=ids, logits_to_keep=2, use_cache=False).logits[0, 0]
        ranks.append(float((logits > logits[item.input_ids[-1]]).float().mean()))
    model.train(was_training)
    return statistics.median(ranks)


@torch.inference_mode()
def logprobs(model: Any, families: Sequence[Family], tokens_per_batch: int) -> list[list[float]]:
    """Sum of the log-probabilities of every example's targets, family by family; of the native model in packed rows, of other
    models in padded ones."""
    if native_of(model) is None:
        return _padded_logprobs(model, families, tokens_per_batch)
    sums: list[list[float]] = [[] for _ in families]
    was_training = model.training
    model.eval()
    for indices in pack([family.num_laid_out for family in families], tokens_per_batch):
        values = iter(_batch_logprobs(model, collate([families[i] for i in indices])))
        for index in indices:
            sums[index] = list(itertools.islice(values, len(families[index].members)))
    model.train(was_training)
    return sums


def _batch_logprobs(model: Any, batch: Batch) -> list[float]:
    documents = Documents.read(batch.cu_seq_lens, batch.prefix_documents, batch.num_tokens)
    at = (batch.labels[0] != IGNORE).nonzero()[:, 0]  # positions of targets; the token before each predicts it
    before = documents.predecessors()[at].to(model.device)
    logits = model(**batch.inputs(model.device), logits_to_keep=before).logits[0].float()
    picked = logits.log_softmax(-1).gather(-1, batch.labels[0, at, None].to(logits.device))[:, 0].cpu().double()
    owner = torch.bucketize(at, documents.bounds[1:-1], right=True)
    sums = torch.zeros(len(documents.prefixes), dtype=torch.double).index_add(0, owner, picked)
    return sums[batch.own_documents].tolist()


def _padded_logprobs(model: Any, families: Sequence[Family], tokens_per_batch: int) -> list[list[float]]:
    """The same by transformers' plain way: one example a row, examples of like length together, padded on the right."""
    items = [item for family in families for item in family.members]
    sums = [0.0] * len(items)
    was_training = model.training
    model.eval()
    for batch in _alike([len(item.input_ids) for item in items], tokens_per_batch, model.config.vocab_size):
        for index, value in zip(batch, _padded_batch(model, [items[i] for i in batch]), strict=True):
            sums[index] = value
    model.train(was_training)
    values = iter(sums)
    return [list(itertools.islice(values, len(family.members))) for family in families]


def _alike(lengths: Sequence[int], tokens_per_batch: int, vocabulary: int) -> Iterator[list[int]]:
    """Indices by falling length, as many together as the budgets of tokens and of logits hold."""
    budget = min(tokens_per_batch, LOGITS // vocabulary)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        count = max(1, budget // lengths[order[0]])
        yield order[:count]
        order = order[count:]


def _padded_batch(model: Any, items: Sequence[Tokens]) -> list[float]:
    width = max(len(item.input_ids) for item in items)
    fill = [width - len(item.input_ids) for item in items]
    ids = torch.tensor([item.input_ids + [0] * n for item, n in zip(items, fill, strict=True)])
    labels = torch.tensor([item.labels + [IGNORE] * n for item, n in zip(items, fill, strict=True)])[:, 1:]
    mask = torch.tensor([[1] * (width - n) + [0] * n for n in fill])
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, -width:-1]
    picked = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None].to(logits.device))[..., 0].cpu()
    return [float(row[kept].double().sum()) for row, kept in zip(picked, labels != IGNORE, strict=True)]
