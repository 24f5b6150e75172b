"""The plan of a stream: chunks become windows, and each window is planned as an epoch is.

    chunks    [          ][          ][          ] ...        of `stream.Stream`
    windows   [          window 0           ][ ...            chunks of at least 256 batches' tokens, and 8 steps'
    steps     | | | | | | | | | | | | | | | | | | ...         shuffled and packed within the window

A checkpoint keeps where the present window begins and how many of its steps are done; on resume that window alone is made
again. One window is in memory, with workers the next one too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from llama_tasks.dataset.stream import Stream
from llama_tasks.errors import DataError
from llama_tasks.packing.plan import MemoryPlan, Plan, Step, families_of, plan_epoch, steps_of
from llama_tasks.recipe import TrainConfig
from llama_tasks.sources import Position
from llama_tasks.tokens import Tokens

WINDOW = 256  # batches' tokens in a window: its last batch, half empty on average, costs 0.2% of fill
# Optimizer steps' tokens in a window at least: its last step holds what is left, so one in some nine is short.
STEPS = 8
Window = tuple[list[Tokens], Position | None, Position]  # with the positions before and behind it


@dataclass
class StreamPlan:
    """The optimizer steps of a stream: `max_steps` of them, epoch after epoch."""

    stream: Stream
    config: TrainConfig
    batches_per_step: int

    @property
    def saved(self) -> float:
        """0: not known before the rows have come."""
        return 0.0

    @property
    def total_steps(self) -> int:
        """`train.max_steps`; the length of a stream is not known."""
        return self.config.max_steps

    @property
    def room(self) -> int:
        """Tokens of a window."""
        return max(WINDOW, STEPS * self.batches_per_step) * self.config.tokens_per_batch

    def read(self, done: int, position: Mapping[str, Any]) -> Iterator[Step]:
        """The steps after the first `done` ones; `position` is that of the last of them."""
        return itertools.islice(self._endless(position), self.total_steps - done)

    def _endless(self, position: Mapping[str, Any]) -> Iterator[Step]:
        epoch, skip = position.get("epoch", 0), position.get("steps", 0)
        start = Position.from_json(position["start"]) if position.get("start") else None
        while True:
            empty = start is None
            windows = _windows(self.stream.read(epoch, start), start, self.room)
            for tokens, start, after in _ahead(windows) if self.stream.num_workers else windows:
                empty = False
                yield from itertools.islice(self._window(epoch, tokens, start, after), skip, None)
                skip = 0
            if empty:
                raise DataError("The stream of training rows gave no example.")
            epoch, start = epoch + 1, None

    def _window(self, epoch: int, tokens: list[Tokens], start: Position | None, after: Position) -> Iterator[Step]:
        families, _ = families_of(tokens, self.config)
        lengths = [family.num_tokens for family in families]
        drawn = start.drawn if start else 0
        batches = plan_epoch(lengths, self.config.tokens_per_batch, self.config.seed, f"{epoch}/{drawn}")
        steps = steps_of(batches, self.batches_per_step)
        for number, step in enumerate(steps, 1):
            here, count = (start, number) if number < len(steps) else (after, 0)
            place = {"epoch": epoch, "start": here.to_json() if here else None, "steps": count}
            yield Step(float(epoch), [[families[i] for i in batch] for batch in step], place)


def _windows(chunks: Iterator[tuple[list[Tokens], Position]], start: Position | None, size: int) -> Iterator[Window]:
    """Chunks gathered to windows of at least `size` tokens."""
    window: list[Tokens] = []
    room = size
    after = start
    for tokens, after in chunks:
        window += tokens
        room -= sum(len(item.input_ids) for item in tokens)
        if room <= 0:
            yield window, start, after
            window, room, start = [], size, after
    if window and after is not None:
        yield window, start, after


def _ahead(windows: Iterator[Window]) -> Iterator[Window]:
    """The same, each made while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, windows, None)
        while (window := coming.result()) is not None:
            coming = pool.submit(next, windows, None)
            yield window


def make_plan(data: Sequence[Tokens] | Stream, config: TrainConfig, batches_per_step: int) -> Plan:
    """The plan of examples at hand, or of a stream."""
    if isinstance(data, Stream):
        return StreamPlan(data, config, batches_per_step)
    return MemoryPlan(data, config, batches_per_step)
