"""Tokens -> Batch: documents lie end to end in one row, with no padding token anywhere.

    documents     [a0 a1 a2 a3]  [b0 b1]  [c0 c1 c2]
    input_ids      a0 a1 a2 a3    b0 b1    c0 c1 c2        [1, T]
    position_ids    0  1  2  3     0  1     0  1  2        restart at each document
    cu_seq_lens   0             4        6          9      where documents begin and end

Attention stays inside a document (the model reads `cu_seq_lens`), so a packed batch is the same mathematics as one
document at a time. Which batches exist depends on the seed and the examples alone, not on how many processes train.

**Families.** Examples that begin with the same tokens (five questions on a passage, the choices of one classification)
lie side by side: their common prefix is a document of its own, computed once, which theirs continue:

    examples      [p0 p1 p2 a3 a4]  [p0 p1 p2 b3]
    input_ids      p0 p1 p2   a3 a4   b3
    position_ids    0  1  2    3  4    3
    prefix_documents    -1        0    0
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from llama_tasks.tokens import IGNORE, Tokens


@dataclass(frozen=True)
class Family:
    """Examples whose first `prefix` tokens are the same; no target stands among those."""

    members: tuple[Tokens, ...]
    prefix: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens to compute, the prefix once."""
        return self.prefix + sum(len(item.input_ids) - self.prefix for item in self.members)

    @property
    def num_laid_out(self) -> int:
        """Tokens as attention lays them out, the prefix once a member."""
        return sum(len(item.input_ids) for item in self.members)

    def documents(self) -> list[Tokens]:
        """The prefix, if there is one, then what each example goes on with."""
        first, p = self.members[0], self.prefix
        if not p:
            return list(self.members)
        rest = (replace(m, input_ids=m.input_ids[p:], prompt_length=m.prompt_length - p) for m in self.members)
        return [replace(first, input_ids=first.input_ids[:p], prompt_length=p), *rest]


@dataclass(frozen=True)
class Batch:
    """A packed batch; all tensors are int64 [1, T] unless said.

    Attributes:
        ids: example ids, in order.
        cu_seq_lens: int32 [documents + 1].
        max_length: tokens of the longest document.
        prefix_documents: int64 [documents], the earlier document that each continues or -1; None: no document does.
        own_documents: int64 [examples], the document that holds each example's own tokens.
    """

    ids: tuple[str, ...]
    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    cu_seq_lens: torch.Tensor
    max_length: int
    prefix_documents: torch.Tensor | None
    own_documents: torch.Tensor

    @cached_property
    def num_targets(self) -> int:
        """Tokens that carry loss."""
        return int((self.labels != IGNORE).sum())

    @property
    def num_tokens(self) -> int:
        """All tokens, T."""
        return self.input_ids.shape[1]

    def inputs(self, device: torch.device | str = "cpu") -> dict[str, object]:
        """Keyword arguments of the model's forward, without labels."""
        cu = self.cu_seq_lens.to(device)
        inputs: dict[str, object] = {
            "input_ids": self.input_ids.to(device), "position_ids": self.position_ids.to(device), "use_cache": False,
            "cu_seq_lens_q": cu, "cu_seq_lens_k": cu, "max_length_q": self.max_length, "max_length_k": self.max_length,
        }  # fmt: skip
        return inputs if self.prefix_documents is None else {**inputs, "prefix_documents": self.prefix_documents}


def collate(examples: Sequence[Tokens | Family]) -> Batch:
    """Lay documents end to end. The first token of a text is never a target (nothing precedes it)."""
    ids: list[str] = []
    ends = [0]
    input_ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    prefixes: list[int] = []
    own: list[int] = []
    for item in examples:
        family = item if isinstance(item, Family) else Family((item,))
        stem = len(prefixes) if family.prefix else -1
        for document in family.documents():
            continues = stem >= 0 and len(prefixes) > stem
            start = family.prefix if continues else 0
            input_ids += document.input_ids
            labels += document.labels if continues else [IGNORE, *document.labels[1:]]
            positions += range(start, start + len(document.input_ids))
            ends.append(len(input_ids))
            if continues or stem < 0:
                own.append(len(prefixes))
                ids.append(document.id)
            prefixes.append(stem if continues else -1)
    return Batch(
        ids=tuple(ids),
        input_ids=torch.tensor([input_ids]),
        labels=torch.tensor([labels]),
        position_ids=torch.tensor([positions]),
        cu_seq_lens=torch.tensor(ends, dtype=torch.int32),
        max_length=max(end - start for start, end in itertools.pairwise(ends)),
        prefix_documents=torch.tensor(prefixes) if max(prefixes) >= 0 else None,
        own_documents=torch.tensor(own),
    )


def find_families(tokens: Sequence[Tokens], tokens_per_batch: int) -> list[Family]:
    """Gather examples that share at least half of their tokens, all of them before the first target; every example is in
    one family, and a family of several fits a batch.

    Half, because less gains little: it would put examples together, batch after batch, for the template they all begin with.
    """
    families: list[Family] = []
    places: list[int] = []  # of each family's first example
    for place, item in sorted(enumerate(tokens), key=lambda pair: pair[1].input_ids):
        joined = _join(families[-1], item) if families else None
        if joined is not None and joined.num_tokens <= tokens_per_batch:
            families[-1], places[-1] = joined, min(places[-1], place)
        else:
            families.append(Family((item,)))
            places.append(place)
    return [families[i] for i in sorted(range(len(families)), key=places.__getitem__)]


def _join(family: Family, item: Tokens) -> Family | None:
    """The family with one more example, or None where that would cost more than it saves."""
    pairs = zip(family.members[0].input_ids, item.input_ids, strict=False)
    prefix = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    prefix = min(prefix, item.prompt_length, *(member.prompt_length for member in family.members))
    joined = Family((*family.members, item), min(prefix, family.prefix or prefix))
    if any(2 * joined.prefix < len(member.input_ids) for member in joined.members):
        return None
    return joined if joined.num_tokens < family.num_tokens + len(item.input_ids) else None


def pack(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Best fit in the given order: every document goes into the fullest batch that still holds it; a longer one than
    `tokens_per_batch` is a batch of its own. Returns indices, batch by batch.

    The order stays random on purpose. Sorting by length (best-fit decreasing) packs a little tighter, but then a batch
    holds texts of one kind: all long ones, all of one language, and its gradient speaks for that kind alone.

    >>> pack([3, 5, 2, 4], 7)
    [[0, 3], [1, 2]]
    """
    batches: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free tokens, batch), sorted
    for index, length in enumerate(lengths):
        at = bisect.bisect_left(rooms, (length, -1))
        if at < len(rooms):
            room, batch = rooms.pop(at)
            batches[batch].append(index)
        else:
            room, batch = tokens_per_batch, len(batches)
            batches.append([index])
        bisect.insort(rooms, (room - length, batch))
    return batches


def plan_epoch(lengths: Sequence[int], tokens_per_batch: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, in order: examples shuffled and packed, then the batches shuffled."""
    shuffle = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    batches = [[order[i] for i in batch] for batch in pack([lengths[i] for i in order], tokens_per_batch)]
    shuffle.shuffle(batches)
    return batches


def plan_steps(
    lengths: Sequence[int], tokens_per_batch: int, seed: int, batches_per_step: int
) -> Iterator[list[list[list[int]]]]:
    """Epoch after epoch without end: the optimizer steps of an epoch, each a list of at most `batches_per_step` batches."""
    epoch = 0
    while True:
        batches = plan_epoch(lengths, tokens_per_batch, seed, epoch)
        yield [batches[i : i + batches_per_step] for i in range(0, len(batches), batches_per_step)]
        epoch += 1
