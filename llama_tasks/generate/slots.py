"""Decoding by slots: rows that have ended leave, waiting ones enter, what prompts begin with in common is computed once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from llama_tasks.generate.sampling import Chooser
from llama_tasks.model import NativeLlamaForCausalLM
from llama_tasks.model.decoding import Decoder
from llama_tasks.packing import collate
from llama_tasks.packing.plan import find_families
from llama_tasks.recipe import Suite
from llama_tasks.tokens import Tokens

# Steps between looks at what was decoded. A look makes a GPU wait for the CPU; a text that has ended goes on until the next.
STEPS_PER_LOOK = {"cpu": 1, "other": 8}
HELD = 4  # times `tokens_per_batch`: slots for so many tokens. Outputs end early, and products of few rows are slow.
REFILL = 8  # prompts enter as soon as one in so many slots is free: entering costs about as much as a step


def decode_by_slots(
    model: NativeLlamaForCausalLM,
    prompts: Sequence[list[int]],
    ends: Sequence[int],
    suite: Suite,
    names: Sequence[str] | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """(index, new ids) of every prompt, as they end: to the first of `ends` (which is among the ids) or the suite's limit.

    names: of the rows, for their random numbers; left out: their indices.
    Call it under `inference_mode`, with a model in evaluation mode for which `can_decode` holds.
    """
    steps = STEPS_PER_LOOK.get(model.device.type, STEPS_PER_LOOK["other"])
    names = names or [str(i) for i in range(len(prompts))]
    for queue in _octaves([len(ids) + suite.max_new_tokens for ids in prompts]):
        places = len(prompts[queue[0]]) + suite.max_new_tokens + steps
        rows = min(len(queue), max(1, HELD * suite.tokens_per_batch // places))
        yield from _Stream(Decoder(model, rows, places), prompts, names, queue, ends, suite, steps).run()


def _octaves(lengths: Sequence[int]) -> list[list[int]]:
    """Indices by falling length, cut where the length has halved: slots are as long as the longest text they may hold."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or 2 * lengths[index] <= lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(index)
    return groups


@dataclass
class _Row:
    """A text in the making: the index of its prompt, and its new ids."""

    index: int
    ids: list[int] = field(default_factory=list)


class _Stream:
    """A queue of prompts through the slots of one decoder."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[list[int]],
        names: Sequence[str],
        queue: Sequence[int],
        ends: Sequence[int],
        suite: Suite,
        steps: int,
    ) -> None:
        self.decoder, self.prompts, self.names, self.queue = decoder, prompts, names, deque(queue)
        self.ends, self.suite, self.steps = set(ends), suite, steps
        self.choose = Chooser(suite, ends, decoder.device)
        self.rows: list[_Row] = []  # as in the decoder's slots
        self.newest = torch.empty(0, dtype=torch.long, device=decoder.device)

    def run(self) -> Iterator[tuple[int, list[int]]]:
        """Decode until the queue is empty and every row has ended."""
        while self.queue or self.rows:
            if self.queue and self.decoder.free >= min(len(self.queue), -(-self.decoder.slots.rows // REFILL)):
                self._enter()
            pending = [self.newest]
            for _ in range(self.steps - 1):
                pending.append(self.choose(self.decoder.step(pending[-1])))
            yield from self._look(torch.stack(pending, dim=1).tolist())
            if self.rows:
                self.newest = self.choose(self.decoder.step(self.newest))

    def _enter(self) -> None:
        """As many waiting prompts as there is room for; the first token of each."""
        taken: list[int] = []
        total = 0
        while self.queue and len(taken) < self.decoder.free:
            total += len(self.prompts[self.queue[0]])
            if taken and total > self.suite.tokens_per_batch:
                break
            taken.append(self.queue.popleft())
        items = [Tokens(str(i), self.prompts[i], len(self.prompts[i])) for i in taken]
        batch = collate(find_families(items, self.suite.tokens_per_batch))
        bounds = batch.cu_seq_lens.tolist()
        prefixes = [-1] * len(bounds) if batch.prefix_documents is None else batch.prefix_documents.tolist()
        texts = [
            [(bounds[d], bounds[d + 1]) for d in (prefixes[document], document) if d >= 0 and bounds[d] < bounds[d + 1]]
            for document in batch.own_documents.tolist()
        ]
        logits = self.decoder.enter(batch.inputs(self.decoder.device), texts, [spans[-1][1] - 1 for spans in texts])
        entered = [int(name) for name in batch.ids]
        self.choose.enter([self.names[i] for i in entered], [self.prompts[i] for i in entered])
        self.newest = torch.cat((self.newest, self.choose(logits, first=len(self.rows))))
        self.rows += map(_Row, entered)

    def _look(self, columns: list[list[int]]) -> Iterator[tuple[int, list[int]]]:
        """Note the ids decoded since the last look; rows that have ended leave their slots."""
        stay = list(range(len(self.rows)))
        for slot in reversed(range(len(self.rows))):
            row = self.rows[slot]
            row.ids += columns[slot]
            if self.ends.isdisjoint(columns[slot]) and len(row.ids) < self.suite.max_new_tokens:
                continue
            yield row.index, self._to_its_end(row.ids)
            self.decoder.leave(slot)
            self.choose.leave(slot)
            self.rows[slot], stay[slot] = self.rows[-1], stay[-1]
            self.rows.pop()
            stay.pop()
        self.newest = torch.tensor([columns[i][-1] for i in stay], device=self.decoder.device, dtype=torch.long)

    def _to_its_end(self, ids: list[int]) -> list[int]:
        """Without what was decoded behind the end, before the look that found it."""
        end = next((i + 1 for i, token in enumerate(ids) if token in self.ends), len(ids))
        return ids[: min(end, self.suite.max_new_tokens)]
