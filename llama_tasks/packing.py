"""Tokens -> Batch: documents lie end to end in one row, with no padding token anywhere.

    documents     [a0 a1 a2 a3]  [b0 b1]  [c0 c1 c2]
    input_ids      a0 a1 a2 a3    b0 b1    c0 c1 c2        [1, T]
    position_ids    0  1  2  3     0  1     0  1  2        restart at each document
    cu_seq_lens   0             4        6          9      where documents begin and end

Attention stays inside a document (the model reads `cu_seq_lens`), so a packed batch is the same mathematics as one
document at a time. A document may continue an earlier one of the batch (the choices of one question, say): then that
one is its prefix, computed once, and its positions go on from there. Which batches exist depends on the seed and the
lengths alone, not on how many processes train.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from llama_tasks.tokens import IGNORE, Tokens


@dataclass(frozen=True)
class Batch:
    """A packed batch; all tensors are int64 [1, T] unless said.

    Attributes:
        ids: example ids, in order.
        cu_seq_lens: int32 [documents + 1].
        max_length: tokens of the longest document.
        prefix_documents: int64 [documents], the earlier document that each continues or -1; None: no document does.
    """

    ids: tuple[str, ...]
    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    cu_seq_lens: torch.Tensor
    max_length: int
    prefix_documents: torch.Tensor | None = None

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


def collate(tokens: Sequence[Tokens], prefixes: Sequence[int] | None = None) -> Batch:
    """Lay documents end to end; `prefixes` names for each the index of one before it that it continues, or -1.

    The first token of a document that continues none is never a target (nothing precedes it).
    """
    ends = [0]
    input_ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []  # of the text up to the end of each document
    for item, prefix in zip(tokens, prefixes or [-1] * len(tokens), strict=True):
        start = lengths[prefix] if prefix >= 0 else 0
        input_ids += item.input_ids
        labels += item.labels if start else [IGNORE, *item.labels[1:]]
        positions += range(start, start + len(item.input_ids))
        lengths.append(start + len(item.input_ids))
        ends.append(len(input_ids))
    return Batch(
        ids=tuple(item.id for item in tokens),
        input_ids=torch.tensor([input_ids]),
        labels=torch.tensor([labels]),
        position_ids=torch.tensor([positions]),
        cu_seq_lens=torch.tensor(ends, dtype=torch.int32),
        max_length=max(len(item.input_ids) for item in tokens),
        prefix_documents=torch.tensor(prefixes) if prefixes and max(prefixes) >= 0 else None,
    )


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
