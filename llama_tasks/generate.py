"""Decoding: prompts as ids in, outputs in the same order out.

The native model decodes greedily by slots (`model/decoding.py`): rows that have ended leave, waiting ones enter, what prompts
begin with in common is computed once. Everything else (beams, other models) goes through transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from llama_tasks.model import NativeLlamaForCausalLM
from llama_tasks.model.decoding import Decoder, can_decode
from llama_tasks.packing import collate
from llama_tasks.parallel import is_spread
from llama_tasks.plan import find_families
from llama_tasks.recipe import Suite
from llama_tasks.tokens import Encoder, Tokens

# Steps between looks at what was decoded. A look makes a GPU wait for the CPU; a text that has ended goes on until the next.
STEPS_PER_LOOK = {"cpu": 1, "other": 8}
REFILL = 8  # prompts enter as soon as one in so many slots is free: entering costs about as much as a step


@dataclass(frozen=True)
class Output:
    """One generated text; `finish` is `stop` when the model ended it with EOS, `length` when it ran into the limit."""

    text: str
    finish: Literal["stop", "length"]
    tokens: int


@torch.inference_mode()
def generate(model: Any, encoder: Encoder, prompts: Sequence[list[int]], suite: Suite) -> list[Output]:
    """Decode every prompt (greedy, or beam search where the suite says so).

    At most `suite.tokens_per_batch` tokens, new ones counted in, are held at a time.
    """
    ends = stop_ids(model, encoder)
    outputs: list[Output | None] = [None] * len(prompts)
    was_training = model.training
    model.eval()
    native = _native(model) if suite.num_beams == 1 else None
    decoded = (
        _by_batches(model, encoder, prompts, suite) if native is None else decode_by_slots(native, prompts, ends, suite)
    )
    for index, ids in decoded:
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        stopped, ids = end is not None, ids[:end]
        text = encoder.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        outputs[index] = Output(text, "stop" if stopped else "length", len(ids) + stopped)
    model.train(was_training)
    return [output for output in outputs if output is not None]


def stop_ids(model: Any, encoder: Encoder) -> list[int]:
    """Every token that ends an output: the tokenizer's EOS, and those that the base names besides (Llama 3 has several)."""
    named = model.generation_config.eos_token_id
    named = [named] if isinstance(named, int) else named or []
    return sorted({*encoder.eos, *named})


def _native(model: Any) -> NativeLlamaForCausalLM | None:
    """The native model inside, where it can be decoded by slots: an adapter may change its layers, but not its inputs."""
    if any(getattr(config, "is_prompt_learning", False) for config in getattr(model, "peft_config", {}).values()):
        return None
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    decodes = isinstance(inner, NativeLlamaForCausalLM) and can_decode(inner) and not is_spread(inner)
    return inner if decodes else None


# --- by slots -------------------------------------------------------------------------------------------------------


def decode_by_slots(
    model: NativeLlamaForCausalLM, prompts: Sequence[list[int]], ends: Sequence[int], suite: Suite
) -> Iterator[tuple[int, list[int]]]:
    """(index, new ids) of every prompt, as they end: greedy, to the first of `ends` (which is among the ids) or the suite's limit.

    Call it under `inference_mode`, with a model in evaluation mode for which `can_decode` holds.
    """
    steps = STEPS_PER_LOOK.get(model.device.type, STEPS_PER_LOOK["other"])
    for queue in _octaves([len(ids) + suite.max_new_tokens for ids in prompts]):
        places = len(prompts[queue[0]]) + suite.max_new_tokens + steps
        rows = min(len(queue), max(1, suite.tokens_per_batch // places))
        stream = _Stream(Decoder(model, rows, places), prompts, queue, ends, suite, steps)
        yield from stream.run()


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
        queue: list[int],
        ends: Sequence[int],
        suite: Suite,
        steps: int,
    ) -> None:
        self.decoder, self.prompts, self.queue = decoder, prompts, queue
        self.ends, self.suite, self.steps = set(ends), suite, steps
        self.rows: list[_Row] = []  # as in the decoder's slots
        self.newest = torch.empty(0, dtype=torch.long, device=decoder.device)

    def run(self) -> Iterator[tuple[int, list[int]]]:
        """Decode until the queue is empty and every row has ended."""
        while self.queue or self.rows:
            if self.queue and self.decoder.free >= min(len(self.queue), -(-self.decoder.slots.rows // REFILL)):
                self._enter()
            pending = [self.newest]
            for _ in range(self.steps - 1):
                pending.append(self.decoder.step(pending[-1]).argmax(-1))
            yield from self._look(torch.stack(pending, dim=1).tolist())
            if self.rows:
                self.newest = self.decoder.step(self.newest).argmax(-1)

    def _enter(self) -> None:
        """As many waiting prompts as there is room for; the first token of each."""
        taken: list[int] = []
        total = 0
        while self.queue and len(taken) < self.decoder.free:
            total += len(self.prompts[self.queue[0]])
            if taken and total > self.suite.tokens_per_batch:
                break
            taken.append(self.queue.pop(0))
        items = [Tokens(str(i), self.prompts[i], len(self.prompts[i])) for i in taken]
        batch = collate(find_families(items, self.suite.tokens_per_batch))
        bounds = batch.cu_seq_lens.tolist()
        prefixes = [-1] * len(bounds) if batch.prefix_documents is None else batch.prefix_documents.tolist()
        texts = [
            [(bounds[d], bounds[d + 1]) for d in (prefixes[document], document) if d >= 0 and bounds[d] < bounds[d + 1]]
            for document in batch.own_documents.tolist()
        ]
        logits = self.decoder.enter(batch.inputs(self.decoder.device), texts, [spans[-1][1] - 1 for spans in texts])
        self.rows += [_Row(int(name)) for name in batch.ids]
        self.newest = torch.cat((self.newest, logits.argmax(-1)))

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
            self.rows[slot], stay[slot] = self.rows[-1], stay[-1]
            self.rows.pop()
            stay.pop()
        self.newest = torch.tensor([columns[i][-1] for i in stay], device=self.decoder.device, dtype=torch.long)

    def _to_its_end(self, ids: list[int]) -> list[int]:
        """Without what was decoded behind the end, before the look that found it."""
        end = next((i + 1 for i, token in enumerate(ids) if token in self.ends), len(ids))
        return ids[: min(end, self.suite.max_new_tokens)]


# --- by transformers' generate --------------------------------------------------------------------------------------


def _by_batches(
    model: Any, encoder: Encoder, prompts: Sequence[list[int]], suite: Suite
) -> Iterator[tuple[int, list[int]]]:
    """(index, new ids) of every prompt, batch by batch; padding is on the left, and it is ours."""
    from transformers import GenerationConfig

    pad = encoder.tokenizer.pad_token_id if encoder.tokenizer.pad_token_id is not None else encoder.eos[0]
    config = GenerationConfig(
        max_new_tokens=suite.max_new_tokens,
        num_beams=suite.num_beams,
        do_sample=False,
        eos_token_id=stop_ids(model, encoder),
        pad_token_id=pad,
    )
    for batch in _batches([len(ids) for ids in prompts], suite):
        rows = [prompts[i] for i in batch]
        width = max(len(ids) for ids in rows)
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows], device=model.device)
        made = model.generate(input_ids=input_ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
        yield from zip(batch, made, strict=True)


def _batches(lengths: Sequence[int], suite: Suite) -> Iterator[list[int]]:
    """Indices by falling length, cut so that rows x (longest + new tokens) x beams stays within the budget."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batch[0]] if batch else lengths[index]
        if batch and (len(batch) + 1) * (longest + suite.max_new_tokens) * suite.num_beams > suite.tokens_per_batch:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
