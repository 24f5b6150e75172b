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

from llama_tasks.packing import Family, pack
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


def families_of(tokens: Sequence[Tokens], config: TrainConfig) -> tuple[Sequence[Family], float]:
    """The examples as `train.share_prefixes` wants them, and the part of all tokens that sharing saves."""
    alone = _Alone(tokens)
    if config.share_prefixes is False:
        return alone, 0.0
    families = find_families(tokens, config.tokens_per_batch)
    saved = 1.0 - sum(f.num_tokens for f in families) / max(sum(len(item.input_ids) for item in tokens), 1)
    if config.share_prefixes == "auto" and saved < PAYS:
        return alone, 0.0
    return families, saved


def find_families(tokens: Sequence[Tokens], tokens_per_batch: int) -> list[Family]:
    """Gather examples that share at least half of their tokens, all of them before the first target; every example is in
    one family, and a family of several fits a batch.

    Half, because less gains little: it would put examples together, batch after batch, for the template they all begin with.
    """
    keys = [array("I", item.input_ids).tobytes() for item in tokens]  # bytes sort and compare at once, four a token
    families: list[Family] = []
    places: list[int] = []  # of each family's first example
    before = -1  # the neighbour in sorted order
    for place in sorted(range(len(tokens)), key=keys.__getitem__):
        joined = None
        if families and _begin_alike(keys[before], keys[place], tokens[before], tokens[place]):
            joined = _join(families[-1], tokens[place], tokens_per_batch)
        if joined is not None:
            families[-1], places[-1] = joined, min(places[-1], place)
        else:
            families.append(Family((tokens[place],)))
            places.append(place)
        before = place
    return [families[i] for i in sorted(range(len(families)), key=places.__getitem__)]


def _begin_alike(one: bytes, other: bytes, first: Tokens, second: Tokens) -> bool:
    """Whether half of the longer of two neighbours may be their common prefix; most are told apart here, at little cost."""
    longer = max(len(one), len(other))
    room = 4 * min(first.prompt_length, second.prompt_length)
    return longer <= 2 * room and one[: longer // 2] == other[: longer // 2]


def _join(family: Family, item: Tokens, tokens_per_batch: int) -> Family | None:
    """The family with one more example, or None where that would cost more than it saves, or be too large."""
    pairs = zip(family.members[0].input_ids, item.input_ids, strict=False)
    prefix = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    prefix = min(prefix, item.prompt_length, *(member.prompt_length for member in family.members))
    joined = Family((*family.members, item), min(prefix, family.prefix or prefix))
    if any(2 * joined.prefix < len(member.input_ids) for member in joined.members):
        return None
    if joined.num_tokens > tokens_per_batch or joined.num_laid_out > LAID_OUT * tokens_per_batch:
        return None
    return joined if joined.num_tokens < family.num_tokens + len(item.input_ids) else None


def plan_epoch(lengths: Sequence[int], tokens_per_batch: int, seed: int, epoch: int | str) -> list[list[int]]:
    """The batches of one epoch, in order: examples shuffled and packed, then the batches shuffled."""
    shuffle = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    with _collector_at_rest():
        batches = [[order[i] for i in batch] for batch in pack([lengths[i] for i in order], tokens_per_batch)]
    shuffle.shuffle(batches)
    return batches


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Without the search for cycles: a plan of a million lengths makes none, and was a third slower by it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
