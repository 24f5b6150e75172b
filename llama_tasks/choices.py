"""Which of several answers is likeliest: all choices of a prompt in one forward pass, however many there are.

The choices of a prompt are one tree of tokens (a trie), so what several labels begin with is computed once, and so is the
prompt. A row of a batch is the prompt, padded on the left, and its tree, padded on the right; a token of the tree sees the
prompt and the tokens between the prompt and itself:

    prompt  p0 p1 p2      tree   book hotel | flight | cancel       book -> hotel, book -> flight
    sees                    book: p0 p1 p2    hotel: p0 p1 p2 book     cancel: p0 p1 p2

What all prompts begin with (a template, solved examples) is computed once and kept as a cache.

Shapes: B rows, C cached tokens, P longest prompt, N tokens of the largest tree, V vocabulary.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llama_tasks.model.attention_packed import SHARES_PREFIXES
from llama_tasks.prompts import Prompt
from llama_tasks.tokens import Encoder

LOGITS = 2**26  # numbers held at a time: 256 MiB
WORTH_CACHING = 16  # tokens; below, copying keys and values costs what it saves


@dataclass(frozen=True)
class Trie:
    """The choices of a prompt as a tree of tokens, parents before children.

    Attributes:
        tokens: [n] ids; the last token of a choice (its EOS) is predicted, never read, and has no place here.
        parents: [n] index of the token before each, -1 for the end of the prompt.
        paths: for each choice, the (index of the token before, id predicted there) of its tokens.
    """

    tokens: list[int]
    parents: list[int]
    paths: list[list[tuple[int, int]]]

    @classmethod
    def of(cls, choices: Sequence[Sequence[int]]) -> Trie:
        """The tree of the choices' ids.

        >>> Trie.of([[5, 6, 2], [5, 7, 2]])
        Trie(tokens=[5, 6, 7], parents=[-1, 0, 0], paths=[[(-1, 5), (0, 6), (1, 2)], [(-1, 5), (0, 7), (2, 2)]])
        """
        tokens: list[int] = []
        parents: list[int] = []
        places: dict[tuple[int, int], int] = {}
        paths = []
        for ids in choices:
            path, at = [], -1
            for token in ids:
                path.append((at, token))
                if len(path) < len(ids):
                    if (at, token) not in places:
                        places[at, token] = len(tokens)
                        tokens.append(token)
                        parents.append(at)
                    at = places[at, token]
            paths.append(path)
        return cls(tokens, parents, paths)

    @cached_property
    def sees(self) -> Tensor:
        """Which tokens of the tree each one sees: itself and those before it, bool [n, n]."""
        seen_NN = torch.eye(len(self.tokens), dtype=torch.bool)
        for i, parent in enumerate(self.parents):
            if parent >= 0:
                seen_NN[i] |= seen_NN[parent]
        return seen_NN

    def sums(self, logits_NV: Tensor, norms_N: Tensor) -> list[float]:
        """Log-probability of each choice. Place 0 is the end of the prompt, place i + 1 token i of the tree; `norms` are the
        log-sum-exps of the logits."""
        places, targets, owners = (index.to(logits_NV.device) for index in self._steps)
        picked = (logits_NV[places, targets] - norms_N[places]).double()
        sums: list[float] = picked.new_zeros(len(self.paths)).index_add(0, owners, picked).tolist()
        return sums

    @cached_property
    def _steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """All steps of all paths: place, id predicted there, which choice it belongs to."""
        steps = [(before + 1, target, i) for i, path in enumerate(self.paths) for before, target in path]
        places, targets, owners = torch.tensor(steps).unbind(1)
        return places, targets, owners


def score_choices(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    ids: Sequence[list[int]],
    choices: Sequence[Sequence[str]],
    tokens_per_batch: int,
) -> list[dict[str, float]]:
    """log P(choice, EOS | prompt) in nats, for every prompt (with its ids) and each of its choices.

    EOS is part of a choice, so a label that begins another one (`sport`, `sports`) is scored fairly.
    """
    together = model.config._attn_implementation in SHARES_PREFIXES  # these take a mask of any shape
    tries: dict[tuple[Any, ...], Trie] = {}
    jobs: list[_Job] = []
    for row, (prompt, head, options) in enumerate(zip(prompts, ids, choices, strict=True)):
        groups = [tuple(options)] if together else [(option,) for option in options]
        for group in groups:
            key = (group, prompt.follow(""))
            if key not in tries:
                tries[key] = Trie.of(encoder.choice_ids(prompt, group))
            jobs.append(_Job(row, group, head, tries[key]))
    scores: list[dict[str, float]] = [{} for _ in prompts]
    was_training = model.training
    model.eval()
    for job, values in _score(model, jobs, tokens_per_batch):
        scores[job.row].update(zip(job.choices, values, strict=True))
    model.train(was_training)
    return [{option: found[option] for option in options} for found, options in zip(scores, choices, strict=True)]


@dataclass(frozen=True)
class _Job:
    row: int
    choices: tuple[str, ...]
    ids: list[int]
    trie: Trie


@torch.inference_mode()
def _score(model: Any, jobs: Sequence[_Job], tokens_per_batch: int) -> Iterator[tuple[_Job, list[float]]]:
    """Every job with the log-probabilities of its choices; jobs of like length share a batch."""
    for family in _families(jobs):
        shared = _common_prefix([job.ids for job in family])
        shared = shared if shared >= WORTH_CACHING and len(family) > 1 else 0
        cache = None
        if shared:
            prefix = torch.tensor([family[0].ids[:shared]], device=model.device)
            cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
        for batch in _batches(family, shared, tokens_per_batch, model.config.vocab_size):
            yield from zip(batch, _forward(model, batch, shared, cache), strict=True)


def _families(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Jobs whose prompts begin with the same tokens (one language's template), by falling length."""
    groups: dict[tuple[int, ...], list[_Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.ids[:WORTH_CACHING]), []).append(job)
    alone = [job for group in groups.values() if len(group) == 1 for job in group]
    for group in [*(group for group in groups.values() if len(group) > 1), *([alone] if alone else [])]:
        yield sorted(group, key=lambda job: (-len(job.ids) - len(job.trie.tokens), job.row))


def _common_prefix(texts: Sequence[list[int]]) -> int:
    """Tokens that all texts begin with, leaving each at least one of its own."""
    first, last = min(texts), max(texts)
    pairs = zip(first, last, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return min(same, min(map(len, texts)) - 1)


def _batches(jobs: Sequence[_Job], shared: int, tokens_per_batch: int, vocabulary: int) -> Iterator[list[_Job]]:
    """Jobs in their order, as many together as the budgets of tokens (padding counted) and of logits hold."""
    batch: list[_Job] = []
    for job in jobs:
        grown = [*batch, job]
        width = max(len(j.ids) for j in grown) + max(len(j.trie.tokens) for j in grown)
        logits = len(grown) * (1 + max(len(j.trie.tokens) for j in grown)) * vocabulary
        if batch and (len(grown) * width > tokens_per_batch or logits > LOGITS):
            yield batch
            grown = [job]
        batch = grown
    if batch:
        yield batch


def _forward(model: Any, jobs: Sequence[_Job], shared: int, cache: Any) -> list[list[float]]:
    """Log-probabilities of each job's choices."""
    heads, tries = [job.ids[shared:] for job in jobs], [job.trie for job in jobs]
    width, size = max(map(len, heads)), max(len(trie.tokens) for trie in tries)
    pads = [width - len(head) for head in heads]
    input_ids = torch.tensor(
        [
            [0] * pad + head + trie.tokens + [0] * (size - len(trie.tokens))
            for pad, head, trie in zip(pads, heads, tries, strict=True)
        ]
    )
    seen = torch.stack([_sees(pad, width, size, trie) for pad, trie in zip(pads, tries, strict=True)])
    positions = shared + seen.sum(-1) - 1  # as many tokens stand before one as it sees
    seen = torch.cat((torch.ones(len(jobs), width + size, shared, dtype=torch.bool), seen), dim=-1)
    mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill(~seen, torch.finfo(model.dtype).min)[:, None]
    if cache is not None:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(jobs))
    logits = model(
        input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device), position_ids=positions.to(model.device),
        past_key_values=cache, use_cache=cache is not None, logits_to_keep=size + 1,
    ).logits.float()  # fmt: skip
    norms = logits.logsumexp(-1)
    return [trie.sums(row, norm) for trie, row, norm in zip(tries, logits, norms, strict=True)]


def _sees(pad: int, width: int, size: int, trie: Trie) -> Tensor:
    """Who sees whom in one row, bool [P + N, P + N]; padding sees itself, so that nothing divides by zero."""
    seen = torch.eye(width + size, dtype=torch.bool)
    seen[pad:width, pad:width] = torch.ones(width - pad, width - pad, dtype=torch.bool).tril()
    end = width + len(trie.tokens)
    seen[width:end, pad:width] = True
    seen[width:end, width:end] = trie.sees
    return seen
