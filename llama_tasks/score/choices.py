"""Which of several answers is likeliest: all choices of a prompt in one forward pass, however many there are.

The choices of a prompt are one tree of tokens, so what several labels begin with is computed once, and so is the prompt.
In a packed row (`packing`) the tree is a set of documents that continue each other; so is what several prompts begin with
(a template, solved examples):

    labels       book hotel, book flight, cancel          solved examples S, prompts p and q
    documents    S   p   book   hotel   flight   cancel   q   book   hotel   flight   cancel
    continues    -   S   p      book    book     p        S   q      book    book     q

The last token of a choice, its EOS, is predicted and never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llama_tasks.adapters import native_of
from llama_tasks.model.attention_packed import SHARES_PREFIXES
from llama_tasks.packing import Family
from llama_tasks.prompts import Prompt
from llama_tasks.score.likelihood import LOGITS, logprobs
from llama_tasks.tokens import Encoder, Tokens

# Attention copies what goes before a document once for each; so many tokens may be laid out for one that is computed.
COPIES = 16
WORTH_SHARING = 16  # tokens that prompts begin with


@dataclass(frozen=True)
class Trie:
    """The choices of a prompt as a tree: runs of tokens without a branch, each after the run that it continues.

    Attributes:
        runs: ids of each run.
        parents: for each run the one that it continues, -1 for the prompt.
        paths: for each choice, (place of the token before, id predicted there) of its tokens; places count through the
            runs, -1 is the end of the prompt.
    """

    runs: list[list[int]]
    parents: list[int]
    paths: list[list[tuple[int, int]]]

    @classmethod
    def of(cls, choices: Sequence[Sequence[int]]) -> Trie:
        """The tree of the choices' ids.

        >>> Trie.of([[5, 6, 2], [5, 7, 8, 2]])
        Trie(runs=[[5], [6], [7, 8]], parents=[-1, 0, 0], paths=[[(-1, 5), (0, 6), (1, 2)], [(-1, 5), (0, 7), (2, 8), (3, 2)]])
        """
        nodes: dict[tuple[int, int], int] = {}  # (node before, id) -> node
        walks = []
        for ids in choices:
            walk = [-1]
            for token in ids[:-1]:
                walk.append(nodes.setdefault((walk[-1], token), len(nodes)))
            walks.append(walk)
        runs, parents = _runs(list(nodes))
        places = {node: place for place, node in enumerate(itertools.chain.from_iterable(runs))} | {-1: -1}
        ids_of = [token for _, token in nodes]
        paths = [
            [(places[node], token) for node, token in zip(walk, ids, strict=True)]
            for walk, ids in zip(walks, choices, strict=True)
        ]
        return cls([[ids_of[node] for node in run] for run in runs], parents, paths)

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return sum(map(len, self.runs))

    def laid_out(self, before: int) -> int:
        """Tokens as attention lays them out behind a prompt of `before` tokens."""
        depths: list[int] = []  # tokens up to the end of each run
        for run, parent in zip(self.runs, self.parents, strict=True):
            depths.append((depths[parent] if parent >= 0 else before) + len(run))
        return before + sum(depths)

    def sums(self, logprobs_NV: Tensor) -> list[float]:
        """Log-probability of each choice, from those of all tokens after the prompt (place -1) and after each place."""
        places, targets, owners = (index.to(logprobs_NV.device) for index in self._steps)
        picked = logprobs_NV[places + 1, targets].double()
        sums: list[float] = picked.new_zeros(len(self.paths)).index_add(0, owners, picked).tolist()
        return sums

    @cached_property
    def _steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """All steps of all paths: place, id predicted there, which choice it belongs to."""
        steps = [(place, target, i) for i, path in enumerate(self.paths) for place, target in path]
        places, targets, owners = torch.tensor(steps).unbind(1)
        return places, targets, owners


def _runs(nodes: Sequence[tuple[int, int]]) -> tuple[list[list[int]], list[int]]:
    """Nodes (each with the node before it) in runs that end where the tree branches, and the run that each run continues."""
    followers = [0] * len(nodes)
    for before, _ in nodes:
        if before >= 0:
            followers[before] += 1
    runs: list[list[int]] = []
    parents: list[int] = []
    run_of: list[int] = []
    for node, (before, _) in enumerate(nodes):
        if before >= 0 and followers[before] == 1:
            run_of.append(run_of[before])
            runs[run_of[node]].append(node)
        else:
            parents.append(run_of[before] if before >= 0 else -1)
            run_of.append(len(runs))
            runs.append([node])
    return runs, parents


@dataclass(frozen=True)
class _Job:
    """A prompt's ids with its choices."""

    row: int
    ids: list[int]
    trie: Trie


def score_choices(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    ids: Sequence[list[int]],
    choices: Sequence[Sequence[str]],
    tokens_per_batch: int,
) -> list[dict[str, float]]:
    """log P(choice, EOS | prompt) in nats, for every prompt (with its ids) and each of its choices; see `stream_choices`."""
    scores = dict(stream_choices(model, encoder, prompts, ids, choices, tokens_per_batch))
    return [scores[row] for row in range(len(prompts))]


def stream_choices(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    ids: Sequence[list[int]],
    choices: Sequence[Sequence[str]],
    tokens_per_batch: int,
) -> Iterator[tuple[int, dict[str, float]]]:
    """(index, {choice: log P(choice, EOS | prompt) in nats}) of every prompt, batch by batch.

    EOS is part of a choice, so a label that begins another one (`sport`, `sports`) is scored fairly.
    """
    if native_of(model) is None or model.config._attn_implementation not in SHARES_PREFIXES:
        yield from enumerate(_one_by_one(model, encoder, prompts, ids, choices, tokens_per_batch))
        return
    tries: dict[tuple[Any, ...], Trie] = {}
    jobs = []
    for row, (prompt, head, options) in enumerate(zip(prompts, ids, choices, strict=True)):
        key = (tuple(options), prompt.follow(""))
        if key not in tries:
            tries[key] = Trie.of(encoder.choice_ids(prompt, options))
        jobs.append(_Job(row, head, tries[key]))
    was_training = model.training
    model.eval()
    try:
        for job, values in _score(model, jobs, tokens_per_batch):
            yield job.row, dict(zip(choices[job.row], values, strict=True))
    finally:
        model.train(was_training)


def _one_by_one(
    model: Any, encoder: Encoder, prompts: Sequence[Prompt], ids: Sequence[list[int]], choices: Sequence[Sequence[str]],
    tokens_per_batch: int,
) -> list[dict[str, float]]:  # fmt: skip
    """The same for other models, and where attention knows no documents that continue others: every choice with its prompt."""
    families = [
        Family(tuple(Tokens("", head + tail, len(head)) for tail in encoder.choice_ids(prompt, options)))
        for prompt, head, options in zip(prompts, ids, choices, strict=True)
    ]
    values = logprobs(model, families, tokens_per_batch)
    return [dict(zip(options, found, strict=True)) for options, found in zip(choices, values, strict=True)]


@torch.inference_mode()
def _score(model: Any, jobs: Sequence[_Job], tokens_per_batch: int) -> Iterator[tuple[_Job, list[float]]]:
    """Every job with the log-probabilities of its choices."""
    for family in _families(jobs):
        shared = _common_prefix([job.ids for job in family]) if len(family) > 1 else 0
        shared = shared if shared >= WORTH_SHARING else 0
        for batch in _batches(family, shared, tokens_per_batch, model.config.vocab_size):
            yield from zip(batch, _forward(model, batch, shared), strict=True)


def _families(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Jobs whose prompts begin with the same tokens (one language's template) in their order; then all that stand alone."""
    groups: dict[tuple[int, ...], list[_Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.ids[:WORTH_SHARING]), []).append(job)
    yield from (group for group in groups.values() if len(group) > 1)
    alone = [group[0] for group in groups.values() if len(group) == 1]
    if alone:
        yield alone


def _common_prefix(texts: Sequence[list[int]]) -> int:
    """Tokens that all texts begin with, leaving each at least one of its own."""
    first, last = min(texts), max(texts)
    pairs = zip(first, last, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return min(same, min(map(len, texts)) - 1)


def _batches(jobs: Sequence[_Job], shared: int, tokens_per_batch: int, vocabulary: int) -> Iterator[list[_Job]]:
    """Jobs in their order, as many together as the budgets hold: of tokens computed, laid out, and of logits."""
    batch: list[_Job] = []
    computed = laid_out = places = 0
    for job in jobs:
        size = (len(job.ids) - shared + job.trie.num_tokens, job.trie.laid_out(len(job.ids)), job.trie.num_tokens + 1)
        full = (
            shared + computed + size[0] > tokens_per_batch
            or laid_out + size[1] > COPIES * tokens_per_batch
            or (places + size[2]) * vocabulary > LOGITS
        )
        if batch and full:
            yield batch
            batch, computed, laid_out, places = [], 0, 0, 0
        batch.append(job)
        computed, laid_out, places = computed + size[0], laid_out + size[1], places + size[2]
    if batch:
        yield batch


def _forward(model: Any, jobs: Sequence[_Job], shared: int) -> list[list[float]]:
    """Log-probabilities of each job's choices, from one packed row."""
    documents = [jobs[0].ids[:shared]] if shared else []
    continues = [-1] * len(documents)
    kept: list[int] = []  # positions whose next token is asked for
    total, counts = shared, []
    for job in jobs:
        root = len(documents)
        documents += [job.ids[shared:], *job.trie.runs]
        continues += [0 if shared else -1, *(root + 1 + parent if parent >= 0 else root for parent in job.trie.parents)]
        start = total + len(job.ids) - shared - 1
        counts.append(1 + job.trie.num_tokens)
        kept += range(start, start + counts[-1])
        total = start + counts[-1]
    bounds = torch.tensor([0, *itertools.accumulate(map(len, documents))], dtype=torch.int32, device=model.device)
    longest = max(map(len, documents))
    logits = model(
        input_ids=torch.tensor([list(itertools.chain.from_iterable(documents))], device=model.device), use_cache=False,
        cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, max_length_q=longest, max_length_k=longest,
        prefix_documents=torch.tensor(continues), logits_to_keep=torch.tensor(kept, device=model.device),
    ).logits[0]  # fmt: skip
    parts = logits.float().log_softmax(-1).split(counts)
    return [job.trie.sums(part) for job, part in zip(jobs, parts, strict=True)]
