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
        return [
            replace(first, input_ids=first.input_ids[:p], prompt_length=p, ignored=()),
            *(_from(m, p) for m in self.members),
        ]


def _from(item: Tokens, start: int) -> Tokens:
    """The example from one of its prompt's tokens on."""
    ignored = tuple((begin - start, end - start) for begin, end in item.ignored)
    return replace(item, input_ids=item.input_ids[start:], prompt_length=item.prompt_length - start, ignored=ignored)


@dataclass(frozen=True)
class Batch:
    """A packed batch; all tensors are int64 [1, T] unless said.

    Attributes:
        ids: example ids, in order.
        cu_seq_lens: int32 [documents + 1].
        max_length: tokens of the longest document.
        prefix_documents: int64 [documents], the earlier document that each continues or -1; None: no document does.
        own_documents: int64 [examples], the document that holds each example's own tokens.
        loss_weights: float32 [1, T], the weight of each token's loss; None: all are 1.
    """

    ids: tuple[str, ...]
    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    cu_seq_lens: torch.Tensor
    max_length: int
    prefix_documents: torch.Tensor | None
    own_documents: torch.Tensor
    loss_weights: torch.Tensor | None = None

    @cached_property
    def num_targets(self) -> int:
        """Tokens that carry loss."""
        return int((self.labels != IGNORE).sum())

    @cached_property
    def target_weight(self) -> float:
        """Sum of the weights of the tokens that carry loss: their number, where all weights are 1."""
        if self.loss_weights is None:
            return self.num_targets
        return float(self.loss_weights.double()[self.labels != IGNORE].sum())

    @property
    def num_tokens(self) -> int:
        """All tokens, T."""
        return self.input_ids.shape[1]

    def without_targets(self) -> Batch:
        """The same tokens, of which none carries loss."""
        return replace(self, labels=torch.full_like(self.labels, IGNORE))

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
    weights: list[float] = []
    for item in examples:
        family = item if isinstance(item, Family) else Family((item,))
        stem = len(prefixes) if family.prefix else -1
        for document in family.documents():
            continues = stem >= 0 and len(prefixes) > stem
            start = family.prefix if continues else 0
            input_ids += document.input_ids
            labels += document.labels if continues else [IGNORE, *document.labels[1:]]
            positions += range(start, start + len(document.input_ids))
            weights += [document.weight] * len(document.input_ids)
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
        loss_weights=torch.tensor([weights]) if any(weight != 1.0 for weight in weights) else None,
    )


CANDIDATES = 24  # documents that are tried as one of the last two of a batch


def pack(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Gather documents of `lengths` tokens into batches; one longer than `tokens_per_batch` is a batch of its own. Returns
    indices, batch by batch.

    A batch begins with the longest document that is left, goes on with the next ones in the given order while two of
    mean length still fit, and ends with the one or two that fill its room best:

        | longest left | in the given order ............ | best pair |

    So a batch is as mixed as the given order is, and filled to the brim all the same: the long documents leave first, as
    in best-fit decreasing, but each begins a batch instead of joining its like.

    >>> pack([3, 5, 2, 4], 7)
    [[1, 2], [3, 0]]
    """
    waiting = _Waiting(lengths)
    keep = 2 * sum(lengths) / max(len(lengths), 1)
    batches = []
    while waiting.sizes:
        batch = [waiting.take(waiting.sizes[-1])]
        room = tokens_per_batch - lengths[batch[0]]
        while room > keep and 0 < (size := waiting.next_size()) <= room:
            batch.append(waiting.take(size))
            room -= size
        while sizes := _best_pair(waiting, room):
            batch += [waiting.take(size) for size in sizes]
            room -= sum(sizes)
        batches.append(batch)
    return batches


class _Waiting:
    """Documents that are in no batch yet, in their order and by length."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths
        self.taken = bytearray(len(lengths))
        self.order = (i for i in range(len(lengths)) if not self.taken[i])
        self.first: list[int] = []  # what `order` has given and nobody has taken
        self.of_size: dict[int, list[int]] = {}  # indices, the first in order last
        for i in range(len(lengths) - 1, -1, -1):
            self.of_size.setdefault(lengths[i], []).append(i)
        self.sizes = sorted(self.of_size)

    def take(self, size: int) -> int:
        """The first document of this length; it waits no longer."""
        same = self.of_size[size]
        index = same.pop()
        self.taken[index] = 1
        if not same:
            self.sizes.pop(bisect.bisect_left(self.sizes, size))
        return index

    def next_size(self) -> int:
        """Length of the first document in order, 0 where none is left."""
        while self.first and self.taken[self.first[0]]:
            del self.first[0]
        if not self.first:
            self.first += itertools.islice(self.order, 1)
        return self.lengths[self.first[0]] if self.first else 0

    def upcoming(self) -> Iterator[int]:
        """Lengths of the first documents in order."""
        self.first = [i for i in self.first if not self.taken[i]]
        self.first += itertools.islice(self.order, max(0, CANDIDATES - len(self.first)))
        return map(self.lengths.__getitem__, self.first)

    def at_most(self, room: int) -> int:
        """The greatest length that fits, or 0."""
        place = bisect.bisect_right(self.sizes, room)
        return self.sizes[place - 1] if place else 0


def _best_pair(waiting: _Waiting, room: int) -> tuple[int, ...]:
    """Lengths of the one or two documents that leave least of the room; nothing where none fits."""
    filled = waiting.at_most(room)
    best: tuple[int, ...] = (filled,) if filled else ()
    if filled in (0, room):
        return best
    sizes = waiting.sizes
    for size in waiting.upcoming():
        place = bisect.bisect_right(sizes, room - size)  # `at_most`, written out: this is the innermost loop of a plan
        other = sizes[place - 1] if place else 0
        if other and size + other > filled and (size != other or len(waiting.of_size[size]) > 1):
            best, filled = (size, other), size + other
            if filled == room:
                break
    return best
