"""Which examples come into which batch, and which batches into which optimizer step. Pure functions of examples and seed.

Examples that begin with the same tokens become a family where that pays (`families_of`), families are shuffled and packed
(`plan_epoch`), and batches are dealt out to steps. Neither the number of processes nor that of workers is asked.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llama_tasks.packing.batches import Family, pack
from llama_tasks.recipe import TrainConfig
from llama_tasks.tokens import Tokens

# `auto` shares prefixes where this part of all tokens is saved at least. On public sets, questions on one passage save 60 to
# 72%; what short texts happen to have in common with others saves up to 12%, for batches of look-alikes.
PAYS = 0.25
# Attention lays a prefix out once a member: a family takes at most so many batches' tokens there.
LAID_OUT = 4


@dataclass(frozen=True)
class Step:
    """One optimizer step over all processes.

    Attributes:
        epoch: passes over the data before it (with its share of the present one, where the length is known).
        batches: the families of each batch.
        position: where the data go on after it, as plain values for a checkpoint; empty: the number of the step says it.
    """

    epoch: float
    batches: list[list[Family]]
    position: dict[str, Any] = field(default_factory=dict)


class Plan(Protocol):
    """The optimizer steps of a run, in order."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""

    @property
    def saved(self) -> float:
        """Part of all tokens that shared prefixes save."""

    def read(self, done: int, position: Mapping[str, Any]) -> Iterator[Step]:
        """The steps after the first `done` ones, which end at `position`."""


class MemoryPlan:
    """The plan of examples that are all at hand.

    Attributes:
        families: what is packed.
        steps: (epoch, batches of indices into `families`) for every optimizer step.
    """

    def __init__(self, tokens: Sequence[Tokens], config: TrainConfig, batches_per_step: int) -> None:
        self.families, self.saved = families_of(tokens, config)
        lengths = [family.num_tokens for family in self.families]
        steps = _run_of_steps(lengths, config, batches_per_step)
        self.steps = list(itertools.islice(steps, config.max_steps) if config.max_steps > 0 else steps)
        self.total_steps = len(self.steps)

    def read(self, done: int, position: Mapping[str, Any]) -> Iterator[Step]:
        """The steps after the first `done` ones; `position` says nothing that the number does not."""
        for epoch, batches in itertools.islice(self.steps, done, None):
            yield Step(epoch, [[self.families[i] for i in batch] for batch in batches])


class _Alone(Sequence[Family]):
    """Every example a family of its own, made when it is asked for."""

    def __init__(self, tokens: Sequence[Tokens]) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> Any:
        return Family((self.tokens[index],))


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Without the search for cycles: a plan of a million examples makes none, and was a third slower by it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_collector_at_rest()
def families_of(tokens: Sequence[Tokens], config: TrainConfig) -> tuple[Sequence[Family], float]:
    """The examples as `train.share_prefixes` wants them, and the part of all tokens that sharing saves."""
    if config.share_prefixes is False:
        return _Alone(tokens), 0.0
    groups = _groups_of(tokens, config.tokens_per_batch)
    saved = 1.0 - sum(group.num_tokens for group in groups) / max(sum(group.total for group in groups), 1)
    if config.share_prefixes == "auto" and saved < PAYS:
        return _Alone(tokens), 0.0
    return [group.family(tokens) for group in groups], saved


@_collector_at_rest()
def find_families(tokens: Sequence[Tokens], tokens_per_batch: int) -> list[Family]:
    """Gather examples that share at least half of their tokens, all of them before the first target; every example is in
    one family, and a family of several fits a batch.

    Half, because less gains little: it would put examples together, batch after batch, for the template they all begin with.
    """
    return [group.family(tokens) for group in _groups_of(tokens, tokens_per_batch)]


class _Group:
    """A family while it is gathered: indices of its examples, and the few numbers that decide who may join."""

    __slots__ = ("longest", "members", "prefix", "room", "total")

    def __init__(self, place: int, length: int, prompt_length: int) -> None:
        self.members = [place]
        self.prefix = 0
        self.total = self.longest = length  # tokens of all members, and of the longest
        self.room = prompt_length  # the shortest prompt: a prefix ends before the first target

    @property
    def num_tokens(self) -> int:
        """Tokens to compute, the prefix once."""
        return self.total - (len(self.members) - 1) * self.prefix

    def join(self, place: int, length: int, prefix: int, tokens_per_batch: int) -> bool:
        """Take one more example that has `prefix` tokens in common with all, unless that would cost more than it saves, or make
        the family too large."""
        total = self.total + length
        num_tokens = total - len(self.members) * prefix
        if 2 * prefix < max(self.longest, length) or total > LAID_OUT * tokens_per_batch:
            return False
        if num_tokens > tokens_per_batch or num_tokens >= self.num_tokens + length:
            return False
        self.members.append(place)
        self.prefix, self.total, self.longest = prefix, total, max(self.longest, length)
        self.room = min(self.room, prefix)
        return True

    def family(self, tokens: Sequence[Tokens]) -> Family:
        """The family with its examples."""
        return Family(tuple(tokens[place] for place in self.members), self.prefix)


def _groups_of(tokens: Sequence[Tokens], tokens_per_batch: int) -> list[_Group]:
    """Sorted by their ids, examples stand beside those that begin alike; each joins the group before it, or begins one. In the
    order of each group's first example."""
    keys = [array("I", item.input_ids).tobytes() for item in tokens]  # bytes sort and compare at once, four a token
    prompts = [item.prompt_length for item in tokens]
    groups: list[_Group] = []
    before = first = b""  # keys of the neighbour in sorted order, and of the group's first example
    for place in sorted(range(len(keys)), key=keys.__getitem__):
        key, room = keys[place], prompts[place]
        length = len(key) // 4
        if groups and _begin_alike(before, key, shorter := min(room, groups[-1].room)):
            joined = groups[-1].join(place, length, _common(first, key, shorter), tokens_per_batch)
        else:
            joined = False
        if not joined:
            groups.append(_Group(place, length, room))
            first = key
        before = key
    return sorted(groups, key=lambda group: min(group.members))


def _begin_alike(one: bytes, other: bytes, room: int) -> bool:
    """Whether half of the longer of two neighbours may be their common prefix, which ends within `room` tokens; most are told
    apart here, at little cost."""
    longer = max(len(one), len(other))
    return longer <= 8 * room and one[: longer // 2] == other[: longer // 2]


def _common(one: bytes, other: bytes, room: int) -> int:
    """How many of the first `room` tokens of two keys are the same: read as numbers, their lowest bit that differs tells it."""
    one, other = one[: 4 * room], other[: 4 * room]
    if one == other:
        return room
    apart = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return ((apart & -apart).bit_length() - 1) // 32


@_collector_at_rest()
def plan_epoch(lengths: Sequence[int], tokens_per_batch: int, seed: int, epoch: int | str) -> list[list[int]]:
    """The batches of one epoch, in order: examples shuffled and packed, then the batches shuffled."""
    shuffle = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    batches = [[order[i] for i in batch] for batch in pack([lengths[i] for i in order], tokens_per_batch)]
    shuffle.shuffle(batches)
    return batches


def steps_of(batches: list[list[int]], batches_per_step: int) -> list[list[list[int]]]:
    """Batches dealt out to optimizer steps; the last step may hold fewer."""
    return [batches[i : i + batches_per_step] for i in range(0, len(batches), batches_per_step)]


def _run_of_steps(
    lengths: Sequence[int], config: TrainConfig, batches_per_step: int
) -> Iterator[tuple[float, list[list[int]]]]:
    """(epoch, batches of indices) for every optimizer step of `max_steps` or `num_train_epochs`."""
    left = config.num_train_epochs
    for epoch in itertools.count():
        batches = plan_epoch(lengths, config.tokens_per_batch, config.seed, epoch)
        steps = steps_of(batches, batches_per_step)
        count = len(steps) if config.max_steps > 0 else round(len(steps) * min(left, 1.0))
        yield from ((epoch + i / len(steps), step) for i, step in enumerate(steps[:count]))
        left -= 1.0
        if left <= 0 and config.max_steps <= 0:
            return
