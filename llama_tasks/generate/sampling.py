"""The next token of many rows at once: penalties and limits, then the likeliest one or one drawn by its probability.

A row draws from random numbers of its own, made of the seed and the row's name, so its text depends neither on the rows
beside it nor on the order in which they come. The steps are those of transformers' `generate`, in its order.

Shapes: N rows, V tokens of the vocabulary.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llama_tasks.recipe import Suite
from llama_tasks.recipe.decoding_fields import is_greedy


@dataclass
class _Row:
    """What is known of a row: how many tokens it has written, its random numbers, which tokens followed which."""

    numbers: random.Random
    written: int = 0
    last: list[int] = field(default_factory=list)  # the last n - 1 tokens, for n-grams
    followers: dict[tuple[int, ...], list[int]] = field(default_factory=lambda: defaultdict(list))


class Chooser:
    """Chooses the next token of every row, as a suite says; rows enter and leave as those of a `Decoder` do."""

    def __init__(self, suite: Suite, ends: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.suite, self.device = suite, device
        self.greedy = is_greedy(suite)
        self.ends = torch.tensor(sorted(ends), device=device)
        self.rows: list[_Row] = []
        self.seen_NV: Tensor | None = None  # tokens of prompt and output, where repetitions cost
        self.prompts: list[list[int]] = []  # of rows that entered since the last choice
        self.warpers = _warpers(suite)

    def enter(self, names: Sequence[str], prompts: Sequence[Sequence[int]]) -> None:
        """Rows that come behind those there are; a name is the row's own, in whatever batch."""
        if self.greedy:
            return
        for name, prompt in zip(names, prompts, strict=True):
            row = _Row(random.Random(f"{self.suite.seed}/{name}"))
            self.rows.append(row)
            for token in prompt if self.suite.no_repeat_ngram_size else ():
                self._note(row, token)
        if self.suite.repetition_penalty != 1:
            self.prompts += [list(prompt) for prompt in prompts]

    def leave(self, slot: int) -> None:
        """A row has ended; the last one takes its place."""
        if self.greedy:
            return
        self.rows[slot] = self.rows[-1]
        self.rows.pop()
        if self.seen_NV is not None:
            self.seen_NV[slot] = self.seen_NV[-1]
            self.seen_NV = self.seen_NV[:-1]

    def __call__(self, logits_NV: Tensor, first: int = 0) -> Tensor:
        """The next token of each row from the `first` on, int64 [N]."""
        if self.greedy:
            return logits_NV.argmax(-1)
        rows = self.rows[first:]
        scores = self._limit(logits_NV.float(), rows, first)
        chosen = self._draw(scores, rows) if self.suite.do_sample else scores.argmax(-1)
        if self.seen_NV is not None:
            self.seen_NV[first:].scatter_(1, chosen[:, None], True)
        for row in rows:
            row.written += 1
        if self.suite.no_repeat_ngram_size:
            for row, token in zip(rows, chosen.tolist(), strict=True):
                self._note(row, token)
        return chosen

    def _limit(self, scores_NV: Tensor, rows: Sequence[_Row], first: int) -> Tensor:
        """Repetitions made unlikely or impossible, ends impossible where they would come too early."""
        penalty = self.suite.repetition_penalty
        if penalty != 1:
            seen_NV = self._see(scores_NV.shape[1])[first:]
            punished = torch.where(scores_NV < 0, scores_NV * penalty, scores_NV / penalty)
            scores_NV = torch.where(seen_NV, punished, scores_NV)
        scores_NV = scores_NV.clone()
        if self.suite.no_repeat_ngram_size:
            for i, row in enumerate(rows):
                scores_NV[i, row.followers.get(tuple(row.last), [])] = -torch.inf
        early = [i for i, row in enumerate(rows) if row.written < self.suite.min_new_tokens]
        if early:
            scores_NV[torch.tensor(early, device=scores_NV.device)[:, None], self.ends] = -torch.inf
        return scores_NV

    def _see(self, vocabulary: int) -> Tensor:
        """Which tokens each row has met, those of prompts that entered since counted in."""
        new = torch.zeros(len(self.prompts), vocabulary, dtype=torch.bool, device=self.device)
        for i, prompt in enumerate(self.prompts):
            new[i, prompt] = True
        if self.prompts:
            self.seen_NV = new if self.seen_NV is None else torch.cat((self.seen_NV, new))
            self.prompts = []
        assert self.seen_NV is not None
        return self.seen_NV

    def _draw(self, scores_NV: Tensor, rows: Sequence[_Row]) -> Tensor:
        for warper in self.warpers:
            scores_NV = warper(None, scores_NV)
        numbers = torch.tensor([row.numbers.random() for row in rows], dtype=torch.double, device=scores_NV.device)
        return draw(scores_NV, numbers)

    def _note(self, row: _Row, token: int) -> None:
        """Remember which token followed the n - 1 before it."""
        before = self.suite.no_repeat_ngram_size - 1
        if len(row.last) == before:
            row.followers[tuple(row.last)].append(token)
        row.last = [*row.last, token][-before:] if before else []


def draw(scores_NV: Tensor, numbers_N: Tensor) -> Tensor:
    """For each row the token in whose share of [0, 1) its number falls, when tokens lie side by side by their id."""
    shares = scores_NV.double().softmax(-1)
    ends = shares.cumsum(-1)
    found = torch.searchsorted(ends, (numbers_N * ends[:, -1])[:, None], right=True)[:, 0]
    # A number at the very end must not fall behind the last token that can be drawn.
    last = shares.shape[1] - 1 - (shares > 0).flip(-1).int().argmax(-1)
    return torch.minimum(found, last)


def _warpers(suite: Suite) -> list[TemperatureLogitsWarper | TopKLogitsWarper | TopPLogitsWarper]:
    """transformers' own, in the order of its `generate`."""
    found: list[TemperatureLogitsWarper | TopKLogitsWarper | TopPLogitsWarper] = []
    if suite.temperature != 1:
        found.append(TemperatureLogitsWarper(suite.temperature))
    if suite.top_k:
        found.append(TopKLogitsWarper(suite.top_k))
    if suite.top_p < 1:
        found.append(TopPLogitsWarper(suite.top_p))
    return found
